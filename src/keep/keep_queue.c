#include "keep/keep_ghosts.h"

void keep_queue_push(keep_store_t *store, enum keep_queue_name name, uint32_t number) {
    keep_queue_t *queue = &store->queues[name];
    keep_entry_t *entry = &store->entries[number];
    entry->queue = (uint8_t)name;
    entry->hits = 0;
    entry->prev = queue->newest;
    entry->next = 0;
    if (queue->newest)
        store->entries[queue->newest].next = number;
    else
        queue->oldest = number;
    queue->newest = number;
    queue->count++;
    queue->bytes += entry->bytes;
}

void keep_queue_remove(keep_store_t *store, uint32_t number) {
    keep_entry_t *entry = &store->entries[number];
    keep_queue_t *queue = &store->queues[entry->queue];
    if (entry->prev)
        store->entries[entry->prev].next = entry->next;
    else
        queue->oldest = entry->next;
    if (entry->next)
        store->entries[entry->next].prev = entry->prev;
    else
        queue->newest = entry->prev;
    queue->count--;
    queue->bytes -= entry->bytes;
}

/* Of what shrinks, the small queue's share is that of what it holds: it may be far from its own bounds. */
static bool small_is_full(const keep_store_t *store, bool is_shrinking) {
    const keep_queue_t *small = &store->queues[KEEP_SMALL];
    if (!small->count) return false;
    if (!store->queues[KEEP_MAIN].count) return true;
    if (is_shrinking && store->bytes)
        return (double)small->bytes >= store->small_share * (double)store->bytes;
    if (is_shrinking) return small->count >= store->small_share * store->count;
    return small->count >= store->small_items || small->bytes >= store->small_bytes;
}

static bool main_has_room(keep_store_t *store) {
    const keep_queue_t *queue = &store->queues[KEEP_MAIN];
    if (queue->count + store->small_items >= store->max_items ||
        queue->bytes + store->small_bytes >= store->bound_bytes)
        store->was_full = true;
    return !store->was_full;
}

uint32_t keep_pick_victim(keep_store_t *store, bool is_shrinking) {
    while (store->count) {
        bool from_small = small_is_full(store, is_shrinking);
        uint32_t number = store->queues[from_small ? KEEP_SMALL : KEEP_MAIN].oldest;
        keep_entry_t *entry = &store->entries[number];
        uint8_t hits = entry->hits;
        if (!hits && (!from_small || is_shrinking || store->was_full || !main_has_room(store))) {
            if (!from_small && !is_shrinking) store->was_full = true;
            if (keep_ghosts_fit(store)) keep_ghosts_add(store, entry->tag, !from_small);
            store->stats.evictions++;
            return number;
        }
        keep_queue_remove(store, number);
        keep_queue_push(store, KEEP_MAIN, number);
        if (!from_small) entry->hits = hits - 1;
    }
    return 0;
}

uint32_t keep_evict_one(keep_store_t *store, bool is_shrinking) {
    uint32_t number = keep_pick_victim(store, is_shrinking);
    if (number) keep_detach(store, number, true);
    return number;
}
