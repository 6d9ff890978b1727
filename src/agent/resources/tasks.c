/* Threads: the interpreter's list of those that run Python, the kernel's of all, and how much of each one's stack is in memory. */
#define _GNU_SOURCE
#include "agent/ledger/maps.h"
#include "agent/resources/resources.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRIES_BYTES = 16384, NAME_BYTES = 32 };

/* glibc puts what pthread_self points to at the top of the stack that it maps. */
static uint64_t stack_bytes(const maps_t *maps, uint64_t ident, bool main) {
    size_t low = 0, high = maps->entries.count;
    if (main) {
        for (size_t i = high; i-- > 0;)
            if (strncmp(maps->entries.at[i].name, "[stack", 6) == 0)
                return maps->entries.at[i].rss_bytes;
        return 0;
    }
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (maps->entries.at[middle].end <= ident)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == maps->entries.count || maps->entries.at[low].begin > ident) return 0;
    return maps->entries.at[low].rss_bytes;
}

/* The object of a thread that runs. A number of a thread that has ended may be another's now. */
static const resource_t *object_of(const resources_t *r, uint64_t ident) {
    const resource_t *best = NULL;
    for (size_t i = 0; i < r->threads.count; i++) {
        const resource_t *t = &r->threads.at[i];
        if (t->ident == ident && (!best || t->running || !best->running)) best = t;
    }
    return best;
}

static void add_thread(resources_t *r, const rt_thread_t *t, const maps_t *maps) {
    const resource_t *object = t->ident ? object_of(r, t->ident) : NULL;
    resource_t *row = resources_add(r, "thread", (int64_t)t->native_id);
    if (!row) return;
    row->ident = t->ident;
    row->bytes = stack_bytes(maps, t->ident, t->is_main);
    if (object) {
        row->address = object->address;
        row->block = object->block;
        row->name = object->name;
        row->note = object->note;
    } else {
        row->name = resources_text(r, t->is_main ? "MainThread" : "");
    }
}

static bool is_told(const resources_t *r, size_t first, int64_t tid) {
    for (size_t i = first; i < r->rows.count; i++)
        if (r->rows.at[i].number == tid) return true;
    return false;
}

static void add_native(resources_t *r, uint32_t of, int64_t tid) {
    char path[64], name[NAME_BYTES];
    snprintf(path, sizeof path, "/proc/%u/task/%lld/comm", of, (long long)tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, name, sizeof name - 1);
    if (fd >= 0) close(fd);
    if (n <= 0) return; /* it has ended meanwhile */
    name[n - (name[n - 1] == '\n')] = '\0';
    resource_t *row = resources_add(r, "thread", tid);
    if (!row) return;
    row->name = resources_text(r, name);
    row->note = resources_text(r, "runs no Python");
}

static void add_natives(resources_t *r, size_t first, uint32_t of, uint64_t hide_tid) {
    static char entries[ENTRIES_BYTES] __attribute__((aligned(8)));
    char path[40];
    snprintf(path, sizeof path, "/proc/%u/task", of);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    long n;
    if (fd < 0) return;
    while ((n = syscall(SYS_getdents64, fd, entries, sizeof entries)) > 0) {
        for (long at = 0; at < n;) {
            const struct dirent64 *e = (const void *)(entries + at);
            int64_t tid = e->d_name[0] >= '0' && e->d_name[0] <= '9' ? atoll(e->d_name) : 0;
            at += e->d_reclen;
            if (!tid || (uint64_t)tid == hide_tid) continue;
            if (!is_told(r, first, tid)) add_native(r, of, tid);
        }
    }
    close(fd);
}

void resources_read_threads(resources_t *r, const rt_t *rt, uint32_t of, uint64_t hide_tid) {
    maps_t maps;
    err_t e;
    size_t first = r->rows.count;
    if (maps_read(&maps, of, &e)) memset(&maps, 0, sizeof maps);
    for (rt_addr_t i = rt_interp_first(rt); i; i = rt_interp_next(rt, i)) {
        rt_thread_t t;
        for (rt_thread_first(rt, i, &t); t.address; rt_thread_next(rt, &t))
            if (!hide_tid || t.native_id != hide_tid) add_thread(r, &t, &maps);
    }
    add_natives(r, first, of ? of : (uint32_t)getpid(), hide_tid);
    maps_free(&maps);
}
