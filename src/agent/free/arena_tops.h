/* Giving back the tops of glibc's arenas other than the main one, which malloc_trim(0) leaves as they are: what a thread's heap
 * has not dealt out yet, up to the trim threshold (128 KiB and more) an arena, with eight arenas a processor.
 *
 *     malloc_state                      heap, at a multiple of 64 MiB
 *     ┌ mutex  (offset 0)               ┌────────┬─ ─ ─ ─┬────────────────────┐
 *     │ top    (96) ───────────────────▶│ header │ chunks│ top: size│ to go   │
 *     └ bins   (112): rings of chunks   └────────┴─ ─ ─ ─┴────────────────────┘
 *
 * Nobody reads what lies in a top behind its size before it is dealt out; calloc clears it. The arena's lock is held meanwhile, taken
 * only when it is free: an arena that is busy is left out. Before that the structure must look as those offsets say: the rings must
 * be rings, and the top must end where the heap does.
 *
 * glibc's malloc must be the one in use. No GIL needed; never in a forked child.
 */
#ifndef LOWTIDE_AGENT_FREE_ARENA_TOPS_H
#define LOWTIDE_AGENT_FREE_ARENA_TOPS_H

#include <stdbool.h>
#include <stdint.h>

void arena_tops_trim(void);
/* One arena, by the address of its structure. False where it was left out. */
bool arena_top_trim(uintptr_t arena);

#endif
