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

/* Bytes of the usual keys and values, which lead to nothing else; 0 for all others. */
static inline size_t keep_simple_bytes(PyObject *object) {
    const PyTypeObject *type = Py_TYPE(object);
    if (type == &PyUnicode_Type)
        return PyUnicode_IS_COMPACT_ASCII(object)
                   ? sizeof(PyASCIIObject) + (size_t)PyUnicode_GET_LENGTH(object) + 1
                   : 0;
    if (type == &PyLong_Type) return keep_int_is_small(object) ? sizeof(PyLongObject) : 0;
    if (type == &PyBytes_Type)
        return (size_t)PyBytes_Type.tp_basicsize + (size_t)PyBytes_GET_SIZE(object);
    return type == &PyFloat_Type ? sizeof(PyFloatObject) : 0;
}

#endif
