/* The processes below one, from /proc.
 *
 * What is there for a moment only is among them: a process between vfork and exec, which has its parent's memory (tree_shares_memory), and
 * the copy that a snapshot is read from, whose end signals nobody (exit_signal 0).
 */
#ifndef LOWTIDE_CLI_PROCESS_TREE_H
#define LOWTIDE_CLI_PROCESS_TREE_H

#include "base/vec.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { TREE_PROCESSES_MOST = 4096, TREE_DEPTH_MOST = 64 };

typedef struct tree_process {
    pid_t pid, parent;
    int depth; /* 1: a child */
    int exit_signal;
    char state;         /* as in /proc/PID/stat */
    uint64_t cpu_ticks; /* how long it has run */
    uint64_t image;     /* another after exec; 0: it has no memory any more, or we may not know */
    char name[16];
} tree_process_t;

VEC_DEFINE(tree_processes, tree_process_t);

/* Adds those below pid, parents first. -ENOMEM. */
int tree_below(tree_processes_t *out, pid_t pid);
/* One process; false: it is gone. */
bool tree_read(tree_process_t *out, pid_t pid);

/* 1: it does (vfork), 0: it does not, -1: the kernel does not say. */
int tree_shares_memory(const tree_process_t *p);

/* Is a file of that name mapped there? 1 or 0; -1: not known. */
int tree_maps(pid_t pid, const char *name);

#endif
