/* How many bytes a key and its value take, with all that they alone lead to.
 *
 * Counted: the objects' own memory with headers, and what they refer to, each once: items of
 * containers, attributes of instances, buffers that belong to an object (NumPy's data, also behind a
 * view). Not counted, since they are the program's and not the value's: types, modules, functions, code,
 * frames, and what is weakly referenced. No code of the user runs: sizes come from C types, contents
 * from tp_traverse. */
#ifndef KEEP_SIZE_H
#define KEEP_SIZE_H

#include "keep/keep_compat.h"

/* value may be NULL. -> 0; -1 with an exception when there is no memory */
int keep_deep_size(PyObject *key, PyObject *value, size_t *bytes);

#endif
