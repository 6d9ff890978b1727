#define _GNU_SOURCE
#include "agent/ledger/resident.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PRESENT (UINT64_C(1) << 63)

void res_open(res_t *r) {
    r->fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    r->guessed = false;
    res_forget(r);
}

void res_close(res_t *r) {
    if (r->fd >= 0) close(r->fd);
    r->fd = -1;
}

void res_forget(res_t *r) {
    r->window = UINT64_MAX;
}

static uint64_t entry(res_t *r, uintptr_t address) {
    uint64_t page = address / RES_PAGE, window = page / RES_WINDOW * RES_WINDOW;
    if (window != r->window) {
        r->window = window;
        ssize_t want = sizeof r->entries;
        ssize_t got = pread(r->fd, r->entries, (size_t)want, (off_t)(window * 8));
        if (got < 0) { /* no such file, or beyond what a user may have */
            r->guessed = true;
            for (int i = 0; i < RES_WINDOW; i++) r->entries[i] = PRESENT;
        } else {
            memset((char *)r->entries + got, 0, (size_t)(want - got));
        }
    }
    return r->entries[page - window];
}

bool res_page(res_t *r, uintptr_t address) {
    return entry(r, address) & PRESENT;
}

uint64_t res_bytes(res_t *r, uintptr_t begin, uintptr_t end) {
    uint64_t bytes = 0;
    begin = (begin + RES_PAGE - 1) / RES_PAGE * RES_PAGE;
    for (; end >= RES_PAGE && begin <= end - RES_PAGE; begin += RES_PAGE)
        if (res_page(r, begin)) bytes += RES_PAGE;
    return bytes;
}

uint64_t res_rss(void) {
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    uint64_t pages = 0;
    ssize_t i = 0;
    while (i < n && text[i] != ' ') i++;
    for (i++; i < n && text[i] >= '0' && text[i] <= '9'; i++)
        pages = pages * 10 + (uint64_t)(text[i] - '0');
    return pages * RES_PAGE;
}
