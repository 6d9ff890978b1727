#include "keep/keep_ghosts.h"

enum { GHOST_SLOTS_MIN = 64, RUN_A_STEP = 8, RUN_STEPS_MAX = 8 };

/* Of the small queue. With the published tenth as the least, steady programs lost up to half a percent of hits. */
static const double SHARE_MIN = 0.01, SHARE_MAX = 0.9;

void keep_share(keep_store_t *store, double share) {
    share = share < SHARE_MIN ? SHARE_MIN : share > SHARE_MAX ? SHARE_MAX : share;
    store->small_share = share;
    store->small_items = (size_t)((double)store->max_items * share);
    if (!store->small_items) store->small_items = 1;
    store->small_bytes = (size_t)((double)store->bound_bytes * share) + 1;
}

/* Half as many slots again as entries; what they held is forgotten when they grow. Without memory there are none. */
bool keep_ghosts_fit(keep_store_t *store) {
    keep_ghosts_t *ghosts = &store->ghosts;
    uint64_t wanted = store->count + (uint64_t)store->count / 2, slots = GHOST_SLOTS_MIN;
    if (ghosts->slots && ghosts->mask + UINT64_C(1) >= wanted) return true;
    while (slots < wanted) slots *= 2;
    uint32_t *fresh = PyMem_Calloc(slots, sizeof *fresh);
    if (!fresh) return ghosts->slots != NULL;
    PyMem_Free(ghosts->slots);
    *ghosts = (keep_ghosts_t){.slots = fresh,
                              .mask = (uint32_t)(slots - 1),
                              .epoch = {GHOST_EPOCHS + 1, GHOST_EPOCHS + 1}};
    return true;
}

/* One entry's share more or less for each that says so; up to RUN_STEPS_MAX as long as all say the same. */
static void learn(keep_store_t *store, int direction, uint32_t weight) {
    bool is_same = direction == store->run_direction;
    store->run = is_same ? store->run + weight : 0;
    store->run_direction = (int8_t)direction;
    uint32_t steps = 1 + store->run / RUN_A_STEP;
    if (steps > RUN_STEPS_MAX) steps = RUN_STEPS_MAX;
    keep_share(store,
               store->small_share + direction * (double)(steps * weight) / (store->count + 1.0));
}

bool keep_ghost_returns(keep_store_t *store, uint32_t *slot) {
    keep_ghosts_t *ghosts = &store->ghosts;
    uint32_t age = keep_ghost_age(ghosts, *slot);
    bool of_main = (*slot & GHOST_OF_MAIN) != 0;
    *slot = (ghosts->epoch[0] - GHOST_EPOCHS) & GHOST_EPOCH_MASK;
    if (of_main)
        learn(store, -1, MAIN_SAMPLED);
    else if (age <
             GHOST_EPOCHS / 2) /* after a longer wait, a longer queue would hardly have spared it */
        learn(store, 1, 1);
    return !of_main;
}
