#include "keep/keep_refs.h"
#include <stdlib.h>

typedef struct tether {
    PyObject_HEAD keep_store_t *store; /* NULL once it is cut */
    keep_gone_t gone;
} tether_t;

static PyTypeObject tether_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "lowtide._keep.Tether",
    .tp_basicsize = sizeof(tether_t),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)PyObject_Free,
};

static PyObject *call_gone(PyObject *self, PyObject *ref) {
    tether_t *tether = (tether_t *)self;
    if (tether->store &&
        Py_REFCNT(tether->store->owner) > 0) { /* an owner that goes just now drops all anyway */
        PyObject *owner = Py_NewRef(tether->store->owner);
        tether->gone(tether->store, ref);
        Py_DECREF(owner);
    }
    Py_RETURN_NONE;
}

static PyMethodDef gone_method = {"gone", call_gone, METH_O, NULL};

PyObject *keep_callback_new(keep_store_t *store, keep_gone_t gone) {
    tether_t *tether = PyObject_New(tether_t, &tether_type);
    if (!tether) return NULL;
    tether->store = store;
    tether->gone = gone;
    PyObject *callback = PyCFunction_New(&gone_method, (PyObject *)tether);
    Py_DECREF(tether);
    return callback;
}

void keep_callback_cut(PyObject *callback) {
    if (callback) ((tether_t *)PyCFunction_GET_SELF(callback))->store = NULL;
}

PyTypeObject keep_value_ref_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "lowtide._keep.ValueRef",
    .tp_basicsize = sizeof(keep_value_ref_t),
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

static Py_hash_t instance_hash(PyObject *self) {
    uintptr_t address = (uintptr_t)((keep_instance_ref_t *)self)->address;
    return (Py_hash_t)(address >> 4);
}

static PyObject *instance_compare(PyObject *self, PyObject *other, int op) {
    if (op != Py_EQ && op != Py_NE) Py_RETURN_NOTIMPLEMENTED;
    return PyBool_FromLong((self == other) == (op == Py_EQ));
}

static void instance_dealloc(PyObject *self) {
    PyMem_Free(((keep_instance_ref_t *)self)->numbers);
    _PyWeakref_RefType.tp_dealloc(self);
}

PyTypeObject keep_instance_ref_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "lowtide._keep.InstanceRef",
    .tp_basicsize = sizeof(keep_instance_ref_t),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_hash = instance_hash,
    .tp_richcompare = instance_compare,
    .tp_dealloc = instance_dealloc,
};

int keep_refs_ready(void) {
    keep_value_ref_type.tp_base = &_PyWeakref_RefType;
    keep_instance_ref_type.tp_base = &_PyWeakref_RefType;
    if (PyType_Ready(&tether_type) < 0 || PyType_Ready(&keep_value_ref_type) < 0) return -1;
    return PyType_Ready(&keep_instance_ref_type);
}

static PyObject *ref_new(PyTypeObject *type, PyObject *object, PyObject *callback) {
    return PyObject_CallFunctionObjArgs((PyObject *)type, object, callback, NULL);
}

PyObject *keep_value_ref_new(PyObject *value, PyObject *callback) {
    return ref_new(&keep_value_ref_type, value, callback);
}

PyObject *keep_instance_ref_new(PyObject *instance, PyObject *callback) {
    PyObject *ref = ref_new(&keep_instance_ref_type, instance, callback);
    if (ref) ((keep_instance_ref_t *)ref)->address = instance;
    return ref;
}

bool keep_entry_is_of(const keep_store_t *store, uint32_t number, PyObject *ref) {
    if (number >= store->entries_used) return false;
    const keep_entry_t *entry = &store->entries[number];
    if (entry->queue != KEEP_SMALL && entry->queue != KEEP_MAIN) return false;
    PyObject *key = entry->key;
    return key == ref || (PyTuple_CheckExact(key) && PyTuple_GET_SIZE(key) > 0 &&
                          PyTuple_GET_ITEM(key, 0) == ref);
}

static int compare_numbers(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Drops numbers that are others' by now, and all but one of an entry that was taken again and again. */
static void compact(keep_instance_ref_t *ref, const keep_store_t *store) {
    uint32_t live = 0;
    if (ref->count) qsort(ref->numbers, ref->count, sizeof *ref->numbers, compare_numbers);
    for (uint32_t i = 0; i < ref->count; i++) {
        if (live && ref->numbers[live - 1] == ref->numbers[i]) continue;
        if (keep_entry_is_of(store, ref->numbers[i], (PyObject *)ref))
            ref->numbers[live++] = ref->numbers[i];
    }
    ref->count = live;
}

int keep_instance_ref_add(keep_instance_ref_t *ref, keep_store_t *store, uint32_t number) {
    if (ref->count == ref->max) {
        compact(ref, store);
        if (ref->count > ref->max / 2 || !ref->max) {
            uint32_t max = ref->max ? ref->max * 2 : 4;
            uint32_t *numbers = PyMem_Realloc(ref->numbers, max * sizeof *numbers);
            if (!numbers) {
                PyErr_NoMemory();
                return -1;
            }
            ref->numbers = numbers;
            ref->max = max;
        }
    }
    ref->numbers[ref->count++] = number;
    return 0;
}

static size_t home(const keep_instances_t *map, void *address) {
    return (size_t)(((uint64_t)(uintptr_t)address * UINT64_C(0x9E3779B97F4A7C15)) >> 24) &
           (map->slots_count - 1);
}

keep_instance_ref_t *keep_instances_find(const keep_instances_t *map, void *address) {
    if (!map->count) return NULL;
    for (size_t at = home(map, address); map->slots[at]; at = (at + 1) & (map->slots_count - 1))
        if (map->slots[at]->address == address) return map->slots[at];
    return NULL;
}

static void place(keep_instances_t *map, keep_instance_ref_t *ref) {
    size_t at = home(map, ref->address);
    while (map->slots[at]) at = (at + 1) & (map->slots_count - 1);
    map->slots[at] = ref;
}

int keep_instances_add(keep_instances_t *map, keep_instance_ref_t *ref) {
    if (map->count * 2 >= map->slots_count) {
        keep_instances_t fresh = {.slots_count = map->slots_count ? map->slots_count * 2 : 8,
                                  .count = map->count};
        fresh.slots = PyMem_Calloc(fresh.slots_count, sizeof *fresh.slots);
        if (!fresh.slots) {
            PyErr_NoMemory();
            return -1;
        }
        for (size_t i = 0; i < map->slots_count; i++)
            if (map->slots[i]) place(&fresh, map->slots[i]);
        PyMem_Free(map->slots);
        *map = fresh;
    }
    place(map, (keep_instance_ref_t *)Py_NewRef(ref));
    map->count++;
    return 0;
}

bool keep_instances_remove(keep_instances_t *map, keep_instance_ref_t *ref) {
    if (!map->count) return false;
    const size_t mask = map->slots_count - 1;
    size_t hole = home(map, ref->address);
    for (; map->slots[hole] != ref; hole = (hole + 1) & mask)
        if (!map->slots[hole]) return false;
    for (size_t at = (hole + 1) & mask; map->slots[at]; at = (at + 1) & mask) {
        if (((at - home(map, map->slots[at]->address)) & mask) >= ((at - hole) & mask)) {
            map->slots[hole] = map->slots[at];
            hole = at;
        }
    }
    map->slots[hole] = NULL;
    map->count--;
    return true;
}

void keep_instances_clear(keep_instances_t *map) {
    keep_instances_t old = *map;
    *map = (keep_instances_t){0};
    for (size_t i = 0; i < old.slots_count; i++) Py_XDECREF(old.slots[i]);
    PyMem_Free(old.slots);
}
