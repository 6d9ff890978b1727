/* The attributes that an instance keeps in its dict or inline. */
#ifndef LOWTIDE_HEAP_ATTRIBUTES_H
#define LOWTIDE_HEAP_ATTRIBUTES_H

#include "agent/heap/kinds.h"

/* The dict and the array of inline values of an instance; either may be 0. */
void attributes_find(const walk_t *k, const kind_t *t, rt_addr_t object, rt_addr_t *dict,
                     rt_addr_t *values);
/* One by name, or 0; no descriptor, no class attribute is looked at. */
rt_addr_t attribute_get(walk_t *k, rt_addr_t object, const char *name);

#endif
