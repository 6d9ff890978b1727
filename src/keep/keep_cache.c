#include "keep/keep_cache.h"
#include "keep/keep_refs.h"
#include <string.h>

void keep_set_key_error(PyObject *key) {
    PyObject *args = PyTuple_Pack(1, key); /* a key that is a tuple is one argument all the same */
    if (args) PyErr_SetObject(PyExc_KeyError, args);
    Py_XDECREF(args);
}

PyObject *keep_cache_value(keep_cache_t *cache, uint32_t number) {
    PyObject *value = cache->store.entries[number].value;
    return cache->is_weak ? keep_weakref_get(value) : Py_NewRef(value);
}

/* -> 1 found, 0 not there, -1 with an exception. What is dead or over its time goes now. */
static int find_live(keep_cache_t *cache, PyObject *key, uint32_t *number, PyObject **value) {
    keep_store_t *store = &cache->store;
    Py_hash_t hash = keep_hash(key);
    if (hash == -1) return -1;
    int64_t found = keep_find(store, key, hash);
    if (found <= 0) return (int)found;
    *number = (uint32_t)found;
    bool is_expired = keep_is_expired(store, *number);
    if (!is_expired && (*value = keep_cache_value(cache, *number))) return 1;
    store->stats.expirations += is_expired;
    keep_detach(store, *number, is_expired);
    keep_drain(store);
    return 0;
}

PyObject *keep_cache_lookup(keep_cache_t *cache, PyObject *key) {
    uint32_t number;
    PyObject *value = NULL;
    int found = find_live(cache, key, &number, &value);
    if (found > 0)
        keep_touch(&cache->store, number);
    else if (found == 0)
        cache->store.stats.misses++;
    return value;
}

PyObject *keep_cache_peek(keep_cache_t *cache, PyObject *key) {
    uint32_t number;
    PyObject *value = NULL;
    return find_live(cache, key, &number, &value) > 0 ? value : NULL;
}

PyObject *keep_cache_take(keep_cache_t *cache, PyObject *key) {
    uint32_t number;
    PyObject *value = NULL;
    if (find_live(cache, key, &number, &value) <= 0) return NULL;
    keep_detach(&cache->store, number, false);
    keep_drain(&cache->store);
    return value;
}

static void value_gone(keep_store_t *store, PyObject *ref) {
    uint32_t number = ((keep_value_ref_t *)ref)->number;
    if (number == 0 || number >= store->entries_used) return;
    keep_entry_t *entry = &store->entries[number];
    if (entry->value != ref || entry->queue == KEEP_TRASH) return;
    keep_detach(store, number, false);
    keep_drain(store);
}

static int insert_weak(keep_cache_t *cache, PyObject *key, Py_hash_t hash, PyObject *value) {
    keep_store_t *store = &cache->store;
    if (!cache->callback && !(cache->callback = keep_callback_new(store, value_gone))) return -1;
    PyObject *ref = keep_value_ref_new(value, cache->callback);
    if (!ref) return -1;
    size_t bytes = 0;
    uint32_t number = 0;
    int failed = keep_measure(store, key, store->getsizeof ? value : ref, &bytes);
    if (!failed) failed = keep_put(store, key, hash, ref, bytes, &number);
    ((keep_value_ref_t *)ref)->number = number;
    Py_DECREF(ref);
    return failed;
}

int keep_cache_insert(keep_cache_t *cache, PyObject *key, PyObject *value) {
    Py_hash_t hash = keep_hash(key);
    if (hash == -1) return -1;
    if (cache->is_weak) return insert_weak(cache, key, hash, value);
    size_t bytes = 0;
    if (keep_measure(&cache->store, key, value, &bytes) < 0) return -1;
    return keep_put(&cache->store, key, hash, value, bytes, NULL);
}

/* What is not there: as in a dict, a subclass may have a __missing__ for it. */
static PyObject *subscript_missing(PyObject *self, PyObject *key) {
    static PyObject *name;
    if (!name && !(name = PyUnicode_InternFromString("__missing__"))) return NULL;
    if (_PyType_Lookup(Py_TYPE(self), name)) return PyObject_CallMethodOneArg(self, name, key);
    keep_set_key_error(key);
    return NULL;
}

static PyObject *cache_subscript(PyObject *self, PyObject *key) {
    PyObject *value = keep_cache_lookup((keep_cache_t *)self, key);
    return value || PyErr_Occurred() ? value : subscript_missing(self, key);
}

static int cache_assign(PyObject *self, PyObject *key, PyObject *value) {
    keep_cache_t *cache = (keep_cache_t *)self;
    if (value) return keep_cache_insert(cache, key, value);
    PyObject *old = keep_cache_take(cache, key);
    if (!old && !PyErr_Occurred()) keep_set_key_error(key);
    Py_XDECREF(old);
    return old ? 0 : -1;
}

static Py_ssize_t cache_length(PyObject *self) {
    keep_store_t *store = &((keep_cache_t *)self)->store;
    if (keep_expire(store, true)) keep_drain(store);
    return (Py_ssize_t)store->count;
}

static int cache_contains(PyObject *self, PyObject *key) {
    PyObject *value = keep_cache_peek((keep_cache_t *)self, key);
    Py_XDECREF(value);
    return value ? 1 : PyErr_Occurred() ? -1 : 0;
}

static PyObject *cache_iter(PyObject *self) {
    return keep_iter_new((keep_cache_t *)self, KEEP_ITER_KEYS, false);
}

static PyObject *cache_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                           PyObject *Py_UNUSED(kwargs)) {
    PyObject *self = type->tp_alloc(type, 0);
    if (self) keep_store_init(&((keep_cache_t *)self)->store, self);
    return self;
}

static int set_callable(PyObject **member, PyObject *given, const char *name) {
    if (given == Py_None) given = NULL;
    if (given && !PyCallable_Check(given)) {
        PyErr_Format(PyExc_TypeError, "%s must be callable or None, not %.100s", name,
                     Py_TYPE(given)->tp_name);
        return -1;
    }
    PyObject *old = *member;
    *member = Py_XNewRef(given);
    Py_XDECREF(old);
    return 0;
}

/* What users of other caches write. */
static int check_given(PyObject *args, PyObject *kwargs) {
    if (PyTuple_GET_SIZE(args) == 0 && !(kwargs && PyDict_GetItemString(kwargs, "maxsize")))
        return 0;
    PyErr_SetString(PyExc_TypeError,
                    "Cache takes its bounds by name: max_items=1000, max_bytes=\"64MiB\", ttl=60");
    return -1;
}

static int cache_init(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"max_bytes", "max_items", "ttl", "weak", "getsizeof", "on_evict", NULL};
    keep_cache_t *cache = (keep_cache_t *)self;
    PyObject *bytes = Py_None, *items = Py_None, *ttl = Py_None, *getsizeof = Py_None,
             *on_evict = Py_None;
    int weak = 0;
    size_t max_bytes, max_items;
    int64_t ttl_ns;
    if (check_given(args, kwargs) < 0 ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "|$OOOpOO:Cache", names, &bytes, &items, &ttl,
                                     &weak, &getsizeof, &on_evict) ||
        keep_parse_bytes(bytes, "max_bytes", &max_bytes) < 0 ||
        keep_parse_count(items, "max_items", &max_items) < 0 || keep_parse_ttl(ttl, &ttl_ns) < 0 ||
        set_callable(&cache->store.getsizeof, getsizeof, "getsizeof") < 0 ||
        set_callable(&cache->store.on_evict, on_evict, "on_evict") < 0)
        return -1;
    keep_store_clear(
        &cache->store); /* __init__ called again: what is there was put under other terms */
    keep_store_bound(&cache->store, max_items, max_bytes);
    cache->store.ttl_ns = ttl_ns;
    cache->store.measures = max_bytes != SIZE_MAX || cache->store.getsizeof;
    cache->is_weak = weak;
    return 0;
}

static int cache_traverse(PyObject *self, visitproc visit, void *arg) {
    keep_cache_t *cache = (keep_cache_t *)self;
    Py_VISIT(cache->callback);
    Py_VISIT(cache->flights);
    Py_VISIT(cache->tasks);
    return keep_store_traverse(&cache->store, visit, arg);
}

static int cache_clear(PyObject *self) {
    keep_cache_t *cache = (keep_cache_t *)self;
    Py_CLEAR(cache->flights);
    Py_CLEAR(cache->tasks);
    Py_CLEAR(cache->store.on_evict);
    Py_CLEAR(cache->store.getsizeof);
    keep_store_clear(&cache->store);
    return 0;
}

static void cache_dealloc(PyObject *self) {
    keep_cache_t *cache = (keep_cache_t *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, cache_dealloc) keep_callback_cut(cache->callback);
    Py_CLEAR(cache->callback);
    Py_CLEAR(cache->flights);
    Py_CLEAR(cache->tasks);
    keep_store_fini(&cache->store);
    Py_TYPE(self)->tp_free(self);
    Py_TRASHCAN_END
}

static PyObject *get_bytes(PyObject *self, void *Py_UNUSED(closure)) {
    keep_store_t *store = &((keep_cache_t *)self)->store;
    keep_store_measure(store);
    return PyLong_FromSize_t(store->bytes);
}

static PyObject *get_max_bytes(PyObject *self, void *Py_UNUSED(closure)) {
    return keep_bound_to_python(((keep_cache_t *)self)->store.max_bytes);
}

static PyObject *get_max_items(PyObject *self, void *Py_UNUSED(closure)) {
    return keep_bound_to_python(((keep_cache_t *)self)->store.max_items);
}

static PyObject *get_ttl(PyObject *self, void *Py_UNUSED(closure)) {
    return keep_ttl_to_python(((keep_cache_t *)self)->store.ttl_ns);
}

static PyObject *get_weak(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((keep_cache_t *)self)->is_weak);
}

static PyObject *get_tasks(PyObject *self, void *Py_UNUSED(closure)) {
    keep_cache_t *cache = (keep_cache_t *)self;
    if (!cache->tasks) cache->tasks = PyDict_New();
    return Py_XNewRef(cache->tasks);
}

static PyGetSetDef cache_getset[] = {
    {"bytes", get_bytes, NULL, PyDoc_STR("Bytes held now: keys, values and the table's own share."),
     NULL},
    {"max_bytes", get_max_bytes, NULL, PyDoc_STR("The bound in bytes, or None."), NULL},
    {"max_items", get_max_items, NULL, PyDoc_STR("The bound in entries, or None."), NULL},
    {"ttl", get_ttl, NULL, PyDoc_STR("Seconds that an entry lives after its insert, or None."),
     NULL},
    {"weak", get_weak, NULL, PyDoc_STR("Whether values are held weakly."), NULL},
    {"_tasks", get_tasks, NULL, NULL, NULL},
    {0},
};

static PyMappingMethods cache_mapping = {cache_length, cache_subscript, cache_assign};
static PySequenceMethods cache_sequence = {.sq_contains = cache_contains};

PyTypeObject keep_cache_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "lowtide._keep.Cache",
    .tp_basicsize = sizeof(keep_cache_t),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_MAPPING,
    .tp_new = cache_new,
    .tp_init = cache_init,
    .tp_dealloc = cache_dealloc,
    .tp_traverse = cache_traverse,
    .tp_clear = cache_clear,
    .tp_as_mapping = &cache_mapping,
    .tp_as_sequence = &cache_sequence,
    .tp_iter = cache_iter,
    .tp_methods = keep_cache_methods,
    .tp_getset = cache_getset,
};
