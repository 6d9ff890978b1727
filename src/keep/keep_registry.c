#include "keep/keep_size.h"
#include "keep/keep_store.h"

/* All stores of the process, in a ring through this one. Guarded by the GIL. */
static keep_store_t ring = {.registry_prev = &ring, .registry_next = &ring};

/* A store gives this share of its bytes before all are compared again. */
enum { ROUND_SHARE = 8 };
/* What the stores were worth is halved when a share of all went or came; at a ceiling they trade a smaller one. */
enum { DECAY_SHARE = 32, TRADE_SHARE = 256 };

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
    if (store->measures) return;
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

/* The store whose bytes brought the fewest hits lately. */
static keep_store_t *least_valuable(void) {
    keep_store_t *least = NULL;
    double least_worth = 0;
    for (keep_store_t *store = ring.registry_next; store != &ring; store = store->registry_next) {
        if (!store->count || Py_REFCNT(store->owner) == 0) continue;
        keep_store_measure(store);
        double worth = (double)(store->stats.hits - store->old_hits) / ((double)store->bytes + 1);
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
        store->old_hits += (store->stats.hits - store->old_hits) / 2;
}

size_t keep_shrink(size_t bytes) {
    size_t gone = 0;
    keep_store_t *store;
    while (gone < bytes && (store = least_valuable())) {
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
    for (keep_store_t *store = ring.registry_next; store != &ring; store = store->registry_next) {
        if (bytes == SIZE_MAX)
            keep_store_hold(store, SIZE_MAX, SIZE_MAX);
        else if (store->measures && store->count)
            keep_store_hold(store, SIZE_MAX, (size_t)(share * (double)store->bytes));
        else if (store->count)
            keep_store_hold(store, (size_t)(share * (double)store->count) + 1, SIZE_MAX);
    }
}

void keep_ceiling_trade(keep_store_t *store, size_t bytes) {
    static bool is_busy; /* what goes may put something in */
    put_since_trade += bytes + KEEP_ENTRY_BYTES;
    if (put_since_trade < ceiling / TRADE_SHARE || is_busy) return;
    size_t slice = put_since_trade;
    put_since_trade = 0;
    decay(slice);
    keep_store_t *other = least_valuable();
    if (!other || other == store || other->bytes < slice) return;
    size_t held = other->bytes, before;
    do {
        before = other->bytes;
        keep_evict_one(other, true);
    } while (other->count && held - other->bytes < slice && other->bytes < before);
    size_t given = held - other->bytes;
    keep_store_hold(store, SIZE_MAX, store->bound_bytes + given);
    if (other->bound_bytes < other->max_bytes)
        keep_store_hold(other, SIZE_MAX, other->bound_bytes - given);
    is_busy = true;
    keep_drain(other);
    is_busy = false;
}
