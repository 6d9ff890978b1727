/* What differs between the Pythons that this room is built for, and nothing else. lint lets only this
 * header of the room look at the version. */
#ifndef KEEP_COMPAT_H
#define KEEP_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

#ifdef Py_GIL_DISABLED
#error "lowtide needs a Python with the GIL"
#endif

/* A new reference to what a weak reference means; NULL, without an exception, when it is gone. */
static inline PyObject *keep_weakref_get(PyObject *ref) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *object = NULL;
    if (PyWeakref_GetRef(ref, &object) < 0) PyErr_Clear();
    return object;
#else
    PyObject *object = PyWeakref_GET_OBJECT(ref);
    return object == Py_None ? NULL : Py_NewRef(object);
#endif
}

/* A new reference to a type's own dict. */
static inline PyObject *keep_type_dict(PyTypeObject *type) {
#if PY_VERSION_HEX >= 0x030C0000
    return PyType_GetDict(type);
#else
    return Py_XNewRef(type->tp_dict);
#endif
}

/* Whether an exact int has one digit at most, so that its object has the least size. */
static inline bool keep_int_is_small(PyObject *number) {
#if PY_VERSION_HEX >= 0x030C0000
    return PyUnstable_Long_IsCompact((PyLongObject *)number);
#else
    return Py_SIZE(number) >= -1 && Py_SIZE(number) <= 1;
#endif
}

/* Bytes in front of an object's address that its type's sizes leave out, beside the collector's
 * header: the pointers to its dict and to its weak references or inline values. */
static inline size_t keep_prefix_bytes(PyTypeObject *type) {
    size_t bytes = 0;
#if PY_VERSION_HEX >= 0x030C0000
    if (type->tp_flags & (Py_TPFLAGS_MANAGED_DICT | Py_TPFLAGS_MANAGED_WEAKREF)) bytes += 16;
#else
    if (type->tp_flags & Py_TPFLAGS_MANAGED_DICT) bytes += 16;
#endif
    return bytes;
}

/* The pending exception, taken away; NULL when there is none. */
static inline PyObject *keep_error_take(void) {
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    if (!type) return NULL;
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace) PyException_SetTraceback(error, trace);
    Py_DECREF(type);
    Py_XDECREF(trace);
    return error;
#endif
}

/* Makes an exception the pending one; takes the reference. NULL: there is none then. */
static inline void keep_error_give(PyObject *error) {
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Clear();
    if (error) PyErr_Restore(Py_NewRef(Py_TYPE(error)), error, PyException_GetTraceback(error));
#endif
}

/* A method with arguments by vector, as PyMethodDef wants it. */
#define KEEP_METHOD(function) ((PyCFunction)(void (*)(void))(function))

#endif
