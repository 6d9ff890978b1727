/* The watch over memory, for lowtide.limit: rows of _core's table. Needs the GIL, and lets go of it while it waits. */
#ifndef LOWTIDE_BIND_LIMIT_CALLS_H
#define LOWTIDE_BIND_LIMIT_CALLS_H

PyObject *core_limit_parse(PyObject *module, PyObject *args);
PyObject *core_limit_open(PyObject *module, PyObject *args);
PyObject *core_limit_wait(PyObject *module, PyObject *args);
PyObject *core_limit_acted(PyObject *module, PyObject *args);
PyObject *core_limit_read(PyObject *module, PyObject *args);
PyObject *core_limit_stop(PyObject *module, PyObject *args);
PyObject *core_limit_sleep(PyObject *module, PyObject *args);
PyObject *core_limit_peak(PyObject *module, PyObject *args);
PyObject *core_report(PyObject *module, PyObject *args);
PyObject *core_reserve(PyObject *module, PyObject *args);

/* clang-format off */
#define LIMIT_CALLS \
    {"limit_parse", core_limit_parse, METH_VARARGS, PyDoc_STR("limit_parse(text) -> (bytes, total)")}, \
    {"limit_open", core_limit_open, METH_VARARGS, PyDoc_STR("limit_open(bytes, max_time_share) -> watch")}, \
    {"limit_wait", core_limit_wait, METH_VARARGS, PyDoc_STR("limit_wait(watch, near) -> state; () when caches may grow again; None once stopped")}, \
    {"limit_acted", core_limit_acted, METH_VARARGS, PyDoc_STR("limit_acted(watch, state, took_ns, light) -> freed bytes")}, \
    {"limit_read", core_limit_read, METH_VARARGS, PyDoc_STR("limit_read(watch) -> state")}, \
    {"limit_stop", core_limit_stop, METH_VARARGS, PyDoc_STR("limit_stop(watch)")}, \
    {"limit_sleep", core_limit_sleep, METH_VARARGS, PyDoc_STR("limit_sleep(watch, seconds) -> False once stopped")}, \
    {"limit_peak", core_limit_peak, METH_VARARGS, PyDoc_STR("limit_peak(watch) -> highest RSS until stopped")}, \
    {"report", core_report, METH_VARARGS, PyDoc_STR("report(error, place): to sys.unraisablehook")}, \
    {"reserve", core_reserve, METH_VARARGS, PyDoc_STR("reserve(bytes) -> memory set aside until its last reference goes")}
/* clang-format on */

#endif
