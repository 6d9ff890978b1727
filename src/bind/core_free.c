#include "bind/core_free.h"

#include "agent/free/free_steps.h"
#include "agent/ledger/resident.h"

#include <string.h>

static rt_t runtime;

static int find_python(void) {
    err_t e;
    int status = runtime.layout ? 0 : rt_find(&runtime, &e);
    if (!status && !runtime.proven) status = rt_prove(&runtime, &e);
    if (!status) return 0;
    PyErr_SetString(PyExc_RuntimeError, e.text);
    return -1;
}

PyObject *core_free_step(PyObject *module, PyObject *args) {
    const char *name;
    int dry;
    free_step_t step;
    (void)module;
    if (!PyArg_ParseTuple(args, "sp:free_step", &name, &dry)) return NULL;
    if (strcmp(name, "pymalloc") == 0) {
        if (find_python()) return NULL;
        free_pools(&runtime, dry, 0, &step);
    } else if (strcmp(name, "malloc") == 0) {
        PyThreadState *saved = PyEval_SaveThread();
        free_libc(dry, &step);
        PyEval_RestoreThread(saved);
    } else {
        return PyErr_Format(PyExc_ValueError, "no step is called '%s'", name);
    }
    return Py_BuildValue("Ks", (unsigned long long)step.returned_bytes, step.note);
}

PyObject *core_rss_bytes(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLongLong(res_rss());
}
