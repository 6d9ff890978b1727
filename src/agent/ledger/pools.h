/* What pymalloc holds, in sums: live blocks, free ones, empty pools, and what keeps arenas that are nearly empty.
 *
 * pools_read needs the GIL and takes as long as reading every pool's header (some ms a GB); what it returns is the caller's, and
 * needs none. No malloc.
 */
#ifndef LOWTIDE_AGENT_LEDGER_POOLS_H
#define LOWTIDE_AGENT_LEDGER_POOLS_H

#include "agent/ledger/pins.h"
#include "base/vec.h"

typedef struct pools_range {
    uintptr_t begin, end;
} pools_range_t;
VEC_DEFINE(pools_ranges, pools_range_t);

/* One arena: what it holds, and what of it could go. */
typedef struct pools_arena {
    uintptr_t address;
    uint64_t bytes, resident_bytes, live_bytes, returnable_bytes;
} pools_arena_t;
VEC_DEFINE(pools_arenas, pools_arena_t);

typedef struct pools {
    pools_ranges_t arenas; /* by address */
    pools_arenas_t books;  /* the same arenas, in pymalloc's order */
    pools_ranges_t frames; /* the memory of Python frames: mapped by the interpreter for itself */
    uint32_t arena_count, pinned;
    uint64_t pool_count, empty_pools;
    uint64_t live_bytes;       /* of blocks in use, resident or not */
    uint64_t used_pool_bytes;  /* resident, of pools in use */
    uint64_t empty_pool_bytes; /* resident, of empty pools and of what was never carved */
    uint64_t block_returnable_bytes, pool_returnable_bytes;
    pins_line_t pins[PINS_LINES]; /* what keeps the pinned arenas, most bytes first */
    uint32_t pin_count;
    char why[240]; /* "" or why there are no pools */
} pools_t;

int pools_read(pools_t *p, rt_t *rt, err_t *e);
void pools_free(pools_t *p);

#endif
