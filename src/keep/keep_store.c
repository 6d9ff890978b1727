#include "keep/keep_store.h"
#include "keep/keep_size.h"
#include <time.h>

enum { SWEEP_STEPS = 4 };

static int64_t stopped_ns = -1;

int64_t keep_clock_ns(void) {
    if (__builtin_expect(stopped_ns >= 0, 0)) return stopped_ns;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void keep_clock_stop(int64_t ns) {
    stopped_ns = ns;
}

void keep_store_init(keep_store_t *store, PyObject *owner) {
    *store = (keep_store_t){.owner = owner, .entries_used = 1};
    keep_store_bound(store, SIZE_MAX, SIZE_MAX);
    keep_registry_add(store);
}

void keep_store_bound(keep_store_t *store, size_t max_items, size_t max_bytes) {
    store->max_items = max_items;
    store->max_bytes = max_bytes;
    keep_store_hold(store, SIZE_MAX, SIZE_MAX);
}

void keep_store_hold(keep_store_t *store, size_t items, size_t bytes) {
    store->bound_items = items < store->max_items ? items : store->max_items;
    store->bound_bytes = bytes < store->max_bytes ? bytes : store->max_bytes;
    store->small_items = store->bound_items / 10 ? store->bound_items / 10 : 1;
    store->small_bytes = store->bound_bytes / 10 + 1;
}

/* With time stamps two inserts within a tick still differ, by a nanosecond. */
static uint64_t next_stamp(keep_store_t *store) {
    uint64_t stamp = store->last_stamp + 1;
    if (store->ttl_ns) {
        uint64_t now = (uint64_t)keep_clock_ns();
        if (now > stamp) stamp = now;
    }
    if (!store->count) store->oldest_stamp = stamp;
    return store->last_stamp = stamp;
}

static uint32_t take_entry(keep_store_t *store) {
    uint32_t number = store->free_entry;
    if (number) {
        store->free_entry = store->entries[number].next;
        return number;
    }
    if (store->entries_used >= store->entries_max) {
        uint64_t max = (uint64_t)store->entries_max + store->entries_max / 16 + 8;
        if (store->entries_max <= store->max_items && max - 1 > store->max_items)
            max = store->max_items + 1;
        keep_entry_t *entries =
            max > UINT32_MAX ? NULL : PyMem_Realloc(store->entries, max * sizeof *entries);
        if (!entries) {
            PyErr_NoMemory();
            return 0;
        }
        store->entries = entries;
        store->entries_max = (uint32_t)max;
        store->version++;
    }
    return store->entries_used++;
}

void keep_detach(keep_store_t *store, uint32_t number, bool is_evicted) {
    keep_entry_t *entry = &store->entries[number];
    keep_index_remove(store, number);
    keep_queue_remove(store, number);
    keep_queue_push(store, KEEP_TRASH, number);
    entry->is_evicted = is_evicted;
    store->count--;
    store->bytes -= entry->bytes;
}

static void tell_evicted(keep_store_t *store, PyObject *key, PyObject *value) {
    PyObject *error = keep_error_take(), *on_evict = Py_NewRef(store->on_evict);
    PyObject *done = PyObject_CallFunctionObjArgs(on_evict, key, value, NULL);
    if (!done) PyErr_WriteUnraisable(on_evict);
    Py_XDECREF(done);
    Py_DECREF(on_evict);
    keep_error_give(error);
}

/* The last of all, since it can run any code. */
static void let_go(keep_store_t *store, PyObject *key, PyObject *value, bool is_evicted) {
    PyObject *owner = Py_NewRef(store->owner);
    if (is_evicted && store->on_evict) tell_evicted(store, key, value);
    Py_DECREF(value);
    Py_DECREF(key);
    keep_drain(store);
    Py_DECREF(owner);
}

void keep_drain(keep_store_t *store) {
    if (!store->queues[KEEP_TRASH].oldest) return;
    PyObject *owner =
        Py_NewRef(store->owner); /* whatever user code does below, the store outlives the loop */
    for (uint32_t number; (number = store->queues[KEEP_TRASH].oldest);) {
        keep_queue_remove(store, number);
        keep_entry_t entry = store->entries[number];
        store->entries[number] = (keep_entry_t){.next = store->free_entry};
        store->free_entry = number;
        if (entry.is_evicted && store->on_evict) tell_evicted(store, entry.key, entry.value);
        Py_DECREF(entry.value);
        Py_DECREF(entry.key);
    }
    Py_DECREF(owner);
}

static bool lacks_room(const keep_store_t *store, size_t items, size_t bytes) {
    return store->count + items > store->bound_items ||
           (store->bound_bytes != SIZE_MAX && store->bytes + bytes > store->bound_bytes);
}

void keep_make_room(keep_store_t *store, size_t items, size_t bytes) {
    while (store->count && lacks_room(store, items, bytes)) keep_evict_one(store, false);
}

static int replace(keep_store_t *store, uint32_t number, PyObject *value, size_t bytes) {
    keep_entry_t *entry = &store->entries[number];
    PyObject *old = entry->value;
    entry->value = Py_NewRef(value);
    store->queues[entry->queue].bytes += bytes - entry->bytes;
    store->bytes += bytes - entry->bytes;
    entry->bytes = bytes;
    if (store->ttl_ns) entry->stamp = next_stamp(store);
    Py_INCREF(store->owner);
    keep_make_room(store, 0, 0);
    Py_DECREF(old);
    keep_drain(store);
    Py_DECREF(store->owner);
    return 0;
}

/* Brings near what the next eviction will touch: memory answers while the program goes on. */
static void foresee_eviction(keep_store_t *store) {
    uint32_t next = store->queues[KEEP_SMALL].oldest;
    if (!next) return;
    keep_entry_t *entry = &store->entries[next];
    __builtin_prefetch(&store->index[keep_home(store, entry->tag)], 1);
    if (store->ghosts.slots) __builtin_prefetch(keep_ghosts_pair(&store->ghosts, entry->tag), 1);
    __builtin_prefetch(entry->key, 1);
    if (entry->next) __builtin_prefetch(&store->entries[entry->next], 1);
}

int keep_put(keep_store_t *store, PyObject *key, Py_hash_t hash, PyObject *value, size_t bytes,
             uint32_t *number) {
    if (store->bound_bytes < store->max_bytes && lacks_room(store, 1, bytes))
        keep_ceiling_trade(store, bytes);
    if (store->ghosts.slots)
        __builtin_prefetch(keep_ghosts_pair(&store->ghosts, keep_tag(hash)), 1);
    int64_t found = keep_find(store, key, hash);
    if (found < 0) return -1;
    if (bytes > store->max_bytes || !store->max_items) {
        store->stats.rejections++;
        if (found) keep_detach(store, (uint32_t)found, false);
        keep_drain(store);
        return 0;
    }
    if (found && number) *number = (uint32_t)found;
    if (found) return replace(store, (uint32_t)found, value, bytes);

    if (store->ttl_ns) keep_expire(store, false);
    if (!keep_index_reserve(store, store->count + 1)) return -1;
    /* One entry mostly goes for one that comes: it leaves its place to it, without a stay in the trash. */
    PyObject *old_key = NULL, *old_value = NULL;
    uint32_t fresh = lacks_room(store, 1, bytes) ? keep_pick_victim(store, false) : 0;
    if (fresh) {
        keep_entry_t *victim = &store->entries[fresh];
        keep_index_remove(store, fresh);
        keep_queue_remove(store, fresh);
        store->count--;
        store->bytes -= victim->bytes;
        old_key = victim->key;
        old_value = victim->value;
        keep_make_room(store, 1, bytes);
    } else if (!(fresh = take_entry(store))) {
        return -1;
    }
    keep_entry_t *entry = &store->entries[fresh];
    uint32_t tag = keep_tag(hash);
    *entry = (keep_entry_t){
        .tag = tag, .key = Py_NewRef(key), .value = Py_NewRef(value), .bytes = bytes};
    entry->stamp = next_stamp(store);
    keep_queue_push(store, keep_ghosts_take(store, tag) ? KEEP_MAIN : KEEP_SMALL, fresh);
    keep_index_insert(store, fresh, tag);
    store->count++;
    store->bytes += bytes;
    if (number) *number = fresh;
    if (old_key) foresee_eviction(store);
    if (old_key)
        let_go(store, old_key, old_value, true);
    else
        keep_drain(store);
    return 0;
}

size_t keep_expire(keep_store_t *store, bool all) {
    int64_t now = keep_clock_ns();
    if (!store->ttl_ns || now - (int64_t)store->oldest_stamp < store->ttl_ns) return 0;
    size_t expired = 0;
    uint32_t steps = all ? store->entries_used : SWEEP_STEPS;
    uint64_t oldest = (uint64_t)now;
    for (uint32_t i = 0; i < steps; i++) {
        uint32_t number = store->sweep_at =
            store->sweep_at + 1 < store->entries_used ? store->sweep_at + 1 : 1;
        if (number >= store->entries_used) break;
        keep_entry_t *entry = &store->entries[number];
        if (entry->queue != KEEP_SMALL && entry->queue != KEEP_MAIN) continue;
        if (now - (int64_t)entry->stamp >= store->ttl_ns) {
            keep_detach(store, number, true);
            expired++;
        } else if (entry->stamp < oldest) {
            oldest = entry->stamp;
        }
    }
    if (all) store->oldest_stamp = oldest;
    store->stats.expirations += expired;
    return expired;
}

int keep_measure(keep_store_t *store, PyObject *key, PyObject *value, size_t *bytes) {
    *bytes = 0;
    if (!store->measures) return 0;
    if (!store->getsizeof) {
        if (keep_deep_size(key, value, bytes) < 0) return -1;
        *bytes += KEEP_ENTRY_BYTES;
        return 0;
    }
    PyObject *size = PyObject_CallOneArg(store->getsizeof, value);
    if (!size) return -1;
    Py_ssize_t told = PyNumber_AsSsize_t(size, PyExc_OverflowError);
    Py_DECREF(size);
    if (told < 0) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "getsizeof gave a negative size");
        return -1;
    }
    *bytes = (size_t)told;
    return 0;
}

void keep_store_clear(keep_store_t *store) {
    for (uint32_t i = 1; i < store->entries_used; i++) {
        uint8_t queue = store->entries[i].queue;
        if (queue != KEEP_SMALL && queue != KEEP_MAIN) continue;
        keep_queue_remove(store, i);
        keep_queue_push(store, KEEP_TRASH, i);
        store->entries[i].is_evicted = false;
    }
    PyMem_Free(store->index);
    PyMem_Free(store->ghosts.slots);
    store->index = NULL;
    store->ghosts = (keep_ghosts_t){0};
    store->index_mask = 0;
    store->count = 0;
    store->bytes = 0;
    store->version++;
    keep_drain(store);
    if (store->count || store->queues[KEEP_TRASH].count)
        return; /* somebody came back in meanwhile */
    PyMem_Free(store->entries);
    PyMem_Free(store->index);
    store->entries = NULL;
    store->index = NULL;
    store->entries_max = store->free_entry = store->sweep_at = 0;
    store->entries_used = 1;
    store->index_mask = 0;
    store->version++;
}

int keep_store_traverse(keep_store_t *store, visitproc visit, void *arg) {
    for (uint32_t i = 1; i < store->entries_used; i++) {
        Py_VISIT(store->entries[i].key);
        Py_VISIT(store->entries[i].value);
    }
    Py_VISIT(store->on_evict);
    Py_VISIT(store->getsizeof);
    return 0;
}

size_t keep_store_table_bytes(const keep_store_t *store) {
    return store->entries_max * sizeof(keep_entry_t) +
           (store->index ? ((size_t)store->index_mask + 1) * sizeof(keep_slot_t) : 0) +
           (store->ghosts.slots ? ((size_t)store->ghosts.mask + 1) * sizeof(uint32_t) : 0);
}

static bool queue_is_valid(const keep_store_t *store, enum keep_queue_name name) {
    const keep_queue_t *queue = &store->queues[name];
    uint32_t count = 0, before = 0;
    size_t bytes = 0;
    for (uint32_t i = queue->oldest; i; before = i, i = store->entries[i].next) {
        const keep_entry_t *entry = &store->entries[i];
        if (entry->queue != name || entry->prev != before || !entry->key || !entry->value)
            return false;
        bytes += entry->bytes;
        if (++count > queue->count) return false;
    }
    return before == queue->newest && count == queue->count && bytes == queue->bytes;
}

bool keep_store_is_valid(const keep_store_t *store) {
    const keep_queue_t *small = &store->queues[KEEP_SMALL], *rest = &store->queues[KEEP_MAIN];
    if (!queue_is_valid(store, KEEP_SMALL) || !queue_is_valid(store, KEEP_MAIN) ||
        !queue_is_valid(store, KEEP_TRASH) || small->count + rest->count != store->count ||
        small->bytes + rest->bytes != store->bytes)
        return false;
    uint32_t indexed = 0;
    for (uint32_t at = 0; store->index && at <= store->index_mask; at++) {
        keep_slot_t slot = store->index[at];
        if (!slot.number) continue;
        indexed++;
        if (store->entries[slot.number].tag != slot.tag) return false;
        for (uint32_t probe = keep_home(store, slot.tag); probe != at;
             probe = (probe + 1) & store->index_mask)
            if (!store->index[probe].number) return false;
    }
    return indexed == store->count;
}

void keep_store_fini(keep_store_t *store) {
    keep_registry_remove(store);
    Py_CLEAR(store->on_evict);
    Py_CLEAR(store->getsizeof);
    for (uint32_t i = 1; i < store->entries_used; i++) {
        Py_CLEAR(store->entries[i].key);
        Py_CLEAR(store->entries[i].value);
    }
    PyMem_Free(store->entries);
    PyMem_Free(store->index);
    PyMem_Free(store->ghosts.slots);
}
