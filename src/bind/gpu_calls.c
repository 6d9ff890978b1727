#include "bind/gpu_calls.h"

#include "collect/gpu.h"

#include <stdio.h>
#include <unistd.h>

PyObject *core_gpu(PyObject *module, PyObject *args) {
    gpu_device_t devices[GPU_DEVICES];
    (void)module;
    (void)args;
    unsigned count = gpu_read(getpid(), devices);
    PyObject *list = PyList_New(0);
    for (unsigned i = 0; list && i < count; i++) {
        const gpu_device_t *d = &devices[i];
        PyObject *bytes =
            d->known ? PyLong_FromUnsignedLongLong(d->process_bytes) : Py_NewRef(Py_None);
        PyObject *row = bytes ? Py_BuildValue("IsNKK", d->index, d->name, bytes,
                                              (unsigned long long)d->used_bytes,
                                              (unsigned long long)d->total_bytes)
                              : NULL;
        if (!row || PyList_Append(list, row)) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

PyObject *core_gpu_append(PyObject *module, PyObject *args) {
    gpu_row_t rows[GPU_DEVICES];
    PyObject *list;
    err_t e;
    int fd;
    (void)module;
    if (!PyArg_ParseTuple(args, "iO:gpu_append", &fd, &list)) return NULL;
    Py_ssize_t count = PyList_Size(list);
    if (count < 0) return NULL;
    if (count > GPU_DEVICES) count = GPU_DEVICES;
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *name, *note;
        unsigned long long bytes;
        PyObject *row = PyList_GetItem(list, i);
        if (!row || !PyArg_ParseTuple(row, "IssK", &rows[i].device, &name, &note, &bytes))
            return NULL;
        rows[i].bytes = bytes;
        snprintf(rows[i].name, sizeof rows[i].name, "%s", name);
        snprintf(rows[i].note, sizeof rows[i].note, "%s", note);
    }
    int status = gpu_append(fd, rows, (unsigned)count, &e);
    if (!status) Py_RETURN_NONE;
    PyObject *why = Py_BuildValue("is", -status, e.text);
    if (why) PyErr_SetObject(PyExc_OSError, why);
    Py_XDECREF(why);
    return NULL;
}
