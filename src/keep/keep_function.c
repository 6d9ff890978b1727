#include "keep/keep_function.h"
#include "keep/keep_cache.h"
#include "keep/keep_refs.h"
#include <stddef.h>

typedef struct keep_function {
    PyObject_HEAD vectorcallfunc vectorcall;
    keep_store_t store;
    PyObject *function;
    PyObject *info_type; /* makes what cache_info returns of hits, misses, maxsize, currsize */
    PyObject *dict, *weakrefs;
    PyObject *callback; /* of the references to instances; NULL before the first */
    keep_instances_t instances;
    bool is_typed, is_method;
} keep_function_t;

/* Stands between positional and keyword arguments in a key. */
static PyObject *keyword_mark;

static void instance_gone(keep_store_t *store, PyObject *ref) {
    keep_function_t *self = (keep_function_t *)store->owner;
    keep_instance_ref_t *instance = (keep_instance_ref_t *)ref;
    if (!keep_instances_remove(&self->instances, instance)) return;
    for (uint32_t i = 0; i < instance->count; i++)
        if (keep_entry_is_of(store, instance->numbers[i], ref))
            keep_detach(store, instance->numbers[i], false);
    keep_drain(store);
    Py_DECREF(instance);
}

/* What stands for the first argument of a method in its keys: a weak reference that is alike only to
 * itself, or the instance where it cannot be referenced weakly. -> a new reference, or NULL with an exception */
static PyObject *stand_in(keep_function_t *self, PyObject *instance) {
    if (Py_TYPE(instance)->tp_weaklistoffset == 0) return Py_NewRef(instance);
    keep_instance_ref_t *known = keep_instances_find(&self->instances, instance);
    if (known) return Py_NewRef((PyObject *)known);
    if (!self->callback && !(self->callback = keep_callback_new(&self->store, instance_gone)))
        return NULL;
    PyObject *ref = keep_instance_ref_new(instance, self->callback);
    if (ref && keep_instances_add(&self->instances, (keep_instance_ref_t *)ref) < 0) Py_CLEAR(ref);
    return ref;
}

static inline bool is_own_key(PyObject *key) {
    return PyUnicode_CheckExact(key) || PyLong_CheckExact(key) ||
           Py_IS_TYPE(key, &keep_instance_ref_type);
}

/* As functools makes it: an only str or int stands for itself; else a tuple of the positional arguments,
 * then a mark and names and values in the order of the call, then the types if they count. */
static PyObject *make_key(keep_function_t *self, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *names) {
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    PyObject *first = NULL;
    if (nargs) {
        first = self->is_method ? stand_in(self, args[0]) : Py_NewRef(args[0]);
        if (!first) return NULL;
        if (nargs == 1 && !named && !self->is_typed && is_own_key(first)) return first;
    }
    Py_ssize_t size = nargs + (named ? 1 + 2 * named : 0) + (self->is_typed ? nargs + named : 0),
               at = 0;
    PyObject *key = PyTuple_New(size);
    if (!key) {
        Py_XDECREF(first);
        return NULL;
    }
    if (nargs) PyTuple_SET_ITEM(key, at++, first);
    for (Py_ssize_t i = 1; i < nargs; i++) PyTuple_SET_ITEM(key, at++, Py_NewRef(args[i]));
    if (named) PyTuple_SET_ITEM(key, at++, Py_NewRef(keyword_mark));
    for (Py_ssize_t i = 0; i < named; i++) {
        PyTuple_SET_ITEM(key, at++, Py_NewRef(PyTuple_GET_ITEM(names, i)));
        PyTuple_SET_ITEM(key, at++, Py_NewRef(args[nargs + i]));
    }
    for (Py_ssize_t i = 0; self->is_typed && i < nargs + named; i++)
        PyTuple_SET_ITEM(key, at++, Py_NewRef((PyObject *)Py_TYPE(args[i])));
    return key;
}

/* -> 1 found, 0 not, -1 with an exception */
static int look_up(keep_function_t *self, PyObject *key, Py_hash_t hash, PyObject **value) {
    keep_store_t *store = &self->store;
    int64_t found = keep_find(store, key, hash);
    if (found > 0 && !keep_is_expired(store, (uint32_t)found)) {
        keep_touch(store, (uint32_t)found);
        *value = Py_NewRef(store->entries[found].value);
        return 1;
    }
    if (found < 0) return -1;
    store->stats.misses++;
    if (found) {
        store->stats.expirations++;
        keep_detach(store, (uint32_t)found, true);
        keep_drain(store);
    }
    return 0;
}

static int insert(keep_function_t *self, PyObject *key, Py_hash_t hash, PyObject *value) {
    keep_store_t *store = &self->store;
    size_t bytes = 0;
    uint32_t number = 0;
    if (keep_measure(store, key, value, &bytes) < 0 ||
        keep_put(store, key, hash, value, bytes, &number) < 0)
        return -1;
    PyObject *first =
        PyTuple_CheckExact(key) && PyTuple_GET_SIZE(key) ? PyTuple_GET_ITEM(key, 0) : key;
    if (!number || !Py_IS_TYPE(first, &keep_instance_ref_type)) return 0;
    return keep_instance_ref_add((keep_instance_ref_t *)first, store, number);
}

static PyObject *call(PyObject *callable, PyObject *const *args, size_t flagged, PyObject *names) {
    keep_function_t *self = (keep_function_t *)callable;
    if (!self->store.max_items) {
        self->store.stats.misses++;
        return PyObject_Vectorcall(self->function, args, flagged, names);
    }
    PyObject *key = make_key(self, args, PyVectorcall_NARGS(flagged), names);
    if (!key) return NULL;
    PyObject *value = NULL;
    Py_hash_t hash = keep_hash(key);
    int found = hash == -1 ? -1 : look_up(self, key, hash, &value);
    if (found == 0) {
        Py_INCREF(self);
        value = PyObject_Vectorcall(self->function, args, flagged, names);
        if (value && insert(self, key, hash, value) < 0) Py_CLEAR(value);
        Py_DECREF(self);
    }
    Py_DECREF(key);
    return value;
}

/* _key(*args, **kwargs), _lookup(key, default), _insert(key, value): what async functions are kept by. */
static PyObject *function_key(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *names) {
    return make_key((keep_function_t *)self, args, nargs, names);
}

static PyObject *function_lookup(PyObject *self, PyObject *args) {
    PyObject *key, *fallback, *value = NULL;
    if (!PyArg_ParseTuple(args, "OO", &key, &fallback)) return NULL;
    Py_hash_t hash = keep_hash(key);
    int found = hash == -1 ? -1 : look_up((keep_function_t *)self, key, hash, &value);
    return found == 0 ? Py_NewRef(fallback) : value;
}

static PyObject *function_insert(PyObject *self, PyObject *args) {
    PyObject *key, *value;
    if (!PyArg_ParseTuple(args, "OO", &key, &value)) return NULL;
    Py_hash_t hash = keep_hash(key);
    if (hash == -1 || insert((keep_function_t *)self, key, hash, value) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *function_bind(PyObject *callable, PyObject *instance, PyObject *owner);

/* The interpreter binds a method descriptor without asking it: this is the type of those that are known to be methods.
 * The others are asked, and so learn that they are. */
static PyTypeObject method_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "lowtide._keep.CachedFunction",
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_base = &keep_function_type,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(keep_function_t, vectorcall),
    .tp_descr_get = function_bind,
};

static void become_method(PyObject *callable) {
    ((keep_function_t *)callable)->is_method = true;
    if (Py_IS_TYPE(callable, &keep_function_type)) Py_SET_TYPE(callable, &method_type);
}

static PyObject *function_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"function",  "maxsize", "typed",     "info_type",
                            "max_bytes", "ttl",     "is_method", NULL};
    PyObject *function, *maxsize, *info_type, *max_bytes, *ttl;
    int is_typed, is_method;
    keep_store_t bounds;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOpOOOp:CachedFunction", names, &function,
                                     &maxsize, &is_typed, &info_type, &max_bytes, &ttl, &is_method))
        return NULL;
    if (!PyCallable_Check(function)) {
        PyErr_SetString(PyExc_TypeError, "the first argument must be callable");
        return NULL;
    }
    if (keep_parse_count(maxsize, "maxsize", &bounds.max_items) < 0 ||
        keep_parse_bytes(max_bytes, "max_bytes", &bounds.max_bytes) < 0 ||
        keep_parse_ttl(ttl, &bounds.ttl_ns) < 0)
        return NULL;
    keep_function_t *self = (keep_function_t *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    keep_store_init(&self->store, (PyObject *)self);
    keep_store_bound(&self->store, bounds.max_items, bounds.max_bytes);
    self->store.ttl_ns = bounds.ttl_ns;
    self->store.measures = bounds.max_bytes != SIZE_MAX;
    self->vectorcall = call;
    self->function = Py_NewRef(function);
    self->info_type = Py_NewRef(info_type);
    self->is_typed = is_typed;
    if (is_method) become_method((PyObject *)self);
    return (PyObject *)self;
}

static PyObject *function_info(PyObject *callable, PyObject *Py_UNUSED(ignored)) {
    keep_function_t *self = (keep_function_t *)callable;
    keep_store_t *store = &self->store;
    if (keep_expire(store, true)) keep_drain(store);
    return PyObject_CallFunction(self->info_type, "KKNn", store->stats.hits, store->stats.misses,
                                 keep_bound_to_python(store->max_items), (Py_ssize_t)store->count);
}

static PyObject *function_forget(PyObject *callable, PyObject *Py_UNUSED(ignored)) {
    keep_function_t *self = (keep_function_t *)callable;
    self->store.stats = (keep_stats_t){0};
    self->store.old_hits = 0;
    keep_store_clear(&self->store);
    keep_instances_clear(&self->instances);
    Py_RETURN_NONE;
}

static PyObject *function_bytes(PyObject *callable, PyObject *Py_UNUSED(ignored)) {
    keep_store_t *store = &((keep_function_t *)callable)->store;
    keep_store_measure(store);
    return PyLong_FromSize_t(store->bytes);
}

static PyObject *function_set_name(PyObject *callable, PyObject *Py_UNUSED(args)) {
    become_method(callable); /* it stands in the body of a class */
    Py_RETURN_NONE;
}

static PyObject *function_reduce(PyObject *callable, PyObject *Py_UNUSED(ignored)) {
    return PyObject_GetAttrString(callable, "__qualname__");
}

static PyObject *function_itself(PyObject *callable, PyObject *Py_UNUSED(ignored)) {
    return Py_NewRef(callable);
}

static PyObject *function_bind(PyObject *callable, PyObject *instance, PyObject *Py_UNUSED(owner)) {
    if (!instance || instance == Py_None) return Py_NewRef(callable);
    if (!((keep_function_t *)callable)->is_method) become_method(callable);
    return PyMethod_New(callable, instance);
}

static int function_traverse(PyObject *callable, visitproc visit, void *arg) {
    keep_function_t *self = (keep_function_t *)callable;
    Py_VISIT(self->function);
    Py_VISIT(self->info_type);
    Py_VISIT(self->dict);
    Py_VISIT(self->callback);
    for (size_t i = 0; i < self->instances.slots_count; i++) Py_VISIT(self->instances.slots[i]);
    return keep_store_traverse(&self->store, visit, arg);
}

static int function_clear(PyObject *callable) {
    keep_function_t *self = (keep_function_t *)callable;
    keep_store_clear(&self->store);
    keep_instances_clear(&self->instances);
    Py_CLEAR(self->function);
    Py_CLEAR(self->info_type);
    Py_CLEAR(self->dict);
    return 0;
}

static void function_dealloc(PyObject *callable) {
    keep_function_t *self = (keep_function_t *)callable;
    PyObject_GC_UnTrack(callable);
    Py_TRASHCAN_BEGIN(callable, function_dealloc) if (self->weakrefs)
        PyObject_ClearWeakRefs(callable);
    keep_callback_cut(self->callback);
    Py_CLEAR(self->callback);
    keep_store_fini(&self->store);
    keep_instances_clear(&self->instances);
    Py_CLEAR(self->function);
    Py_CLEAR(self->info_type);
    Py_CLEAR(self->dict);
    Py_TYPE(callable)->tp_free(callable);
    Py_TRASHCAN_END
}

static PyMethodDef function_methods[] = {
    {"cache_info", function_info, METH_NOARGS,
     PyDoc_STR("cache_info()\n--\n\nHits, misses, maxsize, currsize.")},
    {"cache_clear", function_forget, METH_NOARGS,
     PyDoc_STR("cache_clear()\n--\n\nForgets entries and statistics.")},
    {"cache_bytes", function_bytes, METH_NOARGS,
     PyDoc_STR("cache_bytes()\n--\n\nBytes held: arguments and results.")},
    {"__set_name__", function_set_name, METH_VARARGS, NULL},
    {"__reduce__", function_reduce, METH_NOARGS, NULL},
    {"__copy__", function_itself, METH_VARARGS, NULL},
    {"__deepcopy__", function_itself, METH_VARARGS, NULL},
    {"_key", KEEP_METHOD(function_key), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"_lookup", function_lookup, METH_VARARGS, NULL},
    {"_insert", function_insert, METH_VARARGS, NULL},
    {0},
};

static PyGetSetDef function_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {0},
};

PyTypeObject keep_function_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "lowtide._keep.CachedFunction",
    .tp_basicsize = sizeof(keep_function_t),
    .tp_flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_new = function_new,
    .tp_dealloc = function_dealloc,
    .tp_traverse = function_traverse,
    .tp_clear = function_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(keep_function_t, vectorcall),
    .tp_dictoffset = offsetof(keep_function_t, dict),
    .tp_weaklistoffset = offsetof(keep_function_t, weakrefs),
    .tp_descr_get = function_bind,
    .tp_methods = function_methods,
    .tp_getset = function_getset,
};

int keep_function_ready(void) {
    if (!keyword_mark) keyword_mark = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type);
    if (!keyword_mark || PyType_Ready(&keep_function_type) < 0) return -1;
    return PyType_Ready(&method_type);
}
