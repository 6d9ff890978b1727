/* Blocks that an object owns apart from its own: a list's items, a dict's and a set's table, an array's data. A profile knows
 * blocks by their address; and the ledger large ones; so those that either may know (heap_options_t.known) are told with the object whose they are, in the
 * table `blocks`. That is some hundreds of rows, however large the heap.
 */
#ifndef LOWTIDE_AGENT_HEAP_BLOCKS_H
#define LOWTIDE_AGENT_HEAP_BLOCKS_H

#include "agent/heap/walk.h"

/* Of the object at hand; 0 is none. */
void blocks_note(walk_t *k, rt_addr_t block);
/* One of several that it owns. */
void blocks_note_part(walk_t *k, rt_addr_t block, uint64_t bytes);
/* Behind the last object. */
void blocks_write(walk_t *k);

#endif
