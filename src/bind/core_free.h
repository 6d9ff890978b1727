/* lowtide._core's calls for giving memory back and for the ledger. All are called with the GIL held. */
#ifndef LOWTIDE_BIND_CORE_FREE_H
#define LOWTIDE_BIND_CORE_FREE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

/* free_step(name, dry_run) -> (returned_bytes, note); name: "pymalloc" or "malloc". */
PyObject *core_free_step(PyObject *module, PyObject *args);
/* rss_bytes() -> int, as /proc/self/statm has it. */
PyObject *core_rss_bytes(PyObject *module, PyObject *unused);

#endif
