#define _GNU_SOURCE
#include "cli/process_tree.h"

#include "base/proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Fields of /proc/PID/stat, as proc(5) counts them. */
enum {
    STATE = 3,
    USER_TICKS = 14,
    SYSTEM_TICKS = 15,
    START_CODE = 26,
    START_STACK = 28,
    EXIT_SIGNAL = 38,
    START_BREAK = 47,
    FIELDS = 53
};
enum { CHILDREN_BYTES = 4096 };
VEC_DEFINE(tree_pids, pid_t);

int tree_maps(pid_t pid, const char *name) {
    char path[64], line[4352];
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *f = fopen(path, "re");
    int found = -1;
    while (f && found < 1 && fgets(line, sizeof line, f)) found = strstr(line, name) != NULL;
    if (f) fclose(f);
    return found;
}

bool tree_read(tree_process_t *out, pid_t pid) {
    char stat[2048];
    uint64_t fields[FIELDS] = {0};
    if (!proc_read(stat, sizeof stat, pid, "stat")) return false;
    /* The name in parentheses may hold anything. */
    char *name = strchr(stat, '('), *at = strrchr(stat, ')');
    if (!name || !at || at[1] != ' ' || !at[2]) return false;
    *at = '\0';
    *out = (tree_process_t){.pid = pid, .state = at[2]};
    snprintf(out->name, sizeof out->name, "%s", name + 1);
    at += 3;
    for (int i = STATE + 1; i < FIELDS && *at; i++) fields[i] = strtoull(at, &at, 10);
    out->parent = (pid_t)fields[STATE + 1];
    out->exit_signal = (int)fields[EXIT_SIGNAL];
    out->cpu_ticks = fields[USER_TICKS] + fields[SYSTEM_TICKS];
    if (!fields[START_STACK]) return true;
    out->image = fields[START_CODE] * 31;
    out->image = (out->image ^ fields[START_STACK]) * 0x9e3779b97f4a7c15ull;
    for (int i = START_BREAK; i < START_BREAK + 3; i++)
        out->image = (out->image ^ fields[i]) * 0x9e3779b97f4a7c15ull;
    out->image |= 1;
    return true;
}

static int add_children(tree_processes_t *out, pid_t pid, int depth);

/* A space stands behind each number; a read may end within one. */
static int read_pids(tree_pids_t *out, int fd) {
    char text[CHILDREN_BYTES];
    size_t held = 0;
    int status = 0;
    for (ssize_t n; !status && (n = read(fd, text + held, sizeof text - 1 - held)) > 0;) {
        char *at = text, *space;
        text[held += (size_t)n] = '\0';
        for (; !status && (space = strchr(at, ' ')); at = space + 1)
            status = tree_pids_push(out, (pid_t)strtol(at, NULL, 10));
        held -= (size_t)(at - text);
        memmove(text, at, held);
    }
    return status;
}

static int children_of_thread(tree_processes_t *out, pid_t pid, const char *task, int depth) {
    char path[300];
    tree_pids_t pids = {0};
    snprintf(path, sizeof path, "/proc/%d/task/%s/children", (int)pid, task);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    /* All at once: where a child ends between two reads, the kernel leaves out another. */
    int status = read_pids(&pids, fd);
    close(fd);
    for (size_t i = 0; i < pids.count && !status; i++) {
        tree_process_t p;
        if (out->count >= TREE_PROCESSES_MOST || !tree_read(&p, pids.at[i]) || p.parent != pid)
            continue;
        p.depth = depth;
        status = tree_processes_push(out, p);
        if (!status && depth < TREE_DEPTH_MOST) status = add_children(out, p.pid, depth + 1);
    }
    tree_pids_free(&pids);
    return status;
}

static int add_children(tree_processes_t *out, pid_t pid, int depth) {
    char path[64];
    int status = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    for (struct dirent *d; tasks && !status && (d = readdir(tasks));)
        if (d->d_name[0] != '.') status = children_of_thread(out, pid, d->d_name, depth);
    if (tasks) closedir(tasks);
    return status;
}

int tree_below(tree_processes_t *out, pid_t pid) {
    return add_children(out, pid, 1);
}

int tree_shares_memory(const tree_process_t *p) {
    long order = syscall(SYS_kcmp, p->pid, p->parent, KCMP_VM, 0, 0);
    return order < 0 ? -1 : order == 0;
}
