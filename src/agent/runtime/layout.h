/* Layout tables: where the fields of CPython's structures are, a table for each version and
 * flavour.
 *
 * layout_fields.h is the list of what we need to know; tools/layouts/measure.py compiles a probe
 * from it against each version's own headers and writes layout_tables.c, which is committed. To add
 * a field: add a line to layout_fields.h, run `python3 tools/layouts/measure.py`, and commit both.
 */
#ifndef LOWTIDE_AGENT_LAYOUT_H
#define LOWTIDE_AGENT_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

/* The version has no such field, type or constant. */
#define LAYOUT_ABSENT INT32_MIN

typedef struct layout {
    uint32_t version; /* PY_VERSION_HEX of the headers it was measured with */
    uint8_t debug;
    const char *label; /* "3.13.0", "3.14.10d" */
#define LAYOUT_FIELD(name, ...) int32_t name;
#define LAYOUT_SIZE(name, ...)  int32_t name;
#define LAYOUT_CONST(name, ...) int32_t name;
#define LAYOUT_BITS(name, ...)  int32_t name;
#include "agent/runtime/layout_fields.h"
} layout_t;

extern const layout_t layout_tables[];
extern const size_t layout_table_count;

#endif
