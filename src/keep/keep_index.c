#include "keep/keep_store.h"
#include <string.h>

enum { INDEX_SLOTS_MIN = 16, RESTARTS_MAX = 1000 };

/* Half full at most: at two thirds an insert that evicts took a third longer, for the branches that probes guess wrong. */
bool keep_index_reserve(keep_store_t *store, uint32_t count) {
    uint64_t slots = store->index ? (uint64_t)store->index_mask + 1 : 0;
    if ((uint64_t)count * 2 <= slots) return true;
    uint64_t wanted = slots ? slots * 2 : INDEX_SLOTS_MIN;
    while ((uint64_t)count * 2 > wanted) wanted *= 2;
    keep_slot_t *index = wanted > UINT32_MAX ? NULL : PyMem_Calloc(wanted, sizeof *index);
    if (!index) {
        PyErr_NoMemory();
        return false;
    }
    keep_slot_t *old = store->index;
    store->index = index;
    store->index_mask = (uint32_t)(wanted - 1);
    store->index_shift = (uint32_t)(32 - __builtin_ctzll(wanted));
    store->version++;
    for (uint64_t i = 0; i < slots; i++)
        if (old[i].number) keep_index_insert(store, old[i].number, old[i].tag);
    PyMem_Free(old);
    return true;
}

void keep_index_insert(keep_store_t *store, uint32_t number, uint32_t tag) {
    uint32_t at = keep_home(store, tag);
    while (store->index[at].number) at = (at + 1) & store->index_mask;
    store->index[at] = (keep_slot_t){number, tag};
    store->version++;
}

void keep_index_remove(keep_store_t *store, uint32_t number, uint32_t tag) {
    const uint32_t mask = store->index_mask;
    keep_slot_t *index = store->index;
    uint32_t hole = keep_home(store, tag);
    while (index[hole].number != number || index[hole].tag != tag) hole = (hole + 1) & mask;
    for (uint32_t at = (hole + 1) & mask; index[at].number; at = (at + 1) & mask) {
        uint32_t home = keep_home(store, index[at].tag);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            index[hole] = index[at];
            hole = at;
        }
    }
    index[hole].number = 0;
    store->version++;
}

/* Two exact str are compared here, without a call that could run anything else. */
static inline bool same_text(PyObject *a, PyObject *b) {
    Py_ssize_t length = PyUnicode_GET_LENGTH(a);
    return length == PyUnicode_GET_LENGTH(b) && PyUnicode_KIND(a) == PyUnicode_KIND(b) &&
           memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), (size_t)length * PyUnicode_KIND(a)) == 0;
}

/* -> 1 equal, 0 not, -1 with an exception. The stored key stands on the left, as in a dict. */
static int compare(PyObject *stored, PyObject *key) {
    if (PyUnicode_CheckExact(stored) && PyUnicode_CheckExact(key)) return same_text(stored, key);
    Py_INCREF(stored);
    int equal = PyObject_RichCompareBool(stored, key, Py_EQ);
    Py_DECREF(stored);
    return equal;
}

int64_t keep_find_slowly(keep_store_t *store, PyObject *key, uint32_t tag) {
    int restarts = 0;
again:;
    keep_slot_t slot;
    for (uint32_t at = keep_home(store, tag); (slot = store->index[at]).number;
         at = (at + 1) & store->index_mask) {
        if (slot.tag != tag) continue;
        PyObject *stored = store->entries[slot.number].key;
        if (stored == key) return slot.number;
        uint64_t version = store->version;
        int equal = compare(stored, key);
        if (equal < 0) return -1;
        if (store->version != version) {
            if (!store->count) return 0;
            if (restarts++ < RESTARTS_MAX) goto again;
            PyErr_SetString(PyExc_RuntimeError, "comparing keys changes the cache each time");
            return -1;
        }
        if (equal) return slot.number;
    }
    return 0;
}
