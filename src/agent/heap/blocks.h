/* Blocks that an object owns apart from its own: a list's items, a dict's and a set's table, an array's data. A profile knows
 * blocks by their address; and the ledger large ones; so those that either may know (heap_options_t.known) are told with the object whose they are, in the
 * table `blocks`. That is some hundreds of rows, however large the heap.
 *
 * What of large ones was set aside and never touched (numpy.zeros, room to grow) is told in the table `untouched`.
 */
#ifndef LOWTIDE_AGENT_HEAP_BLOCKS_H
#define LOWTIDE_AGENT_HEAP_BLOCKS_H

#include "agent/heap/walk.h"

/* From where on the kernel is asked what of a block was never touched: a microsecond or two a block, 25 ms a GiB of such blocks. */
enum { BLOCKS_LARGE_BYTES = 64 << 10 };

void blocks_look(walk_t *k, rt_addr_t block, uint64_t bytes);
/* Of the object at hand, a block that it owns or is: of a large one counts what was never touched. */
static inline void blocks_untouched(walk_t *k, rt_addr_t block, uint64_t bytes) {
    if (__builtin_expect(bytes >= BLOCKS_LARGE_BYTES, 0)) blocks_look(k, block, bytes);
}

/* Of the object at hand; 0 is none. Its bytes, or 0 where it is small or has been looked at. */
void blocks_note(walk_t *k, rt_addr_t block, uint64_t bytes);
/* One of several that it owns. */
void blocks_note_part(walk_t *k, rt_addr_t block, uint64_t bytes);
/* Behind the last object. */
void blocks_write(walk_t *k);

#endif
