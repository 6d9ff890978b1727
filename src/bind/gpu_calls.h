/* What the driver says of GPUs: rows of _core's table. With the GIL. */
#ifndef LOWTIDE_BIND_GPU_CALLS_H
#define LOWTIDE_BIND_GPU_CALLS_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

PyObject *core_gpu(PyObject *module, PyObject *args);
PyObject *core_gpu_append(PyObject *module, PyObject *args);

/* clang-format off */
#define GPU_CALLS \
    {"gpu", core_gpu, METH_NOARGS, PyDoc_STR("gpu() -> [(device, name, process bytes or None, used, total)]")}, \
    {"gpu_append", core_gpu_append, METH_VARARGS, PyDoc_STR("gpu_append(fd, [(device, name, note, bytes)]), behind the recording that fd is")}
/* clang-format on */

#endif
