/* The C bases whose fields are known by layout. */
#ifndef LOWTIDE_HEAP_KIND_BASES_H
#define LOWTIDE_HEAP_KIND_BASES_H

#include "agent/heap/kinds.h"

typedef struct base_field {
    size_t offset; /* of the field in layout_t */
    uint8_t kind;  /* of the label */
    const char *name;
    bool borrowed;
} base_field_t;

typedef struct base_row {
    size_t type; /* of the address in rt_t */
    kind_family_t family;
    const base_field_t *fields; /* up to a NULL name */
} base_row_t;

/* The row of a static type, or NULL. */
const base_row_t *base_find(const rt_t *rt, rt_addr_t type);

#endif
