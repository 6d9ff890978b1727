#include "keep/keep_size.h"
#include "keep/keep_store.h"

/* All stores of the process, in a ring through this one. Guarded by the GIL. */
static keep_store_t ring = {.registry_prev = &ring, .registry_next = &ring};

/* A store gives this share of its bytes before all are compared again. */
enum { ROUND_SHARE = 8 };
/* What the stores were worth is halved when a share of all went or came; at a ceiling they trade a smaller one. */
enum { DECAY_SHARE = 32, TRADE_SHARE = 256 };
/* Up to here a store that is held need not wait, nor be worth more than others: what is computed from itself, call by call,
 * would never end with nothing kept. It grows twofold, and this more. */
enum { START_BYTES = 64 << 10, START_STEP = 4 << 10 };

static size_t turned_since_decay, put_since_trade, ceiling = SIZE_MAX;

void keep_registry_add(keep_store_t *store) {
    store->registry_prev = ring.registry_prev;
    store->registry_next = &ring;
    ring.registry_prev->registry_next = store;
    ring.registry_prev = store;
}

void keep_registry_remove(keep_store_t *store) {
    if (!store->registry_next) return;
    store->registry_prev->registry_next = store->registry_next;
    store->registry_next->registry_prev = store->registry_prev;
    store->registry_next = store->registry_prev = NULL;
}

void keep_store_measure(keep_store_t *store) {
    if (store->measures || store->is_measured) return;
    store->is_measured = true;
    for (uint32_t i = 1; i < store->entries_used; i++) {
        keep_entry_t *entry = &store->entries[i];
        size_t bytes;
        if ((entry->queue != KEEP_SMALL && entry->queue != KEEP_MAIN) || entry->bytes) continue;
        if (keep_deep_size(entry->key, entry->value, &bytes) < 0) {
            PyErr_Clear();
            bytes = 0;
        }
        bytes += KEEP_ENTRY_BYTES;
        entry->bytes = bytes;
        store->queues[entry->queue].bytes += bytes;
        store->bytes += bytes;
    }
}

size_t keep_total_bytes(void) {
    size_t bytes = 0;
    for (keep_store_t *store = ring.registry_next; store != &ring; store = store->registry_next) {
        keep_store_measure(store);
        bytes += store->bytes;
    }
    return bytes;
}

static double worth_of(const keep_store_t *store) {
    return (double)(store->stats.hits - store->old_hits) / ((double)store->bytes + 1);
}

/* The store whose bytes brought the fewest hits lately, of those but one that hold that many. */
static keep_store_t *least_valuable(const keep_store_t *except, size_t bytes) {
    keep_store_t *least = NULL;
    double least_worth = 0;
    for (keep_store_t *store = ring.registry_next; store != &ring; store = store->registry_next) {
        if (!store->count || Py_REFCNT(store->owner) == 0) continue;
        keep_store_measure(store);
        if (store == except || store->bytes < bytes) continue;
        double worth = worth_of(store);
        if (least && worth >= least_worth) continue;
        least = store;
        least_worth = worth;
    }
    return least;
}

static void decay(size_t turned) {
    turned_since_decay += turned;
    if (turned_since_decay < keep_total_bytes() / DECAY_SHARE) return;
    turned_since_decay = 0;
    for (keep_store_t *store = ring.registry_next; store != &ring; store = store->registry_next)
        store->old_hits += (store->stats.hits - store->old_hits + 1) / 2;
}

size_t keep_shrink(size_t bytes) {
    size_t gone = 0;
    keep_store_t *store;
    while (gone < bytes && (store = least_valuable(NULL, 0))) {
        size_t share = store->bytes / ROUND_SHARE + 1, before = store->bytes;
        if (share > bytes - gone) share = bytes - gone;
        do keep_evict_one(store, true);
        while (store->count && before - store->bytes < share);
        gone += before - store->bytes;
        if (before == store->bytes) break; /* sizes of 0 by getsizeof: nothing to be won */
        keep_drain(store);
    }
    decay(gone);
    return gone;
}

void keep_ceiling_set(size_t bytes) {
    size_t total = bytes == SIZE_MAX ? 0 : keep_total_bytes();
    double share = (double)bytes / ((double)total + 1);
    ceiling = bytes;
    for (keep_store_t *store = ring.registry_next; store != &ring; store = store->registry_next)
        keep_store_hold(store,
                        bytes == SIZE_MAX ? SIZE_MAX : (size_t)(share * (double)store->bytes));
}

size_t keep_ceiling_first(void) {
    return ceiling == SIZE_MAX ? SIZE_MAX : 0;
}

/* Room that is nobody's, or another's that does not use it. -> whether the store has it now */
static bool give_room(keep_store_t *store, size_t slice) {
    size_t allotted = 0;
    keep_store_t *idle = NULL;
    for (keep_store_t *other = ring.registry_next; other != &ring; other = other->registry_next) {
        allotted += other->bound_bytes;
        if (other != store && other->bound_bytes >= other->bytes + slice) idle = other;
    }
    if (allotted + slice > ceiling) {
        if (!idle) return false;
        keep_store_hold(idle, idle->bound_bytes - slice);
    }
    keep_store_hold(store, store->bound_bytes + slice);
    return true;
}

void keep_ceiling_trade(keep_store_t *store, size_t bytes) {
    static bool is_busy; /* what goes may put something in */
    const size_t usual = ceiling / TRADE_SHARE;
    const bool is_small = store->bound_bytes < (usual < START_BYTES ? usual : START_BYTES);
    put_since_trade += bytes + KEEP_ENTRY_BYTES;
    const bool is_due = put_since_trade >= usual;
    if (is_busy || (!is_due && !is_small)) return;
    size_t slice = is_due ? put_since_trade : store->bound_bytes + bytes + START_STEP;
    if (is_due) put_since_trade = 0;
    decay(slice);
    if (slice > store->max_bytes - store->bound_bytes)
        slice = store->max_bytes - store->bound_bytes;
    if (give_room(store, slice)) return;
    keep_store_t *other = least_valuable(store, slice);
    if (!other || (!is_small && worth_of(store) < worth_of(other))) return;
    size_t held = other->bytes, before;
    do {
        before = other->bytes;
        keep_evict_one(other, true);
    } while (other->count && held - other->bytes < slice && other->bytes < before);
    size_t given = held - other->bytes;
    if (given > other->bound_bytes) given = other->bound_bytes; /* it held more than its share */
    keep_store_hold(other, other->bound_bytes - given);
    keep_store_hold(store, store->bound_bytes + given);
    is_busy = true;
    keep_drain(other);
    is_busy = false;
}
