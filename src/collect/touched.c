#include "collect/touched.h"

#include "base/pages.h"

#include <math.h>

enum { PAGES_MOST = 1 << 24 };

/* interval_bytes: 0 where each block is known. */
static uint64_t block_untouched(pages_t *p, uint64_t at, uint64_t bytes, uint64_t interval_bytes,
                                uint64_t *touched) {
    uint64_t begin = (at + (1u << PAGES_BITS) - 1) >> PAGES_BITS, end = (at + bytes) >> PAGES_BITS;
    if (at > PAGES_ADDRESS_MOST || bytes > PAGES_ADDRESS_MOST || begin >= end) return 0;
    uint64_t missing = pages_untouched(p, at, at + bytes);
    uint64_t there = ((end - begin) << PAGES_BITS) - missing;
    double seen = interval_bytes ? -expm1(-(double)bytes / (double)interval_bytes) : 1;
    *touched += (uint64_t)((double)there / seen);
    return (uint64_t)((double)missing / seen);
}

uint64_t touched_not(const observed_t *o, pid_t pid,
                     void (*of_cell)(void *arg, uint32_t cell, uint64_t bytes), void *arg,
                     uint64_t *touched) {
    pages_t pages;
    pages_open(&pages, (uint32_t)pid, PAGES_MOST);
    *touched = 0;
    uint64_t sum = 0, slots = observed_used(&o->blocks);
    for (uint64_t i = 0; pages.fd >= 0 && i < slots; i++) {
        region_block_t block;
        observed_cell_t cell;
        if (!observed_block(o, i, &block) || block.bytes < REGION_LARGE_BYTES ||
            !observed_cell(o, block.cell, &cell))
            continue;
        uint64_t address = atomic_load(&block.address), there = 0;
        uint64_t bytes = block_untouched(
            &pages, address, block.bytes,
            cell.domain == REGION_MMAP || o->mode == REGION_EXACT ? 0 : o->interval_bytes, &there);
        /* One that goes meanwhile looks untouched. */
        if (!observed_block_is(o, i, address)) continue;
        if (bytes) of_cell(arg, block.cell, bytes);
        *touched += there;
        sum += bytes;
    }
    pages_close(&pages);
    return sum;
}
