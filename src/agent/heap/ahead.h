/* Looks ahead in the queue, so that memory is on its way when the walk comes to need it.
 *
 *     id + 64   the object itself
 *     id + 40   what it points to: items, keys, values
 *     id + 20   the side table's entries for its first references
 *
 * A fifth off the walk of a heap in random order; nothing where it stands as it was allocated.
 *
 * A fault while looking is nobody's: k->looking is set meanwhile, and the walk goes on at the same object.
 */
#ifndef LOWTIDE_HEAP_AHEAD_H
#define LOWTIDE_HEAP_AHEAD_H

#include "agent/heap/walk.h"

void ahead_look(walk_t *k);

#endif
