/* lowtide._keep: the caches, and what lowtide.limit asks of all of them. */
#include "keep/keep_cache.h"
#include "keep/keep_function.h"
#include "keep/keep_refs.h"
#include "keep/keep_size.h"
#include "keep/stream_module.h"
#include "keep/transfer.h"

static PyObject *module_shrink(PyObject *Py_UNUSED(module), PyObject *given) {
    size_t bytes;
    if (keep_parse_bytes(given, "bytes", &bytes) < 0) return NULL;
    return PyLong_FromSize_t(keep_shrink(bytes));
}

static PyObject *module_ceiling(PyObject *Py_UNUSED(module), PyObject *given) {
    size_t bytes;
    if (keep_parse_bytes(given, "bytes", &bytes) < 0) return NULL;
    if (bytes >= (size_t)PY_SSIZE_T_MAX) bytes = SIZE_MAX; /* the agent lifts it by UINT64_MAX */
    keep_ceiling_set(bytes);
    Py_RETURN_NONE;
}

static PyObject *module_total_bytes(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    return PyLong_FromSize_t(keep_total_bytes());
}

static PyObject *module_parse_bytes(PyObject *Py_UNUSED(module), PyObject *const *args,
                                    Py_ssize_t count) {
    size_t bytes;
    const char *name = count == 2 ? PyUnicode_AsUTF8(args[1]) : NULL;
    if (!name) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "parse_bytes(bytes, name)");
        return NULL;
    }
    return keep_parse_bytes(args[0], name, &bytes) < 0 ? NULL : PyLong_FromSize_t(bytes);
}

static PyObject *module_deep_size(PyObject *Py_UNUSED(module), PyObject *object) {
    size_t bytes;
    return keep_deep_size(object, NULL, &bytes) < 0 ? NULL : PyLong_FromSize_t(bytes);
}

static PyObject *module_stop_clock(PyObject *Py_UNUSED(module), PyObject *given) {
    long long ns = PyLong_AsLongLong(given);
    if (ns == -1 && PyErr_Occurred()) return NULL;
    keep_clock_stop(ns);
    return PyLong_FromLongLong(keep_clock_ns());
}

static PyMethodDef module_methods[] = {
    {"shrink", module_shrink, METH_O,
     PyDoc_STR("shrink(bytes)\n--\n\nEvicts from all caches of the process until that many bytes "
               "are let go, least "
               "valuable first; returns the bytes let go.")},
    {"ceiling", module_ceiling, METH_O,
     PyDoc_STR("ceiling(bytes)\n--\n\nAll caches of the process together hold no more than that "
               "from now on; None: no ceiling.")},
    {"total_bytes", module_total_bytes, METH_NOARGS,
     PyDoc_STR("total_bytes()\n--\n\nBytes that all caches of the process hold.")},
    {"parse_bytes", KEEP_METHOD(module_parse_bytes), METH_FASTCALL,
     PyDoc_STR("parse_bytes(bytes, name)\n--\n\nA number of bytes, given as one or as text like "
               "256MiB.")},
    {"deep_size", module_deep_size, METH_O,
     PyDoc_STR("deep_size(object)\n--\n\nBytes of an object with what it leads to, as a cache "
               "counts them.")},
    {"stop_clock", module_stop_clock, METH_O,
     PyDoc_STR(
         "stop_clock(ns)\n--\n\nFor tests: the time is ns from now on; -1 lets the clock go on.")},
    {"stream_cut", stream_module_cut, METH_VARARGS,
     PyDoc_STR("stream_cut(text, want, delimiter)\n--\n\nThe end of the last record within want "
               "bytes, and how many there are.")},
    {"stream_write_back", stream_module_write_back, METH_VARARGS,
     PyDoc_STR("stream_write_back(descriptor, start, bytes)\n--\n\nHas the kernel begin to write "
               "that part of a file to the disk, and does not wait.")},
    {"stream_lines", stream_module_lines, METH_VARARGS,
     PyDoc_STR("stream_lines(text, at, want, as_bytes)\n--\n\n(records, next, strange, blank).")},
    {"stream_rows", stream_module_rows, METH_VARARGS,
     PyDoc_STR("stream_rows(text, at, want, delimiter, header)\n--\n\n(records, next, strange).")},
    {"stream_join", stream_module_join, METH_VARARGS,
     PyDoc_STR("stream_join(records, out)\n--\n\nAppends each str and a newline.")},
    {"stream_pipe", stream_module_pipe, METH_VARARGS,
     PyDoc_STR("stream_pipe(function, iterator)\n--\n\nNone for none, a generator for many.")},
    {"stream_loads", stream_module_loads, METH_VARARGS,
     PyDoc_STR("stream_loads(scan_once, loads)\n--\n\nA quicker loads for lines.")},
    {"stream_dumps", stream_module_dumps, METH_O,
     PyDoc_STR("stream_dumps(encoder)\n--\n\nA function that gives the JSON of a value.")},
    {"send", KEEP_METHOD(transfer_send), METH_FASTCALL,
     PyDoc_STR("send(socket, kind, body, buffers)\n--\n\nA message to another process: large "
               "parts by memfd.")},
    {"receive", transfer_receive, METH_O,
     PyDoc_STR("receive(socket)\n--\n\n(kind, body, buffers) of the next message; None at the "
               "end.")},
    {"region", transfer_region, METH_O,
     PyDoc_STR("region(descriptor)\n--\n\nA read-only buffer of a memfd, which travels as it is.")},
    {"has_blob", KEEP_METHOD(transfer_has_blob), METH_FASTCALL,
     PyDoc_STR("has_blob(object, bytes)\n--\n\nWhether bytes or bytearrays that large are soon "
               "met within it.")},
    {0},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "lowtide._keep", NULL, -1, module_methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__keep(void);

PyMODINIT_FUNC PyInit__keep(void) {
    if (PyType_Ready(&keep_cache_type) < 0 || PyType_Ready(&keep_iter_type) < 0 ||
        PyType_Ready(&keep_flight_type) < 0 || keep_refs_ready() < 0 || keep_function_ready() < 0 ||
        PyType_Ready(&transfer_region_type) < 0 || PyType_Ready(&stream_pipe_type) < 0)
        return NULL;
    PyObject *module = PyModule_Create(&module_def);
    if (!module || PyModule_AddObjectRef(module, "Cache", (PyObject *)&keep_cache_type) < 0 ||
        PyModule_AddObjectRef(module, "CachedFunction", (PyObject *)&keep_function_type) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
