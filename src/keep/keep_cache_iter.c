#include "keep/keep_cache.h"
#include <stdlib.h>

/* Steps over the entries of one moment, in the order of their inserts. Holds their keys, not their values; an
 * entry that went in meanwhile is passed over, one that came is not seen. */
typedef struct keep_iter {
    PyObject_HEAD keep_cache_t *cache; /* NULL at the end */
    struct step {
        PyObject *key;
        uint32_t number;
        uint64_t stamp;
    } * steps;
    size_t count, at;
    enum keep_iter_kind kind;
} keep_iter_t;

static int by_stamp(const void *left, const void *right) {
    uint64_t a = ((const struct step *)left)->stamp, b = ((const struct step *)right)->stamp;
    return (a > b) - (a < b);
}

static int by_stamp_backwards(const void *left, const void *right) {
    return by_stamp(right, left);
}

PyObject *keep_iter_new(keep_cache_t *cache, enum keep_iter_kind kind, bool backwards) {
    keep_store_t *store = &cache->store;
    keep_iter_t *iter = PyObject_GC_New(keep_iter_t, &keep_iter_type);
    if (!iter) return NULL;
    iter->cache = (keep_cache_t *)Py_NewRef(cache);
    iter->count = iter->at = 0;
    iter->kind = kind;
    if (keep_expire(store, true)) keep_drain(store);
    iter->steps = PyMem_Malloc(store->count * sizeof *iter->steps + 1);
    if (!iter->steps) {
        Py_DECREF(iter);
        return PyErr_NoMemory();
    }
    for (uint32_t i = 1; i < store->entries_used; i++) {
        keep_entry_t *entry = &store->entries[i];
        if (entry->queue != KEEP_SMALL && entry->queue != KEEP_MAIN) continue;
        iter->steps[iter->count++] = (struct step){Py_NewRef(entry->key), i, entry->stamp};
    }
    qsort(iter->steps, iter->count, sizeof *iter->steps, backwards ? by_stamp_backwards : by_stamp);
    PyObject_GC_Track((PyObject *)iter);
    return (PyObject *)iter;
}

static void forget(keep_iter_t *iter) {
    while (iter->at < iter->count) {
        PyObject *key = iter->steps[iter->at++].key;
        Py_DECREF(key);
    }
    Py_CLEAR(iter->cache);
}

static PyObject *iter_next(PyObject *self) {
    keep_iter_t *iter = (keep_iter_t *)self;
    while (iter->cache && iter->at < iter->count) {
        struct step step = iter->steps[iter->at++];
        keep_store_t *store = &iter->cache->store;
        keep_entry_t *entry =
            step.number < store->entries_used ? &store->entries[step.number] : NULL;
        PyObject *value = NULL;
        if (entry && entry->key == step.key && entry->queue != KEEP_TRASH &&
            !keep_is_expired(store, step.number))
            value = keep_cache_value(iter->cache, step.number);
        if (!value) {
            Py_DECREF(step.key);
            continue;
        }
        if (iter->kind == KEEP_ITER_ITEMS) {
            PyObject *item = PyTuple_Pack(2, step.key, value);
            Py_DECREF(step.key);
            Py_DECREF(value);
            return item;
        }
        bool is_key = iter->kind == KEEP_ITER_KEYS;
        Py_DECREF(is_key ? value : step.key);
        return is_key ? step.key : value;
    }
    forget(iter);
    return NULL;
}

static PyObject *iter_length_hint(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    keep_iter_t *iter = (keep_iter_t *)self;
    return PyLong_FromSize_t(iter->cache ? iter->count - iter->at : 0);
}

static int iter_traverse(PyObject *self, visitproc visit, void *arg) {
    keep_iter_t *iter = (keep_iter_t *)self;
    Py_VISIT(iter->cache);
    for (size_t i = iter->at; i < iter->count; i++) Py_VISIT(iter->steps[i].key);
    return 0;
}

static int iter_clear(PyObject *self) {
    forget((keep_iter_t *)self);
    return 0;
}

static void iter_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    forget((keep_iter_t *)self);
    PyMem_Free(((keep_iter_t *)self)->steps);
    PyObject_GC_Del(self);
}

static PyMethodDef iter_methods[] = {
    {"__length_hint__", iter_length_hint, METH_NOARGS, NULL},
    {0},
};

PyTypeObject keep_iter_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "lowtide._keep.CacheIterator",
    .tp_basicsize = sizeof(keep_iter_t),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = iter_dealloc,
    .tp_traverse = iter_traverse,
    .tp_clear = iter_clear,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = iter_next,
    .tp_methods = iter_methods,
};
