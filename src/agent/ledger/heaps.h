/* What glibc's malloc has in its heaps, read chunk by chunk without its locks.
 *
 *     [heap]                      │ the program break: the main arena
 *     64 MiB-aligned mappings     │ heaps of the other arenas, each with a header that says how far it goes
 *     ┌───────────────────────────┴─┬──────────┬───────┬────────┐
 *     │ in use  (size | bits)       │ free     │ in use│ top    │   a chunk's neighbour behind it says whether it is free
 *     └─────────────────────────────┴──────────┴───────┴────────┘
 *
 * Other threads may allocate meanwhile, so everything is copied by system calls that cannot fault, and a chain that breaks is
 * looked at no further: what lies behind counts as in use. Chunks that a thread keeps in its own cache look like ones in use.
 * No lock, no malloc.
 */
#ifndef LOWTIDE_AGENT_LEDGER_HEAPS_H
#define LOWTIDE_AGENT_LEDGER_HEAPS_H

#include "agent/ledger/maps.h"
#include "agent/ledger/resident.h"

#define HEAPS_ALIGN ((uintptr_t)64 << 20)
#define HEAPS_RESERVED_MIN                                                                         \
    (UINT64_C(1) << 40) /* a mapping of this size is nobody's heap, but
                                         address space set aside (the exact profile's shadow): looking through it takes minutes */
enum { HEAPS_HEADER_MAX = 64, HEAPS_LARGE_MIN = 256 << 10 };

typedef struct heap_bounds {
    uintptr_t begin, end, /* of what may be dealt out */
        arena;            /* its structure; in the arena's first heap right behind the header */
} heap_bounds_t;

typedef struct heap_sum {
    uint64_t free_bytes;       /* resident, of free chunks and the top */
    uint64_t returnable_bytes; /* of these, what free_libc gives back */
    uint64_t top_bytes;        /* of the free ones, resident, at the end of heaps */
    uint64_t free_chunks;
    bool broken; /* not walked to its end */
    /* Told of each chunk in use from HEAPS_LARGE_MIN on, by address; or NULL. */
    void (*large)(void *arg, uintptr_t begin, uintptr_t end);
    void *arg;
} heap_sum_t;

/* Is this mapping, or a part of it from its beginning, a heap of an arena other than the main one? */
bool heaps_is_arena(const map_entry_t *v);
/* The heap of such an arena around an address, by its header. */
bool heaps_bounds(uintptr_t address, heap_bounds_t *out);
/* Adds up one heap: `main` for the program break. */
void heaps_walk(const map_entry_t *v, bool main, res_t *r, heap_sum_t *sum);
/* The program break and every other heap. */
void heaps_walk_all(const maps_t *m, res_t *r, heap_sum_t *sum);
/* Where the block ends that malloc mapped for itself at `begin`, or `begin` where none is. It may go on to `reach`: advice about
 * huge pages cuts a block's mapping in two. */
uintptr_t heaps_mapped_block(uintptr_t begin, uintptr_t reach);

#endif
