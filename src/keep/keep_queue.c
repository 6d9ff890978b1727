#include "keep/keep_store.h"

enum { GHOST_EPOCHS = 64, GHOST_EPOCH_MASK = 4095, GHOST_SLOTS_MIN = 64 };

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

static uint32_t ghost_age(const keep_ghosts_t *ghosts, uint32_t slot) {
    return (ghosts->epoch - slot) & GHOST_EPOCH_MASK;
}

/* As many slots as entries; what they held is forgotten when they grow. Without memory there are none. */
static bool ghosts_fit(keep_ghosts_t *ghosts, uint32_t count) {
    if (ghosts->slots && ghosts->mask + 1 >= count) return true;
    uint64_t slots = GHOST_SLOTS_MIN;
    while (slots < count) slots *= 2;
    uint32_t *fresh = PyMem_Calloc(slots, sizeof *fresh);
    if (!fresh) return ghosts->slots != NULL;
    PyMem_Free(ghosts->slots);
    *ghosts =
        (keep_ghosts_t){.slots = fresh, .mask = (uint32_t)(slots - 1), .epoch = GHOST_EPOCHS + 1};
    return true;
}

void keep_ghosts_add(keep_store_t *store, uint32_t tag) {
    keep_ghosts_t *ghosts = &store->ghosts;
    if (!ghosts_fit(ghosts, store->count)) return;
    uint64_t mixed = keep_ghost_mix(tag);
    uint32_t *pair = keep_ghosts_pair(ghosts, tag);
    uint32_t older = ghost_age(ghosts, pair[1]) > ghost_age(ghosts, pair[0]);
    pair[older] = (uint32_t)(mixed >> 44) << 12 | ghosts->epoch;
    if (++ghosts->in_epoch > store->count / 10 * 9 / GHOST_EPOCHS) {
        ghosts->in_epoch = 0;
        ghosts->epoch = (ghosts->epoch + 1) & GHOST_EPOCH_MASK;
    }
}

bool keep_ghosts_take(keep_store_t *store, uint32_t tag) {
    keep_ghosts_t *ghosts = &store->ghosts;
    if (!ghosts->slots) return false;
    uint64_t mixed = keep_ghost_mix(tag);
    uint32_t *pair = keep_ghosts_pair(ghosts, tag);
    for (int i = 0; i < 2; i++) {
        if (pair[i] >> 12 == mixed >> 44 && ghost_age(ghosts, pair[i]) < GHOST_EPOCHS) {
            pair[i] = (ghosts->epoch - GHOST_EPOCHS) & GHOST_EPOCH_MASK;
            return true;
        }
    }
    return false;
}

/* Of what shrinks, the small queue's share is that of what it holds: it may be far from its own bounds. */
static bool small_is_full(const keep_store_t *store, bool is_shrinking) {
    const keep_queue_t *small = &store->queues[KEEP_SMALL];
    if (!small->count) return false;
    if (!store->queues[KEEP_MAIN].count) return true;
    bool is_unbounded = store->bound_items == SIZE_MAX && store->bound_bytes == SIZE_MAX;
    if (is_shrinking && store->bytes) return small->bytes >= store->bytes / 10;
    return small->count >= (is_unbounded ? store->count / 10 : store->small_items) ||
           small->bytes >= store->small_bytes;
}

static bool main_has_room(const keep_store_t *store) {
    const keep_queue_t *queue = &store->queues[KEEP_MAIN];
    return queue->count + store->small_items < store->bound_items &&
           queue->bytes + store->small_bytes < store->bound_bytes;
}

uint32_t keep_pick_victim(keep_store_t *store, bool is_shrinking) {
    while (store->count) {
        bool from_small = small_is_full(store, is_shrinking);
        uint32_t number = store->queues[from_small ? KEEP_SMALL : KEEP_MAIN].oldest;
        keep_entry_t *entry = &store->entries[number];
        uint8_t hits = entry->hits;
        if (from_small ? hits < 2 && (is_shrinking || !main_has_room(store)) : !hits) {
            if (from_small) keep_ghosts_add(store, entry->tag);
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
