/* The allocation profile from inside, for lowtide.start and lowtide.stop: rows of _core's table. All need the GIL. */
#ifndef LOWTIDE_BIND_PROFILE_CALLS_H
#define LOWTIDE_BIND_PROFILE_CALLS_H

PyObject *core_profile_start(PyObject *module, PyObject *args);
PyObject *core_profile_stop(PyObject *module, PyObject *args);
PyObject *core_profile_mark(PyObject *module, PyObject *args);

/* clang-format off */
#define PROFILE_CALLS \
    {"profile_start", core_profile_start, METH_VARARGS, PyDoc_STR("profile_start(exact, interval_bytes, native)")}, \
    {"profile_stop", core_profile_stop, METH_VARARGS, PyDoc_STR("profile_stop(fd, heap): heap: fd holds the captured heap already")}, \
    {"profile_mark", core_profile_mark, METH_VARARGS, PyDoc_STR("profile_mark(text)")}
/* clang-format on */

#endif
