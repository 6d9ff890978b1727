/* What /proc says about a process and its threads, as far as the injector needs it. Nothing here touches the process. */
#ifndef LOWTIDE_INJECT_INJECT_PROC_H
#define LOWTIDE_INJECT_INJECT_PROC_H

#include "base/vec.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct proc_map {
    uint64_t start, end, offset, inode;
    uint64_t device;
    bool readable, writable, executable;
    const char *path; /* "" for anonymous memory; lives as long as its proc_maps_t */
} proc_map_t;

VEC_DEFINE(proc_map_vec, proc_map_t);
VEC_DEFINE(pid_vec, pid_t);

typedef struct proc_maps {
    proc_map_vec_t list; /* by rising address */
    char *text;
} proc_maps_t;

/* 0, -ESRCH (gone), -EACCES, -ENOMEM. An empty list is no error: zombies and kernel threads have no memory. */
int proc_maps_read(pid_t pid, proc_maps_t *out);
void proc_maps_free(proc_maps_t *m);
const proc_map_t *proc_maps_find(const proc_maps_t *m, uint64_t address); /* NULL: not mapped */

/* A whole file as text, to be freed with free(); NULL and errno. The path is a printf format. */
char *proc_read_text(const char *path, ...) __attribute__((format(printf, 1, 2)));

/* In the text of a status file: the value behind "name:\t", NULL when there is no such line. */
const char *proc_status_value(const char *status, const char *name);
long proc_status_number(const char *status, const char *name, long missing);

int proc_threads(pid_t pid, pid_vec_t *out); /* 0 or a negative errno */

typedef struct proc_stat {
    char state;     /* R, S, D, T, t, Z, X, I */
    unsigned flags; /* PF_… of the kernel */
    uint64_t start; /* in clock ticks since boot */
    int processor;  /* where it ran last */
} proc_stat_t;
int proc_stat_read(pid_t pid, pid_t tid, proc_stat_t *out);

/* The system call in which a thread waits. */
typedef struct proc_call {
    bool running; /* not blocked at all; the rest is then empty */
    long number;  /* -1: blocked, but in no system call (a page fault) */
    uint64_t args[6];
    uint64_t sp, pc;
} proc_call_t;
int proc_call_read(pid_t pid, pid_t tid, proc_call_t *out);

/* For how long a blocked thread has been off its processor, by the scheduler's own clock; -1 where the kernel does not say. Moves the
 * calling thread to that processor and back, since those clocks drift from one another. */
int64_t proc_asleep_ms(pid_t pid, pid_t tid);
long proc_switches(pid_t pid, pid_t tid); /* voluntary context switches so far; -1 = unknown */

/* The thread of `pid` that calls itself `inner` in its own PID namespace; 0 when there is none. */
pid_t proc_thread_by_inner(pid_t pid, pid_t inner);

#endif
