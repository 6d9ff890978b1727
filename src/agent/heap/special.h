/* C types whose references neither tp_traverse nor tp_members tell rightly: known by name and size.
 *
 *   datetime, time, timezone            no GC: the time zone, where there is one; without, they are shorter than tp_basicsize
 *   functools.lru_cache's wrapper       its links are no GC objects: tp_traverse tells what they hold as the wrapper's own
 *   collections.OrderedDict             a second reference to each key, in its list of nodes
 *   BytesIO                             the bytes inside, which 3.11's tp_traverse does not tell
 *   StringIO                            3.11's lists of what was written and not joined yet
 */
#ifndef LOWTIDE_HEAP_SPECIAL_H
#define LOWTIDE_HEAP_SPECIAL_H

#include "agent/heap/kinds.h"

/* Adds what is known of a C type to a kind that is being made. */
void special_add(walk_t *k, kind_t *t, rt_addr_t c_type);
/* How many bytes less than tp_basicsize its block has. */
uint64_t special_less(const kind_t *t, rt_addr_t object);
/* Takes what an lru_cache's links hold out of k->visited and puts the links there instead. */
void special_links(walk_t *k, rt_addr_t wrapper);
/* The nodes of an OrderedDict as a pseudo-object; its id. */
uint32_t special_order(walk_t *k, rt_addr_t dict);

#endif
