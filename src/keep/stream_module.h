/* What lowtide._keep offers to python/lowtide/_stream*.py: a row of its table of methods. */
#ifndef STREAM_MODULE_H
#define STREAM_MODULE_H

#include "keep/keep_compat.h"

/* stream_cut(text, want, delimiter): (end, records); delimiter None for lines, a byte for CSV. */
PyObject *stream_module_cut(PyObject *module, PyObject *args);

#endif
