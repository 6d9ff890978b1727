/* The mappings of this process as /proc/self/smaps tells them, and what each has in memory.
 *
 * Read whole into mapped memory: no malloc, no stdio. One thread at a time. Errors: a negative errno and a line.
 */
#ifndef LOWTIDE_AGENT_LEDGER_MAPS_H
#define LOWTIDE_AGENT_LEDGER_MAPS_H

#include "base/err.h"
#include "base/vec.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct map_entry {
    uintptr_t begin, end;
    bool readable, writable, executable, shared;
    uint64_t inode;
    const char *name; /* within maps_t.text, zero-terminated; "" for anonymous memory */
    uint64_t rss_bytes, swap_bytes, huge_bytes;
} map_entry_t;
VEC_DEFINE(map_entries, map_entry_t);

typedef struct maps {
    char *text;
    size_t text_bytes;
    map_entries_t entries; /* by address */
    uint64_t rss_bytes, swap_bytes, huge_bytes;
} maps_t;

/* of: a PID, 0 for this process. */
int maps_read(maps_t *m, uint32_t of, err_t *e);
/* What maps_read does with what it read: `bytes` of m->text, which is cut up and has room for one byte more. Whatever the text,
 * every entry's name lies in it. */
int maps_parse(maps_t *m, size_t bytes, err_t *e);
void maps_free(maps_t *m);

#endif
