#define _GNU_SOURCE
#include "collect/touched.h"

#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { PAGE_BITS = 12, ENTRIES = 4096, PAGES_MOST = 1 << 24 };
#define ADDRESS_MOST (UINT64_C(1) << 56)
/* A page is there: in memory, or in swap (the kernel's Documentation/admin-guide/mm/pagemap.rst). */
#define PAGE_THERE (UINT64_C(3) << 62)

/* linux/fs.h, from Linux 6.7: which pages are there, without those that were only ever read, and so are the one page of zeros that
 * all share, and no memory. Before that these count as there: nothing tells them from others. */
typedef struct page_region {
    uint64_t begin, end, categories;
} page_region_t;
typedef struct page_scan {
    uint64_t size, flags, begin, end, walk_end, regions, regions_room, pages_most;
    uint64_t inverted, mask, any_of, told;
} page_scan_t;
_Static_assert(sizeof(page_scan_t) == 96, "as the kernel has it");
enum { PAGE_PRESENT = 1 << 3, PAGE_SWAPPED = 1 << 4, PAGE_ZERO = 1 << 5, REGIONS = 256 };
#define PAGEMAP_SCAN _IOWR('f', 16, page_scan_t)

typedef struct pages {
    int pagemap;
    bool no_scan;    /* this kernel has none */
    uint64_t budget; /* pages: what lies beyond it counts as there */
} pages_t;

static bool pages_scan(pages_t *p, uint64_t begin, uint64_t end, uint64_t *missing) {
    page_region_t regions[REGIONS];
    page_scan_t scan = {.size = sizeof scan,
                        .begin = begin << PAGE_BITS,
                        .end = end << PAGE_BITS,
                        .regions = (uint64_t)(uintptr_t)regions,
                        .regions_room = REGIONS,
                        .inverted = PAGE_ZERO,
                        .mask = PAGE_ZERO,
                        .any_of = PAGE_PRESENT | PAGE_SWAPPED,
                        .told = PAGE_PRESENT};
    uint64_t there = 0;
    while (scan.begin < scan.end) {
        int n = ioctl(p->pagemap, PAGEMAP_SCAN, &scan);
        if (n < 0 || n > REGIONS || scan.walk_end <= scan.begin) return false;
        for (int i = 0; i < n; i++) there += (regions[i].end - regions[i].begin) >> PAGE_BITS;
        scan.begin = scan.walk_end;
    }
    *missing = end - begin > there ? end - begin - there : 0;
    p->budget -= end - begin;
    return true;
}

static uint64_t pages_missing(pages_t *p, uint64_t begin, uint64_t end) {
    if (end - begin > p->budget) end = begin + p->budget;
    uint64_t scanned;
    if (begin >= end) return 0;
    if (!p->no_scan && pages_scan(p, begin, end, &scanned)) return scanned;
    p->no_scan = true;
    uint64_t entries[ENTRIES], missing = 0;
    while (begin < end && p->budget > 0) {
        size_t n = end - begin < ENTRIES ? (size_t)(end - begin) : ENTRIES;
        if (n > p->budget) n = p->budget;
        ssize_t got =
            pread(p->pagemap, entries, n * sizeof *entries, (off_t)(begin * sizeof *entries));
        if (got < (ssize_t)sizeof *entries) break;
        n = (size_t)got / sizeof *entries;
        for (size_t i = 0; i < n; i++) missing += !(entries[i] & PAGE_THERE);
        begin += n;
        p->budget -= n;
    }
    return missing;
}

/* interval_bytes: 0 where each block is known. Of whole pages alone: those at its ends it shares with others. */
static uint64_t block_untouched(pages_t *p, uint64_t at, uint64_t bytes, uint64_t interval_bytes,
                                uint64_t *touched) {
    uint64_t begin = (at + (1u << PAGE_BITS) - 1) >> PAGE_BITS, end = (at + bytes) >> PAGE_BITS;
    if (at > ADDRESS_MOST || bytes > ADDRESS_MOST || begin >= end) return 0;
    uint64_t missing = pages_missing(p, begin, end) << PAGE_BITS;
    uint64_t there = ((end - begin) << PAGE_BITS) - missing;
    double seen = interval_bytes ? -expm1(-(double)bytes / (double)interval_bytes) : 1;
    *touched += (uint64_t)((double)there / seen);
    return (uint64_t)((double)missing / seen);
}

uint64_t touched_not(const observed_t *o, pid_t pid,
                     void (*of_cell)(void *arg, uint32_t cell, uint64_t bytes), void *arg,
                     uint64_t *touched) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
    pages_t pages = {.pagemap = open(path, O_RDONLY | O_CLOEXEC), .budget = PAGES_MOST};
    *touched = 0;
    uint64_t sum = 0, slots = observed_used(&o->blocks);
    for (uint64_t i = 0; pages.pagemap >= 0 && i < slots; i++) {
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
    if (pages.pagemap >= 0) close(pages.pagemap);
    return sum;
}
