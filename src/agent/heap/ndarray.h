/* numpy.ndarray by the layout that its C API has promised since 1.7 (PyArrayObject_fields). */
#ifndef LOWTIDE_HEAP_NDARRAY_H
#define LOWTIDE_HEAP_NDARRAY_H

#include "agent/heap/kinds.h"

/* The object itself with its dimensions; data that it owns goes to k->buffer. */
uint64_t ndarray_size(walk_t *k, const kind_t *t, rt_addr_t array);
void ndarray_add_fields(walk_t *k, kind_t *t); /* base, dtype */
/* The elements of an array of objects that owns its data. */
void ndarray_edges(walk_t *k, rt_addr_t array);

#endif
