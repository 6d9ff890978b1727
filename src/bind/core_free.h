/* lowtide._core's calls for giving memory back and for the ledger. All are called with the GIL held. */
#ifndef LOWTIDE_BIND_CORE_FREE_H
#define LOWTIDE_BIND_CORE_FREE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

/* free_step(name, dry_run) -> (returned_bytes, note); name: "pymalloc" or "malloc". */
PyObject *core_free_step(PyObject *module, PyObject *args);
/* ledger() -> (rss_bytes, swap_bytes, huge_page_bytes, [(name, bytes, returnable_bytes, note), …]) */
PyObject *core_ledger(PyObject *module, PyObject *unused);
/* rss_bytes() -> int, as /proc/self/statm has it. */
PyObject *core_rss_bytes(PyObject *module, PyObject *unused);

#define FREE_CALLS                                                                                 \
    {"free_step", core_free_step, METH_VARARGS,                                                    \
     PyDoc_STR("free_step(name, dry_run) -> (returned_bytes, note)")},                             \
        {"ledger", core_ledger, METH_NOARGS,                                                       \
         PyDoc_STR("ledger() -> (rss_bytes, swap_bytes, huge_page_bytes, lines)")},                \
    {                                                                                              \
        "rss_bytes", core_rss_bytes, METH_NOARGS, PyDoc_STR("rss_bytes() -> int")                  \
    }

#endif
