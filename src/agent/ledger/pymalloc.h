/* pymalloc's own books, read in place.
 *
 * Arenas of 1 MiB (2 MiB with huge pages) hold pools of 16 KiB, and a pool holds blocks of one size. An arena goes back to the
 * system only when all its pools are empty, so a single block keeps 1 MiB.
 *
 *     arena_object[maxarenas]           arena, from its first address that is a multiple of a pool
 *     ┌ address, pool_address ─────────▶┌──────┬──────┬──────┬──────┬── ─ ─ ─ ─ ─ ─ ┐
 *     │ freepools ──────────────────────│─────▶│free  │ used │ full │  not carved   │
 *     └ nfreepools = free + not carved  └──────┴──────┴──────┴──────┴─── ─ ─ ─ ─ ─ ─┘
 *                                                                    ▲ pool_address
 *
 * Since 3.12 the books hang on the interpreter, where the layout tables say. 3.11 keeps them in static variables without a symbol:
 * they are found by looking for a pointer under which the arena of a known object stands, with the count of arenas close by.
 *
 * Nothing is believed: pym_find walks all arenas and all pool headers and refuses with one line where one number does not agree
 * with the others. The caller holds the GIL, from pym_find until it is done. What interpreters with a GIL of their own have is
 * theirs, and not read.
 */
#ifndef LOWTIDE_AGENT_LEDGER_PYMALLOC_H
#define LOWTIDE_AGENT_LEDGER_PYMALLOC_H

#include "agent/runtime/runtime.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    PYM_POOL_BYTES = 16384,
    PYM_ALIGNMENT = 16,
    PYM_CLASSES = 32,
    PYM_POOLS_MAX = 128,      /* of an arena: 2 MiB */
    PYM_DUMMY_CLASS = 0xffff, /* a pool that is to be laid out anew */
    PYM_OVERHEAD = 48,        /* a pool's header */
    PYM_BLOCKS_MAX = (16384 - 48) / 16
};

/* As CPython has them. */
typedef struct pym_pool {
    uint32_t count, padding;
    uint8_t *freeblock;
    struct pym_pool *next, *prev;
    uint32_t arenaindex, szidx, nextoffset, maxnextoffset;
} pym_pool_t;

typedef struct pym_arena {
    uintptr_t address; /* 0: no arena */
    uint8_t *pool_address;
    uint32_t nfreepools, ntotalpools;
    pym_pool_t *freepools;
    struct pym_arena *next, *prev;
} pym_arena_t;

typedef struct pym {
    pym_arena_t *arenas;
    uint32_t max, allocated; /* slots, and how many are arenas */
    size_t arena_bytes;
    uint32_t own_books; /* other interpreters whose memory is not told here */
} pym_t;

/* Which pools of an arena are free, carved ones only. */
typedef struct pym_map {
    pym_pool_t *first;
    uint32_t carved, free_count;
    bool is_free[PYM_POOLS_MAX];
} pym_map_t;

/* 0; -ENODATA: this Python has no pools (PYTHONMALLOC=malloc, a build without pymalloc), said in one line; -EBADMSG: something
 * does not agree. rt must be proven. */
int pym_find(pym_t *p, rt_t *rt, err_t *e);

/* false where the arena's books do not agree; `why` is then a few words. The arena must be in use. */
bool pym_map(const pym_t *p, uint32_t arena, pym_map_t *map, const char **why);

/* Which of the pool's blocks that were ever handed out are free, and how many of both. False where its list of free blocks is
 * none. The pool must be in use. */
bool pym_blocks(const pym_pool_t *pool, bool is_free[PYM_BLOCKS_MAX], uint32_t *laid_out,
                uint32_t *free_count);

static inline pym_pool_t *pym_pool_at(const pym_map_t *map, uint32_t i) {
    return (pym_pool_t *)((uint8_t *)map->first + (size_t)i * PYM_POOL_BYTES);
}
static inline uint32_t pym_block_bytes(const pym_pool_t *pool) {
    return (pool->szidx + 1) * PYM_ALIGNMENT;
}

#endif
