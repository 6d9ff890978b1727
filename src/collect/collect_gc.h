/* Garbage collections, as they are seen from outside: the process says where its collector notes that it is running (region.h), and
 * the recorder reads it there, every 10 ms and, while it runs, every millisecond.
 *
 * So no code runs in the process for it. What is shorter than the time between two looks is seen by chance; what is seen twice is
 * told, with a duration that is right to about that time. Where the process's memory cannot be read there are no events.
 */
#ifndef LOWTIDE_COLLECT_COLLECT_GC_H
#define LOWTIDE_COLLECT_COLLECT_GC_H

#include "collect/collect.h"

/* Looks at the collectors of all processes. Returns in how many microseconds to look again. */
uint64_t gc_look(collect_t *c);

#endif
