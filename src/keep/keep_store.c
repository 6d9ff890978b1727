#include "keep/keep_ghosts.h"
#include "keep/keep_size.h"
#include <time.h>

enum { SWEEP_STEPS = 4 };

static const double SHARE_FIRST = 0.1; /* the small queue's, as published */

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
    store->small_share = SHARE_FIRST;
    store->was_full = false;
    keep_store_hold(store, keep_ceiling_first());
}

void keep_store_hold(keep_store_t *store, size_t bytes) {
    store->is_held = bytes != SIZE_MAX;
    store->bound_bytes = bytes < store->max_bytes ? bytes : store->max_bytes;
    keep_share(store, store->small_share);
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
    store->entries[store->entries_used] = (keep_entry_t){0};
    return store->entries_used++;
}

void keep_detach(keep_store_t *store, uint32_t number, bool is_evicted) {
    keep_entry_t *entry = &store->entries[number];
    keep_index_remove(store, number, entry->tag);
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
    return store->count + items > store->max_items ||
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
    if (!bytes) store->is_measured = false;
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

/* The last of all, since it can run any code. */
static void let_go(keep_store_t *store, PyObject *key, PyObject *value) {
    if (__builtin_expect(store->on_evict != NULL || store->queues[KEEP_TRASH].oldest, 0)) {
        PyObject *owner = Py_NewRef(store->owner);
        if (key && store->on_evict) tell_evicted(store, key, value);
        keep_drain(store);
        Py_DECREF(owner);
    }
    Py_XDECREF(value);
    Py_XDECREF(key);
}

/* What mostly happens in a full cache: the oldest of the small queue, which nobody asked for, leaves its entry to what
 * comes, which nobody asked for lately. -> that entry's number; 0, and nothing is done, where it is otherwise */
static uint32_t pass_on(keep_store_t *store, uint32_t tag, size_t bytes) {
    keep_queue_t *small = &store->queues[KEEP_SMALL];
    const uint32_t number = small->oldest;
    if (!number) return 0;
    keep_entry_t *entry = &store->entries[number];
    if (!store->was_full || !store->ghosts.slots || entry->hits || !entry->next ||
        (small->count < store->small_items && small->bytes < store->small_bytes) ||
        store->count > store->max_items ||
        (store->bound_bytes != SIZE_MAX &&
         store->bytes - entry->bytes + bytes > store->bound_bytes) ||
        keep_ghosts_find(&store->ghosts, tag))
        return 0;
    keep_ghosts_add(store, entry->tag, false);
    keep_index_remove(store, number, entry->tag);
    keep_index_insert(store, number, tag);
    small->oldest = entry->next;
    store->entries[small->oldest].prev = 0;
    store->entries[small->newest].next = number;
    entry->prev = small->newest;
    entry->next = 0;
    small->newest = number;
    small->bytes += bytes - entry->bytes;
    store->bytes += bytes - entry->bytes;
    store->stats.evictions++;
    return number;
}

/* A place for what comes: one that another left, whose key and value are still in it, or a new one. -> its number, 0
 * with an exception */
static uint32_t settle(keep_store_t *store, uint32_t tag, size_t bytes) {
    if (!keep_index_reserve(store, store->count + 1)) return 0;
    uint32_t number = lacks_room(store, 1, bytes) ? keep_pick_victim(store, false) : 0;
    if (number) {
        keep_index_remove(store, number, store->entries[number].tag);
        keep_queue_remove(store, number);
        store->count--;
        store->bytes -= store->entries[number].bytes;
        keep_make_room(store, 1, bytes);
    } else if (!(number = take_entry(store))) {
        return 0;
    }
    uint32_t *ghost = keep_ghosts_find(&store->ghosts, tag);
    store->entries[number].bytes = bytes;
    keep_queue_push(store, ghost && keep_ghost_returns(store, ghost) ? KEEP_MAIN : KEEP_SMALL,
                    number);
    keep_index_insert(store, number, tag);
    store->count++;
    store->bytes += bytes;
    return number;
}

int keep_put(keep_store_t *store, PyObject *key, Py_hash_t hash, PyObject *value, size_t bytes,
             uint32_t *number) {
    const uint32_t tag = keep_tag(hash);
    if (store->bound_bytes < store->max_bytes && store->bytes + bytes > store->bound_bytes &&
        bytes <= store->max_bytes)
        keep_ceiling_trade(store, bytes);
    if (store->ghosts.slots) __builtin_prefetch(keep_ghosts_pair(&store->ghosts, tag), 1);
    int64_t found = keep_find(store, key, hash);
    if (found < 0) return -1;
    if (bytes > store->bound_bytes || !store->max_items) {
        store->stats.rejections++;
        if (found) keep_detach(store, (uint32_t)found, false);
        keep_drain(store);
        return 0;
    }
    if (found && number) *number = (uint32_t)found;
    if (found) return replace(store, (uint32_t)found, value, bytes);

    if (store->ttl_ns) keep_expire(store, false);
    const uint64_t stamp = next_stamp(store); /* before the entry counts */
    uint32_t fresh = lacks_room(store, 1, bytes) ? pass_on(store, tag, bytes) : 0;
    if (!fresh && !(fresh = settle(store, tag, bytes))) {
        keep_drain(store);
        return -1;
    }
    keep_entry_t *entry = &store->entries[fresh];
    PyObject *old_key = entry->key, *old_value = entry->value;
    if (old_key) foresee_eviction(store);
    entry->key = Py_NewRef(key);
    entry->value = Py_NewRef(value);
    entry->tag = tag;
    entry->bytes = bytes;
    entry->stamp = stamp;
    if (!bytes) store->is_measured = false;
    if (number) *number = fresh;
    let_go(store, old_key, old_value);
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
    if (!store->measures && !store->is_held) return 0;
    if (!store->getsizeof) {
        size_t of_key = keep_simple_bytes(key), of_value = keep_simple_bytes(value);
        if (of_key && (of_value || value == Py_None))
            *bytes = of_key + (value == key ? 0 : of_value);
        else if (keep_deep_size(key, value, bytes) < 0)
            return -1;
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
    store->was_full = false; /* what it learnt was of what it held */
    store->run = 0;
    keep_share(store, SHARE_FIRST);
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
    for (uint32_t i = 1; store->ttl_ns && i < store->entries_used; i++) {
        const keep_entry_t *entry = &store->entries[i];
        bool is_there = entry->queue == KEEP_SMALL || entry->queue == KEEP_MAIN;
        if (is_there && (!store->oldest_stamp || entry->stamp < store->oldest_stamp)) return false;
    }
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
