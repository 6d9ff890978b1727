/* lowtide._core: a capture from inside, for the package. Limited C API of 3.11, so that one build serves every Python. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "agent/capture.h"
#include "bind/born.h"
#include "bind/core_free.h"
#include "bind/gpu_calls.h"
#include "bind/limit_calls.h"
#include "bind/profile_calls.h"
#include "bind/trace_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <time.h>

static rt_t runtime;

typedef struct call {
    PyThreadState *saved; /* the caller's, while it has let go of the GIL */
} call_t;

static int hold(void *arg, err_t *e) {
    call_t *c = arg;
    (void)e;
    PyEval_RestoreThread(c->saved);
    c->saved = NULL;
    return 0;
}

static void let_go(void *arg) {
    call_t *c = arg;
    c->saved = PyEval_SaveThread();
}

/* Ctrl-C gives up the capture and is raised where it was called for. */
static bool stop(void *arg, int wait_ms) {
    call_t *c = arg;
    struct timespec t = {0, wait_ms * 1000000l};
    if (wait_ms) nanosleep(&t, NULL);
    bool held = !c->saved;
    if (!held) PyEval_RestoreThread(c->saved);
    bool raised = PyErr_CheckSignals() != 0;
    c->saved = held ? NULL : PyEval_SaveThread();
    return raised;
}

static PyObject *raise(const ctl_result_t *r) {
    if (PyErr_Occurred()) return NULL;
    switch (-r->status) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EIO:
    case EPIPE:
    case EBADF: {
        PyObject *args = Py_BuildValue("is", -r->status, r->text);
        if (args) PyErr_SetObject(PyExc_OSError, args);
        Py_XDECREF(args);
        return NULL;
    }
    case ENOMEM:
        PyErr_SetString(PyExc_MemoryError, r->text);
        return NULL;
    default:
        PyErr_SetString(PyExc_RuntimeError, r->text);
        return NULL;
    }
}

static PyObject *core_capture(PyObject *module, PyObject *args) {
    int fd, values;
    err_t e;
    ctl_result_t result = {0};
    static bool busy;
    (void)module;
    if (!PyArg_ParseTuple(args, "ip:capture", &fd, &values)) return NULL;
    if (busy) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is capturing this process");
        return NULL;
    }
    int status = runtime.layout ? 0 : rt_find(&runtime, &e);
    if (status) {
        PyErr_SetString(PyExc_RuntimeError, e.text);
        return NULL;
    }
    int out = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (out < 0) return PyErr_SetFromErrno(PyExc_OSError);
    call_t call = {0};
    capture_t c = {.rt = &runtime,
                   .fd = out,
                   .peer = -1,
                   .flags = values ? 0 : CTL_NO_VALUES,
                   .hold = hold,
                   .let_go = let_go,
                   .stop = stop,
                   .arg = &call};
    busy = true;
    let_go(&call);
    status = capture_run(&c, &result);
    hold(&call, NULL);
    busy = false;
    if (status) return raise(&result);
    return Py_BuildValue("KKKKKiz", result.objects, result.references, result.bytes,
                         result.pause_us, result.walk_us, result.mode == CTL_MODE_FORK,
                         result.text[0] ? result.text : NULL);
}

static PyMethodDef methods[] = {
    {"capture", core_capture, METH_VARARGS,
     PyDoc_STR(
         "capture(fd, values) -> (objects, references, bytes, pause_us, walk_us, forked, note)")},
    FREE_CALLS,
    BORN_CALLS,
    GPU_CALLS,
    LIMIT_CALLS,
    PROFILE_CALLS,
    TRACE_CALLS,
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "lowtide._core",
    .m_doc = PyDoc_STR("A capture from inside."),
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&definition);
}
