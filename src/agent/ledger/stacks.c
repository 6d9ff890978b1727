#define _GNU_SOURCE
#include "agent/ledger/stacks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRIES_BYTES = 4096, TEXT_BYTES = 256 };

uintptr_t stacks_parse(const char *text) {
    const char *last = strrchr(text, ' '), *at = last;
    while (at && at > text && at[-1] != ' ') at--;
    return at ? strtoull(at, NULL, 16) : 0; /* "running": no space */
}

/* false: this process may not be asked, and its other threads need not be tried. */
static bool read_one(stack_points_t *out, uint32_t of, const char *tid) {
    char path[64], text[TEXT_BYTES];
    snprintf(path, sizeof path, "/proc/%u/task/%.20s/syscall", of, tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    bool refused = n < 0 && (errno == EPERM || errno == EACCES);
    if (fd >= 0) close(fd);
    if (n <= 0) return !refused;
    text[n] = '\0';
    uintptr_t point = stacks_parse(text);
    if (point) (void)stack_points_push(out, point); /* one less to know, where memory is out */
    return true;
}

void stacks_read(stack_points_t *out, uint32_t of) {
    char entries[ENTRIES_BYTES] __attribute__((aligned(8))), path[32];
    if (!of) of = (uint32_t)getpid();
    snprintf(path, sizeof path, "/proc/%u/task", of);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool may = fd >= 0;
    long n;
    while (may && (n = syscall(SYS_getdents64, fd, entries, sizeof entries)) > 0) {
        for (long at = 0; may && at < n;) {
            const struct dirent64 *one = (const void *)(entries + at);
            if (one->d_name[0] != '.') may = read_one(out, of, one->d_name);
            at += one->d_reclen;
        }
    }
    if (fd >= 0) close(fd);
}

uintptr_t stacks_point(const stack_points_t *points, uintptr_t begin, uintptr_t end) {
    for (size_t i = 0; i < points->count; i++)
        if (points->at[i] >= begin && points->at[i] < end) return points->at[i];
    return begin;
}
