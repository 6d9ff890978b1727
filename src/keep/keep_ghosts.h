/* Ghosts: fingerprints of what a store's queues lost lately, in pairs of slots.
 *
 *   slot   ┌────────────┬─────────┬──────────┐
 *          │ name 19    │ queue 1 │ epoch 12 │   0: as good as expired
 *          └────────────┴─────────┴──────────┘
 *
 * Each queue has a clock, which goes on by GHOST_EPOCHS while the queue loses nine tenths of what the cache
 * holds; that long its ghosts last. The main queue loses so much less than the small one that its ghosts must
 * outlive many of the other's: only one of MAIN_SAMPLED of its entries leaves one, which counts for all, and
 * none of the small queue's takes its place. */
#ifndef KEEP_GHOSTS_H
#define KEEP_GHOSTS_H

#include "keep/keep_store.h"

enum { GHOST_EPOCHS = 64, GHOST_EPOCH_MASK = 4095, GHOST_OF_MAIN = 4096, MAIN_SAMPLED = 4 };

/* Before keep_ghosts_add: whether there are slots. */
bool keep_ghosts_fit(keep_store_t *store);
/* A tag whose ghost is there, at one of the pair. Forgets it, and learns from it the small queue's share.
 * -> whether it came back to the small queue too late, so that it belongs into the main queue */
bool keep_ghost_returns(keep_store_t *store, uint32_t *slot);

static inline uint32_t keep_ghost_name(uint32_t tag) {
    return (tag * UINT32_C(0x9E3779B1)) & ~(uint32_t)(GHOST_EPOCH_MASK | GHOST_OF_MAIN);
}

static inline uint32_t keep_ghost_age(const keep_ghosts_t *ghosts, uint32_t slot) {
    return (ghosts->epoch[(slot & GHOST_OF_MAIN) != 0] - slot) & GHOST_EPOCH_MASK;
}

/* How gladly a slot is given up. */
static inline uint32_t keep_ghost_dispensable(const keep_ghosts_t *ghosts, uint32_t slot) {
    uint32_t age = keep_ghost_age(ghosts, slot);
    return slot & GHOST_OF_MAIN && age < GHOST_EPOCHS ? 0 : age;
}

static inline void keep_ghosts_add(keep_store_t *store, uint32_t tag, bool of_main) {
    keep_ghosts_t *ghosts = &store->ghosts;
    if (!of_main || tag % MAIN_SAMPLED == 0) {
        uint32_t *pair = keep_ghosts_pair(ghosts, tag);
        uint32_t at =
            keep_ghost_dispensable(ghosts, pair[1]) > keep_ghost_dispensable(ghosts, pair[0]);
        pair[at] = keep_ghost_name(tag) | (of_main ? GHOST_OF_MAIN : 0) | ghosts->epoch[of_main];
    }
    uint64_t part = ghosts->in_epoch[of_main] + GHOST_EPOCHS * UINT64_C(10);
    uint64_t whole = store->count * UINT64_C(9);
    if (__builtin_expect(part >= whole, 0)) {
        uint32_t passed = (uint32_t)(part / whole);
        ghosts->epoch[of_main] = (ghosts->epoch[of_main] + passed) & GHOST_EPOCH_MASK;
        part %= whole;
    }
    ghosts->in_epoch[of_main] = part;
}

/* -> the slot of a tag's ghost; NULL: it has none */
static inline uint32_t *keep_ghosts_find(const keep_ghosts_t *ghosts, uint32_t tag) {
    if (!ghosts->slots) return NULL;
    uint32_t *pair = keep_ghosts_pair(ghosts, tag), name = keep_ghost_name(tag);
    for (int i = 0; i < 2; i++) {
        uint32_t differs = (pair[i] ^ name) & ~(uint32_t)(GHOST_EPOCH_MASK | GHOST_OF_MAIN);
        if (__builtin_expect(!differs, 0) && keep_ghost_age(ghosts, pair[i]) < GHOST_EPOCHS)
            return &pair[i];
    }
    return NULL;
}

#endif
