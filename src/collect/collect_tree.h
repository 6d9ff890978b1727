/* One limit for a tree of processes: who has how much of it.
 *
 *     agent, of each process                      recorder, at its looks
 *     region.limit_bytes ───────────────────────▶ adds up what all have resident
 *     tree_beside, tree_share, tree_largest ◀──── what the others have; its share; is it the largest
 *
 * Pages that several share count once: near the limit (85 % by plain RSS) each process's proportional share (PSS, smaps_rollup) is
 * read, which makes the kernel walk its page tables, in a twentieth of the time at most; between two readings a process's RSS moves
 * on from there. Until it was read once, and where it may not be, RSS counts. Only processes that called are known: Pythons.
 */
#ifndef LOWTIDE_COLLECT_COLLECT_TREE_H
#define LOWTIDE_COLLECT_COLLECT_TREE_H

#include "collect/collect.h"

/* In how many µs to come again; UINT64_MAX where no process has a limit. */
uint64_t tree_look(collect_t *c);

#endif
