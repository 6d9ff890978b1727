/* Which pages of a process are memory: in RAM or in swap, as the kernel's page table says (/proc/PID/pagemap).
 *
 * What a program sets aside is address space; memory it becomes page by page, at the first write. A page that was only ever read is the
 * one page of zeros that all share, and no memory either; from Linux 6.7 on the kernel tells it from others, before that it counts.
 * Where the kernel does not tell (no such file, no right to read it), and behind the budget, every page counts as memory.
 *
 * No malloc, no stdio, 4 KiB of room that the caller gives. One thread at a time; reading harms nobody.
 */
#ifndef LOWTIDE_BASE_PAGES_H
#define LOWTIDE_BASE_PAGES_H

#include <stdbool.h>
#include <stdint.h>

enum { PAGES_BITS = 12, PAGES_REGIONS = 170, PAGES_ENTRIES = 512 };

#define PAGES_ADDRESS_MOST (UINT64_C(1) << 56)

typedef struct pages_region {
    uint64_t begin, end, categories; /* as in linux/fs.h */
} pages_region_t;

typedef struct pages {
    int fd;          /* -1: the kernel does not tell */
    bool no_scan;    /* it is older than 6.7 */
    uint64_t budget; /* so many pages are looked at yet */
    union {
        pages_region_t regions[PAGES_REGIONS];
        uint64_t entries[PAGES_ENTRIES];
    } room;
} pages_t;

/* Of the process with that PID; 0: of this one. */
void pages_open(pages_t *p, uint32_t pid, uint64_t budget);
void pages_close(pages_t *p);

/* Of the whole pages between the two addresses, the bytes of those that are no memory. Those at the ends are shared with others. */
uint64_t pages_untouched(pages_t *p, uint64_t begin, uint64_t end);

#endif
