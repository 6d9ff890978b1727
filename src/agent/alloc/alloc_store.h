/* What the hooks write: the region shared with the recorder, and how its texts, frames, stacks and cells are found again.
 *
 * Any thread, no lock, no malloc. One store a process; nothing here knows Python or hooks.
 */
#ifndef LOWTIDE_ALLOC_STORE_H
#define LOWTIDE_ALLOC_STORE_H

#include "base/err.h"
#include "control/region.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Makes a region and what finds things in it. *fd: the caller's. */
int store_open(enum region_mode mode, uint64_t interval_bytes, int *fd, err_t *e);
void store_close(void);       /* in a forked child: the parent's goes on */
region_t *store_region(void); /* NULL: none */

/* Numbers of things. Of a stack that finds no room the innermost frame of Python alone is kept, and where there is none for that
 * either it is 0, "(stacks beyond the table)", as are other things. */
uint32_t store_text(const char *text, size_t bytes);
uint32_t store_frame(const region_frame_t *frame);
uint32_t store_stack(uint32_t parent /* + 1 */, uint32_t frame);
uint32_t store_cell(uint32_t stack, uint32_t domain);
uint32_t store_domain(uint32_t cell);
uint32_t store_stack_of(uint32_t cell);

/* What an allocation or a free changes a cell by. */
typedef struct store_change {
    int64_t bytes, blocks; /* as they count; below 0 at a free */
    uint64_t variance;     /* in units of 2^20 bytes² */
    bool alone; /* the caller holds the only GIL, and all who change this cell hold one */
} store_change_t;

void store_born(uint32_t cell, const store_change_t *c);
void store_died(uint32_t cell, const store_change_t *c); /* takes c away */
/* Called in store_born where the recorder wants a snapshot: by any thread, inside of an allocation. NULL: by nobody. */
void store_on_peak(void (*call)(void));

/* The blocks that were sampled. A block that is there already is replaced: its end was missed. */
bool store_block_put(uintptr_t address, uint64_t bytes, uint32_t cell, region_block_t *replaced);
bool store_block_take(uintptr_t address, region_block_t *taken);

void store_event(uint32_t kind, uint32_t value, uint64_t duration_ns, const char *text);

#endif
