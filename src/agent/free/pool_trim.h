/* Giving back what lies free inside pymalloc's arenas.
 *
 * CPython returns an arena when its last pool is empty, and nothing before. But an empty pool can be made to be laid out anew at its
 * next use, as a fresh one is; then nothing of it matters but its header, and the system may have the rest:
 *
 *     the last pools of an arena, all empty    uncarved: pool_address goes down, all 16 KiB go, header and all
 *     an empty pool elsewhere                  szidx = "dummy": its header's page stays, 12 KiB go
 *     a used pool whose last blocks are free   its end is made virgin again: nextoffset goes down to the last block in use, the list
 *                                              of free blocks is linked anew without them, whole pages behind it go
 *
 * In each case pymalloc finds a state which it makes itself, only earlier. Objects are not moved, and no page with a block in use is
 * touched. What pymalloc takes again costs a page fault of a zeroed page.
 *
 * The caller holds the GIL. Every book is read and compared (pym_find) before the first is changed. Nothing here allocates.
 */
#ifndef LOWTIDE_AGENT_FREE_POOL_TRIM_H
#define LOWTIDE_AGENT_FREE_POOL_TRIM_H

#include "agent/ledger/pymalloc.h"
#include "agent/ledger/resident.h"

typedef struct pool_trim {
    /* Not applied: resident, and would be given back, of empty pools and of the free ends of others. */
    uint64_t pool_bytes, block_bytes;
    uint32_t arenas,
        pinned; /* in use; of these: kept for less than a quarter of their blocks' room */
    uint64_t pools, empty; /* carved; of these empty */
    bool stopped;          /* time was up, or the system refused (locked memory) */
} pool_trim_t;

/* Adds what would go back of one arena. */
void pool_trim_predict(const pym_t *p, res_t *r, uint32_t arena, pool_trim_t *sum);
/* r is used where it is not applied. deadline_us by CLOCK_MONOTONIC, 0: none. An arena is done whole or not at all. */
void pool_trim(const pym_t *p, res_t *r, bool apply, int64_t deadline_us, pool_trim_t *out);

#endif
