/* The heap room, to be called by ctypes in a Python whose heap it walks (test_heap_*.py): with the GIL held, in a child made
 * by a raw clone or in place. */
#define _GNU_SOURCE
#include "agent/heap/heap.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROBE_IN_PLACE = 1, PROBE_NO_VALUES = 2 };

typedef struct shared {
    heap_stats_t stats;
    err_t error;
    int status;
    long dirty_before, dirty_after; /* KiB of private dirty memory that is not the walk's own */
} shared_t;

static rt_t rt;
static shared_t *shared;
static char text[1024];

/* Private_Dirty of the mappings that were there before: the walk's own are newer. */
static long probe_dirty(int wanted) {
    static char buffer[4 << 20];
    int fd = open("/proc/self/smaps_rollup", O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, buffer, sizeof buffer - 1);
    if (fd >= 0) close(fd);
    buffer[n > 0 ? n : 0] = 0;
    const char *at = strstr(buffer, wanted ? "Private_Dirty:" : "Rss:");
    return at ? strtol(strchr(at, ':') + 1, NULL, 10) : -1;
}

static void probe_walk(int fd, int flags) {
    heap_options_t options = {.values = !(flags & PROBE_NO_VALUES)};
    rec_writer_t *w;
    shared->dirty_before = probe_dirty(1);
    shared->status = rec_open(&w, fd, 0, 1, &shared->error);
    if (shared->status) return;
    rec_meta(w, "python", rt.version_text);
    shared->status = heap_capture(&rt, &options, w, &shared->stats, &shared->error);
    err_t e;
    int status = rec_close(w, shared->stats.reached, shared->stats.skipped,
                           shared->status ? &e : &shared->error);
    if (!shared->status) shared->status = status;
    /* The walk has given its own memory back: what is dirty now is the target's. */
    shared->dirty_after = probe_dirty(1);
}

/* "" or the line of refusal. The figures of the walk: probe_figures. */
__attribute__((visibility("default"))) const char *probe_heap(const char *path, int flags) {
    err_t e = {0};
    if (!shared)
        shared =
            mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (rt_find(&rt, &e) || rt_prove(&rt, &e) || rt_refresh(&rt, &e)) {
        snprintf(text, sizeof text, "%s", e.text);
        return text;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    shared->status = -EIO;
    snprintf(shared->error.text, sizeof shared->error.text, "the child died");
    if (flags & PROBE_IN_PLACE) {
        probe_walk(fd, flags);
    } else {
        long child = syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L);
        if (child == 0) {
            probe_walk(fd, flags);
            _exit(0);
        }
        int how = 0;
        waitpid((pid_t)child, &how, __WALL);
        if (WIFSIGNALED(how)) {
            snprintf(text, sizeof text, "the child died of signal %d", WTERMSIG(how));
            close(fd);
            return text;
        }
    }
    close(fd);
    text[0] = 0;
    if (shared->status) snprintf(text, sizeof text, "%s", shared->error.text);
    return text;
}

/* Makes one allocation after the other fail, each in a walk of its own, until none is left to fail. Says how many there were
 * and how many walks ended with anything but success or a line for -ENOMEM. */
static void probe_fail_each(void) {
    heap_options_t options = {.values = true};
    long wrong = 0, n = 1;
    for (;; n++) {
        rec_writer_t *w = NULL;
        heap_stats_t stats = {0};
        err_t e = {0};
        int fd = open("/dev/null", O_WRONLY);
        mem_fail_at(n);
        int status = rec_open(&w, fd, 0, 1, &e);
        if (!status) {
            status = heap_capture(&rt, &options, w, &stats, &e);
            int closed = rec_close(w, stats.reached, stats.skipped, status ? NULL : &e);
            if (!status) status = closed;
        }
        bool failed = mem_fail_at(0) == 0;
        close(fd);
        if (!failed) {
            wrong += status != 0;
            break;
        }
        /* Without room to follow the bytecode a frame's stack is merely not known. */
        wrong += status && (status != -ENOMEM || !e.text[0]);
    }
    shared->dirty_before = n;
    shared->dirty_after = wrong;
}

/* "allocations wrong" */
__attribute__((visibility("default"))) const char *probe_failures(void) {
    int how = 0;
    long child = syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L);
    if (child == 0) {
        probe_fail_each();
        _exit(0);
    }
    waitpid((pid_t)child, &how, __WALL);
    snprintf(text, sizeof text, "%ld %ld %d", shared->dirty_before, shared->dirty_after, how);
    return text;
}

__attribute__((visibility("default"))) const char *probe_figures(void) {
    const heap_stats_t *s = &shared->stats;
    snprintf(text, sizeof text,
             "{\"objects\": %llu, \"references\": %llu, \"reached\": %u, \"skipped\": %llu, "
             "\"nonsense\": %llu, "
             "\"shallow\": %llu, \"buffers\": %llu, \"types\": %u, \"walk_ms\": %u, "
             "\"dirty_before\": %ld, "
             "\"dirty_after\": %ld}",
             (unsigned long long)s->objects, (unsigned long long)s->references, s->reached,
             (unsigned long long)s->skipped, (unsigned long long)s->nonsense,
             (unsigned long long)s->shallow_bytes, (unsigned long long)s->buffer_bytes, s->types,
             s->walk_ms, shared->dirty_before, shared->dirty_after);
    return text;
}
