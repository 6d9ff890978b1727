#include "bind/core_free.h"

#include "agent/free/free_steps.h"
#include "agent/ledger/ledger.h"
#include "agent/ledger/resident.h"
#include "base/mem.h"

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

static PyObject *build(const ledger_t *l) {
    PyObject *lines = PyList_New(0);
    for (uint32_t i = 0; lines && i < l->count; i++) {
        const ledger_line_t *line = &l->lines[i];
        PyObject *name = PyUnicode_DecodeFSDefault(line->name);
        PyObject *note = PyUnicode_DecodeFSDefault(line->note);
        PyObject *one = Py_BuildValue("NKKN", name, (unsigned long long)line->bytes,
                                      (unsigned long long)line->returnable_bytes, note);
        if (!one || PyList_Append(lines, one)) Py_CLEAR(lines);
        Py_XDECREF(one);
    }
    PyObject *pins = lines ? PyList_New(0) : NULL;
    for (uint32_t i = 0; pins && i < l->pools.pin_count; i++) {
        const pins_line_t *p = &l->pools.pins[i];
        PyObject *one =
            Py_BuildValue("NKIKK", PyUnicode_DecodeFSDefault(p->type),
                          (unsigned long long)p->objects, (unsigned)p->arenas,
                          (unsigned long long)p->bytes, (unsigned long long)p->returnable_bytes);
        if (!one || PyList_Append(pins, one)) Py_CLEAR(pins);
        Py_XDECREF(one);
    }
    if (!pins) {
        Py_XDECREF(lines);
        return NULL;
    }
    return Py_BuildValue("KKKNN", (unsigned long long)l->rss_bytes,
                         (unsigned long long)l->swap_bytes, (unsigned long long)l->huge_bytes,
                         lines, pins);
}

PyObject *core_ledger(PyObject *module, PyObject *unused) {
    err_t e;
    (void)module;
    (void)unused;
    if (find_python()) return NULL;
    ledger_t *l = mem_map(sizeof *l);
    if (!l) return PyErr_NoMemory();
    PyObject *result = NULL;
    int status = ledger_prepare(l, &runtime, &e);
    if (!status) status = ledger_read_python(l, &runtime, &e);
    if (!status) {
        PyThreadState *saved = PyEval_SaveThread();
        status = ledger_read_system(l, 0, &e);
        PyEval_RestoreThread(saved);
    }
    if (status)
        PyErr_SetString(PyExc_RuntimeError, e.text);
    else
        result = build(l);
    ledger_free(l);
    mem_unmap(l, sizeof *l);
    return result;
}

PyObject *core_rss_bytes(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLongLong(res_rss());
}
