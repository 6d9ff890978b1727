#define _GNU_SOURCE
#include "base/pages.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* A page is there: in memory, or in swap (the kernel's Documentation/admin-guide/mm/pagemap.rst). */
#define PAGE_THERE (UINT64_C(3) << 62)

/* linux/fs.h, from Linux 6.7. */
typedef struct page_scan {
    uint64_t size, flags, begin, end, walk_end, regions, regions_room, pages_most;
    uint64_t inverted, mask, any_of, told;
} page_scan_t;
_Static_assert(sizeof(page_scan_t) == 96, "as the kernel has it");
_Static_assert(sizeof(pages_region_t) == 24, "as the kernel has it");
enum { PAGE_PRESENT = 1 << 3, PAGE_SWAPPED = 1 << 4, PAGE_ZERO = 1 << 5 };
#define PAGEMAP_SCAN _IOWR('f', 16, page_scan_t)

void pages_open(pages_t *p, uint32_t pid, uint64_t budget) {
    char path[64] = "/proc/self/pagemap";
    if (pid) snprintf(path, sizeof path, "/proc/%u/pagemap", (unsigned)pid);
    p->fd = open(path, O_RDONLY | O_CLOEXEC);
    p->no_scan = false;
    p->budget = budget;
}

void pages_close(pages_t *p) {
    if (p->fd >= 0) close(p->fd);
    p->fd = -1;
}

/* Page numbers. */
static bool scan(pages_t *p, uint64_t begin, uint64_t end, uint64_t *missing) {
    page_scan_t scan = {.size = sizeof scan,
                        .begin = begin << PAGES_BITS,
                        .end = end << PAGES_BITS,
                        .regions = (uint64_t)(uintptr_t)p->room.regions,
                        .regions_room = PAGES_REGIONS,
                        .inverted = PAGE_ZERO,
                        .mask = PAGE_ZERO,
                        .any_of = PAGE_PRESENT | PAGE_SWAPPED,
                        .told = PAGE_PRESENT};
    uint64_t there = 0;
    while (scan.begin < scan.end) {
        int n = ioctl(p->fd, PAGEMAP_SCAN, &scan);
        if (n < 0 || n > PAGES_REGIONS || scan.walk_end <= scan.begin) return false;
        for (int i = 0; i < n; i++)
            there += (p->room.regions[i].end - p->room.regions[i].begin) >> PAGES_BITS;
        scan.begin = scan.walk_end;
    }
    *missing = end - begin > there ? end - begin - there : 0;
    return true;
}

static uint64_t read_entries(pages_t *p, uint64_t begin, uint64_t end) {
    uint64_t missing = 0;
    while (begin < end) {
        size_t n = end - begin < PAGES_ENTRIES ? (size_t)(end - begin) : PAGES_ENTRIES;
        ssize_t got =
            pread(p->fd, p->room.entries, n * sizeof(uint64_t), (off_t)(begin * sizeof(uint64_t)));
        if (got < (ssize_t)sizeof(uint64_t)) break;
        n = (size_t)got / sizeof(uint64_t);
        for (size_t i = 0; i < n; i++) missing += !(p->room.entries[i] & PAGE_THERE);
        begin += n;
    }
    return missing;
}

uint64_t pages_untouched(pages_t *p, uint64_t begin, uint64_t end) {
    if (p->fd < 0 || end > PAGES_ADDRESS_MOST || begin >= end) return 0;
    begin = (begin + (1u << PAGES_BITS) - 1) >> PAGES_BITS;
    end >>= PAGES_BITS;
    if (begin < end && end - begin > p->budget) end = begin + p->budget;
    if (begin >= end) return 0;
    p->budget -= end - begin;
    uint64_t missing;
    if (p->no_scan || !scan(p, begin, end, &missing)) {
        p->no_scan = true;
        missing = read_entries(p, begin, end);
    }
    return missing << PAGES_BITS;
}
