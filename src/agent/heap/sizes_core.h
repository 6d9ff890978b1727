/* Sizes of built-in and stdlib types that are often many, as their own `__sizeof__` reckons them.
 *
 * The walk could call those functions too, and for rare types it does. But each makes an int, and where that comes from
 * malloc (PYTHONMALLOC=malloc, tracemalloc) a lock may be held for ever in a forked child.
 */
#ifndef LOWTIDE_HEAP_SIZES_CORE_H
#define LOWTIDE_HEAP_SIZES_CORE_H

#include "agent/heap/kinds.h"

/* The function for the type whose dict has the `__sizeof__`; NULL when there is none. */
kind_measure_fn size_core_find(const walk_t *k, rt_addr_t owner);

#endif
