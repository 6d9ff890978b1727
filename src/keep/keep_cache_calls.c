/* The methods of Cache. */
#include "keep/keep_cache.h"

static bool has_arguments(const char *name, Py_ssize_t given, Py_ssize_t least, Py_ssize_t most) {
    if (given >= least && given <= most) return true;
    PyErr_Format(PyExc_TypeError, "%s takes from %zd to %zd arguments (%zd given)", name, least,
                 most, given);
    return false;
}

static PyObject *cache_get(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    if (!has_arguments("get", nargs, 1, 2)) return NULL;
    PyObject *value = keep_cache_lookup((keep_cache_t *)self, args[0]);
    if (value || PyErr_Occurred()) return value;
    return Py_NewRef(nargs == 2 ? args[1] : Py_None);
}

static PyObject *cache_peek(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    if (!has_arguments("peek", nargs, 1, 2)) return NULL;
    PyObject *value = keep_cache_peek((keep_cache_t *)self, args[0]);
    if (value || PyErr_Occurred()) return value;
    return Py_NewRef(nargs == 2 ? args[1] : Py_None);
}

static PyObject *cache_setdefault(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    if (!has_arguments("setdefault", nargs, 1, 2)) return NULL;
    keep_cache_t *cache = (keep_cache_t *)self;
    PyObject *value = keep_cache_lookup(cache, args[0]);
    if (value || PyErr_Occurred()) return value;
    PyObject *given = nargs == 2 ? args[1] : Py_None;
    return keep_cache_insert(cache, args[0], given) < 0 ? NULL : Py_NewRef(given);
}

static PyObject *cache_pop(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    if (!has_arguments("pop", nargs, 1, 2)) return NULL;
    PyObject *value = keep_cache_take((keep_cache_t *)self, args[0]);
    if (value || PyErr_Occurred()) return value;
    if (nargs == 2) return Py_NewRef(args[1]);
    keep_set_key_error(args[0]);
    return NULL;
}

static PyObject *cache_discard(PyObject *self, PyObject *key) {
    PyObject *value = keep_cache_take((keep_cache_t *)self, key);
    if (!value && PyErr_Occurred()) return NULL;
    Py_XDECREF(value);
    return PyBool_FromLong(value != NULL);
}

static PyObject *cache_popitem(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    keep_cache_t *cache = (keep_cache_t *)self;
    keep_store_t *store = &cache->store;
    if (keep_expire(store, true)) keep_drain(store);
    uint32_t number;
    while ((number = keep_evict_one(store, true))) {
        store->stats.evictions--; /* it is handed over, not lost */
        store->entries[number].is_evicted = false;
        PyObject *value = keep_cache_value(cache, number);
        PyObject *item = value ? PyTuple_Pack(2, store->entries[number].key, value) : NULL;
        Py_XDECREF(value);
        keep_drain(store);
        if (item || PyErr_Occurred()) return item;
    }
    PyErr_SetString(PyExc_KeyError, "popitem(): the cache is empty");
    return NULL;
}

static PyObject *cache_clear_all(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    keep_store_clear(&((keep_cache_t *)self)->store);
    Py_RETURN_NONE;
}

static PyObject *cache_expire(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    keep_store_t *store = &((keep_cache_t *)self)->store;
    size_t expired = keep_expire(store, true);
    keep_drain(store);
    return PyLong_FromSize_t(expired);
}

static PyObject *cache_values(PyObject *self, PyObject *backwards) {
    return keep_iter_new((keep_cache_t *)self, KEEP_ITER_VALUES, backwards == Py_True);
}

static PyObject *cache_items(PyObject *self, PyObject *backwards) {
    return keep_iter_new((keep_cache_t *)self, KEEP_ITER_ITEMS, backwards == Py_True);
}

static PyObject *cache_reversed(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    return keep_iter_new((keep_cache_t *)self, KEEP_ITER_KEYS, true);
}

static PyObject *cache_counts(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    keep_store_t *store = &((keep_cache_t *)self)->store;
    keep_stats_t *stats = &store->stats;
    return Py_BuildValue("(KKKKKnn)", stats->hits, stats->misses, stats->evictions,
                         stats->expirations, stats->rejections, (Py_ssize_t)store->count,
                         (Py_ssize_t)store->bytes);
}

static PyObject *cache_sizeof(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    size_t table = keep_store_table_bytes(&((keep_cache_t *)self)->store);
    return PyLong_FromSize_t((size_t)Py_TYPE(self)->tp_basicsize + table);
}

static PyObject *cache_is_valid(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    return PyBool_FromLong(keep_store_is_valid(&((keep_cache_t *)self)->store));
}

static PyObject *cache_settings(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    keep_cache_t *cache = (keep_cache_t *)self;
    keep_store_t *store = &cache->store;
    return Py_BuildValue("{sNsNsNsNsOsO}", "max_bytes", keep_bound_to_python(store->max_bytes),
                         "max_items", keep_bound_to_python(store->max_items), "ttl",
                         keep_ttl_to_python(store->ttl_ns), "weak", PyBool_FromLong(cache->is_weak),
                         "getsizeof", store->getsizeof ? store->getsizeof : Py_None, "on_evict",
                         store->on_evict ? store->on_evict : Py_None);
}

PyMethodDef keep_cache_methods[] = {
    {"get", KEEP_METHOD(cache_get), METH_FASTCALL,
     PyDoc_STR(
         "get(key, default=None)\n--\n\nThe value of key, or default. Counts as a hit or a miss.")},
    {"peek", KEEP_METHOD(cache_peek), METH_FASTCALL,
     PyDoc_STR("peek(key, default=None)\n--\n\nLike get, but neither counted nor marked as used.")},
    {"setdefault", KEEP_METHOD(cache_setdefault), METH_FASTCALL,
     PyDoc_STR("setdefault(key, default=None)\n--\n\nThe value of key; inserts default if it is "
               "not there.")},
    {"pop", KEEP_METHOD(cache_pop), METH_FASTCALL,
     PyDoc_STR("pop(key[, default])\n--\n\nTakes key out and returns its value, or default, or "
               "raises KeyError.")},
    {"popitem", cache_popitem, METH_NOARGS,
     PyDoc_STR("popitem()\n--\n\nTakes out the entry that would be evicted next and returns (key, "
               "value).")},
    {"discard", cache_discard, METH_O,
     PyDoc_STR("discard(key)\n--\n\nTakes key out if it is there, and returns whether it was.")},
    {"clear", cache_clear_all, METH_NOARGS,
     PyDoc_STR("clear()\n--\n\nTakes everything out. Statistics stay.")},
    {"expire", cache_expire, METH_NOARGS,
     PyDoc_STR("expire()\n--\n\nTakes out now what is over its time, and returns how many entries "
               "that were.")},
    {"get_or_compute", KEEP_METHOD(keep_get_or_compute), METH_FASTCALL,
     PyDoc_STR("get_or_compute(key, f)\n--\n\nThe value of key; computes it once by f() if it is "
               "not there.")},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {"__reversed__", cache_reversed, METH_NOARGS, NULL},
    {"__sizeof__", cache_sizeof, METH_NOARGS, NULL},
    {"_iter_values", cache_values, METH_O, NULL},
    {"_iter_items", cache_items, METH_O, NULL},
    {"_counts", cache_counts, METH_NOARGS, NULL},
    {"_settings", cache_settings, METH_NOARGS, NULL},
    {"_is_valid", cache_is_valid, METH_NOARGS, NULL},
    {0},
};
