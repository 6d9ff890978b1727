#include "keep/keep_size.h"
#include <stdint.h>
#include <string.h>

enum { SEEN_INLINE = 64, PENDING_INLINE = 64, GC_HEADER_BYTES = 16, ATTRIBUTES_MIN_BYTES = 32 };

/* The objects met so far, and those whose contents are still to be looked at. */
typedef struct walk {
    PyObject **seen;
    size_t seen_slots, seen_count;
    PyObject **pending;
    size_t pending_count, pending_max;
    size_t bytes;
    bool has_failed;
    /* The last type asked about: items of a container are mostly of one. */
    PyTypeObject *type;
    PyObject *sizeof_method; /* borrowed from the type; NULL: by tp_basicsize */
    PyObject *seen_inline[SEEN_INLINE];
    PyObject *pending_inline[PENDING_INLINE];
} walk_t;

static size_t seen_home(PyObject *object, size_t slots) {
    return (size_t)(((uint64_t)(uintptr_t)object * UINT64_C(0x9E3779B97F4A7C15)) >> 20) &
           (slots - 1);
}

static bool seen_grow(walk_t *walk) {
    size_t slots = walk->seen_slots * 4;
    PyObject **fresh = PyMem_Calloc(slots, sizeof *fresh);
    if (!fresh) return false;
    for (size_t i = 0; i < walk->seen_slots; i++) {
        if (!walk->seen[i]) continue;
        size_t at = seen_home(walk->seen[i], slots);
        while (fresh[at]) at = (at + 1) & (slots - 1);
        fresh[at] = walk->seen[i];
    }
    if (walk->seen != walk->seen_inline) PyMem_Free(walk->seen);
    walk->seen = fresh;
    walk->seen_slots = slots;
    return true;
}

/* Whether the object is met for the first time. */
static bool seen_add(walk_t *walk, PyObject *object) {
    if (walk->seen_count * 2 >= walk->seen_slots && !seen_grow(walk)) {
        walk->has_failed = true;
        return false;
    }
    size_t at = seen_home(object, walk->seen_slots);
    for (; walk->seen[at]; at = (at + 1) & (walk->seen_slots - 1))
        if (walk->seen[at] == object) return false;
    walk->seen[at] = object;
    walk->seen_count++;
    return true;
}

static void pend(walk_t *walk, PyObject *object) {
    if (walk->pending_count == walk->pending_max) {
        size_t max = walk->pending_max * 4;
        PyObject **fresh = PyMem_Malloc(max * sizeof *fresh);
        if (!fresh) {
            walk->has_failed = true;
            return;
        }
        memcpy(fresh, walk->pending, walk->pending_count * sizeof *fresh);
        if (walk->pending != walk->pending_inline) PyMem_Free(walk->pending);
        walk->pending = fresh;
        walk->pending_max = max;
    }
    walk->pending[walk->pending_count++] = object;
}

/* The program's own, shared by all: not a value's. */
static bool is_shared(PyObject *object, PyTypeObject *type) {
    return object == Py_None || type == &PyBool_Type || object == Py_Ellipsis ||
           object == Py_NotImplemented || PyType_Check(object) || PyModule_Check(object) ||
           type == &PyFunction_Type || type == &PyCode_Type || type == &PyFrame_Type ||
           type == &PyMethodDescr_Type || type == &PyWrapperDescr_Type ||
           type == &PyGetSetDescr_Type || type == &PyMemberDescr_Type || type == &PyProperty_Type ||
           (PyCFunction_Check(object) &&
            (!PyCFunction_GET_SELF(object) || PyModule_Check(PyCFunction_GET_SELF(object))));
}

/* A name in the dicts of a type and its bases, found without asking its metaclass. Borrowed. */
static PyObject *find_in_type(PyTypeObject *type, const char *name) {
    PyObject *mro = type->tp_mro;
    for (Py_ssize_t i = 0; mro && i < PyTuple_GET_SIZE(mro); i++) {
        PyObject *dict = keep_type_dict((PyTypeObject *)PyTuple_GET_ITEM(mro, i));
        PyObject *found = dict ? PyDict_GetItemString(dict, name) : NULL;
        Py_XDECREF(dict);
        if (found) return found;
    }
    return NULL;
}

/* __sizeof__ of the first base that is written in C; none for what has object's own. */
static PyObject *find_sizeof(PyTypeObject *type) {
    PyObject *mro = type->tp_mro;
    for (Py_ssize_t i = 0; mro && i < PyTuple_GET_SIZE(mro); i++) {
        PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
        PyObject *dict = base == &PyBaseObject_Type ? NULL : keep_type_dict(base);
        PyObject *found = dict ? PyDict_GetItemString(dict, "__sizeof__") : NULL;
        Py_XDECREF(dict);
        if (found && Py_IS_TYPE(found, &PyMethodDescr_Type)) return found;
    }
    return NULL;
}

static size_t call_sizeof(PyObject *method, PyObject *object) {
    PyObject *size = PyObject_CallOneArg(method, object);
    Py_ssize_t bytes = size ? PyLong_AsSsize_t(size) : -1;
    Py_XDECREF(size);
    if (bytes < 0) PyErr_Clear();
    return bytes < 0 ? 0 : (size_t)bytes;
}

static size_t own_bytes(walk_t *walk, PyObject *object, PyTypeObject *type) {
    size_t simple = keep_simple_bytes(object);
    if (simple) return simple;
    if (type == &PyTuple_Type)
        return (size_t)(type->tp_basicsize + PyTuple_GET_SIZE(object) * type->tp_itemsize) +
               GC_HEADER_BYTES;
    if (type != walk->type) {
        walk->type = type;
        walk->sizeof_method = find_sizeof(type);
    }
    size_t bytes = keep_prefix_bytes(type) + (PyType_IS_GC(type) ? GC_HEADER_BYTES : 0);
    if (walk->sizeof_method) return bytes + call_sizeof(walk->sizeof_method, object);
    bytes += (size_t)type->tp_basicsize;
    if (type->tp_itemsize > 0 && !PyLong_Check(object)) {
        Py_ssize_t items = Py_SIZE(object);
        bytes += (size_t)(items < 0 ? -items : items) * (size_t)type->tp_itemsize;
    }
    return bytes;
}

static int visit(PyObject *object, void *arg) {
    walk_t *walk = arg;
    PyTypeObject *type = Py_TYPE(object);
    if (is_shared(object, type) || !seen_add(walk, object)) return walk->has_failed;
    walk->bytes += own_bytes(walk, object, type);
    bool is_leaf = type == &PyUnicode_Type || type == &PyBytes_Type || type == &PyLong_Type ||
                   type == &PyFloat_Type || PyWeakref_Check(object);
    if (!is_leaf) pend(walk, object);
    return walk->has_failed;
}

/* NumPy's arrays have no tp_traverse: the array behind a view by `base`, the items of an object array. */
static void visit_array(walk_t *walk, PyObject *array) {
    PyObject *base_of = find_in_type(Py_TYPE(array), "base");
    if (base_of && Py_IS_TYPE(base_of, &PyGetSetDescr_Type)) {
        PyObject *base = Py_TYPE(base_of)->tp_descr_get(base_of, array, (PyObject *)Py_TYPE(array));
        if (base) visit(base, walk);
        PyErr_Clear();
        Py_XDECREF(base);
    }
    Py_buffer view;
    if (PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_ND) < 0) {
        PyErr_Clear();
        return;
    }
    if (view.format && strcmp(view.format, "O") == 0) {
        PyObject **items = view.buf;
        for (Py_ssize_t i = 0; i < view.len / (Py_ssize_t)sizeof *items; i++)
            if (items[i]) visit(items[i], walk);
    }
    PyBuffer_Release(&view);
}

static bool is_array(PyTypeObject *type) {
    for (; type; type = type->tp_base)
        if (!(type->tp_flags & Py_TPFLAGS_HEAPTYPE) && strcmp(type->tp_name, "numpy.ndarray") == 0)
            return true;
    return false;
}

static size_t told_bytes(PyObject *bytes) {
    Py_ssize_t count = bytes && PyLong_Check(bytes) ? PyLong_AsSsize_t(bytes) : 0;
    Py_XDECREF(bytes);
    PyErr_Clear();
    return count > 0 ? (size_t)count : 0;
}

/* pyarrow's objects lie in C++ and share whole buffers: a slice keeps all of what it was cut from. */
static bool is_arrow(PyTypeObject *type) {
    for (; type; type = type->tp_base)
        if (!(type->tp_flags & Py_TPFLAGS_HEAPTYPE) &&
            strncmp(type->tp_name, "pyarrow.lib.", 12) == 0)
            return true;
    return false;
}

static size_t arrow_bytes(PyTypeObject *type, PyObject *object) {
    PyObject *total = find_in_type(type, "get_total_buffer_size");
    if (total) return PyFunction_Check(total) ? 0 : told_bytes(PyObject_CallOneArg(total, object));
    Py_buffer view;
    if (!PyObject_CheckBuffer(object) || PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        return 0;
    }
    size_t bytes = (size_t)view.len;
    PyBuffer_Release(&view);
    return bytes;
}

/* Other types in C that hold data outside of Python's heap tell of it by a property in C; what leads to other objects
 * is left out, since those count by themselves. */
static size_t foreign_bytes(PyTypeObject *type, PyObject *object) {
    if (is_arrow(type)) return arrow_bytes(type, object);
    if (PyType_IS_GC(type) || (type->tp_flags & Py_TPFLAGS_HEAPTYPE) || find_sizeof(type)) return 0;
    PyObject *nbytes_of = find_in_type(type, "nbytes");
    if (!nbytes_of || !Py_IS_TYPE(nbytes_of, &PyGetSetDescr_Type)) return 0;
    return told_bytes(Py_TYPE(nbytes_of)->tp_descr_get(nbytes_of, object, (PyObject *)type));
}

static void look_inside(walk_t *walk, PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    if (PyDict_Check(object)) {
        PyObject *key, *value;
        Py_ssize_t at = 0;
        while (PyDict_Next(object, &at, &key, &value)) {
            visit(key, walk);
            visit(value, walk);
        }
        if (type == &PyDict_Type) return;
    }
    /* Attributes of an instance without a dict of its own lie in an array that no size tells of. */
    size_t before = walk->seen_count;
    if (type->tp_traverse && PyType_IS_GC(type)) type->tp_traverse(object, visit, walk);
    if (type->tp_flags & Py_TPFLAGS_MANAGED_DICT)
        walk->bytes += ATTRIBUTES_MIN_BYTES + (walk->seen_count - before) * sizeof(PyObject *);
    if (is_array(type))
        visit_array(walk, object);
    else
        walk->bytes += foreign_bytes(type, object);
}

int keep_deep_size(PyObject *key, PyObject *value, size_t *bytes) {
    walk_t walk;
    walk.type = NULL;
    walk.sizeof_method = NULL;
    walk.bytes = walk.seen_count = walk.pending_count = 0;
    walk.has_failed = false;
    walk.seen = walk.seen_inline;
    walk.seen_slots = SEEN_INLINE;
    walk.pending = walk.pending_inline;
    walk.pending_max = PENDING_INLINE;
    memset(walk.seen_inline, 0, sizeof walk.seen_inline);

    visit(key, &walk);
    if (value) visit(value, &walk);
    while (walk.pending_count && !walk.has_failed)
        look_inside(&walk, walk.pending[--walk.pending_count]);
    if (walk.seen != walk.seen_inline) PyMem_Free(walk.seen);
    if (walk.pending != walk.pending_inline) PyMem_Free(walk.pending);
    *bytes = walk.bytes;
    if (!walk.has_failed) return 0;
    PyErr_NoMemory();
    return -1;
}
