/* Mappings as Python objects, and the search for large bytes. */
#define _GNU_SOURCE
#include "keep/transfer.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct region {
    PyObject_HEAD PyObject *whole; /* the region this is a part of; NULL: a mapping of its own */
    char *data;
    size_t bytes;
    bool readonly;
    int file; /* what is mapped, all of it, if it is to travel; or -1 */
};

static PyObject *region_new(PyObject *whole, char *data, size_t bytes, bool readonly) {
    struct region *region = PyObject_New(struct region, &transfer_region_type);
    if (!region) return NULL;
    region->whole = Py_XNewRef(whole);
    region->data = data;
    region->bytes = bytes;
    region->readonly = readonly;
    region->file = -1;
    return (PyObject *)region;
}

PyObject *transfer_region_new(void *data, size_t bytes, bool readonly) {
    PyObject *region = region_new(NULL, data, bytes, readonly);
    if (!region) munmap(data, bytes);
    return region;
}

PyObject *transfer_region_part(PyObject *whole, size_t offset, size_t bytes, bool readonly) {
    struct region *from = (struct region *)whole;
    return region_new(whole, from ? from->data + offset : NULL, bytes, readonly);
}

PyObject *transfer_region(PyObject *Py_UNUSED(module), PyObject *given) {
    long descriptor = PyLong_AsLong(given);
    if (descriptor == -1 && PyErr_Occurred()) return NULL;
    struct stat stat;
    void *data = MAP_FAILED;
    int file = fcntl((int)descriptor, F_DUPFD_CLOEXEC, 0);
    if (file >= 0 && fstat(file, &stat) == 0)
        data = mmap(NULL, (size_t)stat.st_size, PROT_READ, MAP_SHARED, file, 0);
    if (data == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        if (file >= 0) close(file);
        return NULL;
    }
    PyObject *region = transfer_region_new(data, (size_t)stat.st_size, true);
    if (region)
        ((struct region *)region)->file = file;
    else
        close(file);
    return region;
}

int transfer_region_file(PyObject *object) {
    return object && Py_IS_TYPE(object, &transfer_region_type) ? ((struct region *)object)->file
                                                               : -1;
}

static void region_dealloc(PyObject *self) {
    struct region *region = (struct region *)self;
    if (region->file >= 0) close(region->file);
    if (!region->whole && region->data) munmap(region->data, region->bytes);
    Py_XDECREF(region->whole);
    PyObject_Free(self);
}

static int region_get_buffer(PyObject *self, Py_buffer *view, int flags) {
    struct region *region = (struct region *)self;
    return PyBuffer_FillInfo(view, self, region->data, (Py_ssize_t)region->bytes, region->readonly,
                             flags);
}

static Py_ssize_t region_length(PyObject *self) {
    return (Py_ssize_t)((struct region *)self)->bytes;
}

static PyBufferProcs region_as_buffer = {.bf_getbuffer = region_get_buffer};
static PySequenceMethods region_as_sequence = {.sq_length = region_length};

PyTypeObject transfer_region_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "lowtide._keep.Region",
    .tp_basicsize = sizeof(struct region),
    .tp_dealloc = region_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = PyDoc_STR("Memory that came from another process; goes with its last view."),
    .tp_as_buffer = &region_as_buffer,
    .tp_as_sequence = &region_as_sequence,
};

/* The search looks at that many objects and goes that deep: a small call must stay cheap, and a
 * stream of small objects has its cost elsewhere. */
enum { SEARCH_OBJECTS = 10000, SEARCH_DEPTH = 8 };

struct search {
    Py_ssize_t bytes;
    int left, depth;
};

/* 1 stops the search: found, or enough looked at. */
static int search_visit(PyObject *object, void *context) {
    struct search *search = context;
    if (PyBytes_CheckExact(object) || PyByteArray_CheckExact(object)) {
        if (Py_SIZE(object) >= search->bytes) {
            search->left = -1;
            return 1;
        }
        return 0;
    }
    if (--search->left < 0) {
        search->left = 0;
        return 1;
    }
    PyTypeObject *type = Py_TYPE(object);
    if (!PyObject_IS_GC(object) || !type->tp_traverse || search->depth >= SEARCH_DEPTH ||
        PyType_Check(object) || PyModule_Check(object) || PyFunction_Check(object))
        return 0;
    search->depth++;
    int stop = type->tp_traverse(object, search_visit, search);
    search->depth--;
    return stop;
}

PyObject *transfer_has_blob(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "has_blob(object, bytes)");
        return NULL;
    }
    struct search search = {PyLong_AsSsize_t(args[1]), SEARCH_OBJECTS, 0};
    if (search.bytes < 0 && PyErr_Occurred()) return NULL;
    search_visit(args[0], &search);
    return PyBool_FromLong(search.left < 0);
}
