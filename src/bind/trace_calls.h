/* lowtide._core's calls for lowtide.tracemalloc: agent/trace's figures as the objects that tracemalloc's classes are made of. All are
 * called with the GIL held. */
#ifndef LOWTIDE_BIND_TRACE_CALLS_H
#define LOWTIDE_BIND_TRACE_CALLS_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

PyObject *core_trace_start(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_trace_stop(PyObject *module, PyObject *unused);
PyObject *core_trace_is_on(PyObject *module, PyObject *unused);
PyObject *core_trace_limit(PyObject *module, PyObject *unused);
PyObject *core_trace_memory(PyObject *module, PyObject *unused);
PyObject *core_trace_reset_peak(PyObject *module, PyObject *unused);
PyObject *core_trace_clear(PyObject *module, PyObject *unused);
PyObject *core_trace_own_bytes(PyObject *module, PyObject *unused);
PyObject *core_trace_blocks(PyObject *module, PyObject *unused);
PyObject *core_trace_of(PyObject *module, PyObject *object);

/* clang-format off */
#define TRACE_CALLS \
    {"trace_start", (PyCFunction)(void (*)(void))core_trace_start, METH_FASTCALL, \
     PyDoc_STR("trace_start(nframe=1)")}, \
    {"trace_stop", core_trace_stop, METH_NOARGS, PyDoc_STR("trace_stop()")}, \
    {"trace_is_on", core_trace_is_on, METH_NOARGS, PyDoc_STR("trace_is_on() -> bool")}, \
    {"trace_limit", core_trace_limit, METH_NOARGS, PyDoc_STR("trace_limit() -> frames")}, \
    {"trace_memory", core_trace_memory, METH_NOARGS, PyDoc_STR("trace_memory() -> (bytes, peak_bytes)")}, \
    {"trace_reset_peak", core_trace_reset_peak, METH_NOARGS, PyDoc_STR("trace_reset_peak()")}, \
    {"trace_clear", core_trace_clear, METH_NOARGS, PyDoc_STR("trace_clear()")}, \
    {"trace_own_bytes", core_trace_own_bytes, METH_NOARGS, PyDoc_STR("trace_own_bytes() -> int")}, \
    {"trace_blocks", core_trace_blocks, METH_NOARGS, \
     PyDoc_STR("trace_blocks() -> ([(domain, bytes, ((file, line), ...), frames), ...], blocks missed)")}, \
    {"trace_of", core_trace_of, METH_O, PyDoc_STR("trace_of(object) -> ((file, line), ...) or None")}
/* clang-format on */

#endif
