#define _GNU_SOURCE
#include "cli/top_more.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GIL_MS = 2000, PAUSE_MS_MOST = 200, DEPTH_MOST = 16 };

static int by_bytes(const void *a, const void *b) {
    const top_line_t *x = a, *y = b;
    return x->bytes < y->bytes ? 1 : x->bytes > y->bytes ? -1 : strcmp(x->name, y->name);
}

typedef struct ledger_lines {
    top_line_t at[TOP_LINES_MOST];
    size_t n;
} ledger_lines_t;

static void heard(void *arg, const ctl_msg_t *m) {
    ledger_lines_t *lines = arg;
    if (m->type != CTL_LINE || lines->n == TOP_LINES_MOST) return;
    top_line_t *line = &lines->at[lines->n++];
    line->bytes = m->line.bytes;
    snprintf(line->name, sizeof line->name, "%s", m->line.name);
}

int top_ledger(top_more_t *m, agent_talk_t *talk, uint32_t timeout_ms) {
    ctl_msg_t ask = {.type = CTL_RSS,
                     .free = {.timeout_ms = GIL_MS, .pause_ms_max = PAUSE_MS_MOST}};
    ctl_result_t result;
    err_t e;
    ledger_lines_t lines = {.n = 0};
    int status = agent_talk_work(talk, &ask, -1, heard, &lines, timeout_ms, &result, &e);
    if (status == -ESRCH) return status;
    if (status || !lines.n) return 0;
    qsort(lines.at, lines.n, sizeof lines.at[0], by_bytes);
    memcpy(m->ledger, lines.at, lines.n * sizeof lines.at[0]);
    m->lines = lines.n;
    return 0;
}

/* ── Children ── */

static size_t slurp(char *out, size_t room, const char *form, int a, const char *b) {
    char path[320];
    snprintf(path, sizeof path, form, a, b);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, out, room - 1);
    if (fd >= 0) close(fd);
    out[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

static void add_below(top_more_t *m, pid_t pid, int depth);

static void add(top_more_t *m, pid_t pid, int depth) {
    char text[256];
    if (m->count == TOP_CHILDREN_MOST) return;
    top_child_t *c = &m->children[m->count];
    *c = (top_child_t){.pid = pid, .depth = depth};
    slurp(text, sizeof text, "/proc/%d/%s", pid, "statm");
    const char *at = strchr(text, ' ');
    c->rss_bytes = at ? strtoull(at + 1, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
    size_t n = slurp(c->command, sizeof c->command, "/proc/%d/%s", pid, "cmdline");
    for (size_t i = 0; i + 1 < n; i++)
        if (!c->command[i]) c->command[i] = ' ';
    if (!n) return; /* a zombie, or the kernel's */
    m->count++;
    if (depth < DEPTH_MOST) add_below(m, pid, depth + 1);
}

static void add_below(top_more_t *m, pid_t pid, int depth) {
    char path[64], pids[4096];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    for (struct dirent *d; tasks && (d = readdir(tasks));) {
        char name[sizeof d->d_name + 16];
        if (d->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "%s/children", d->d_name);
        slurp(pids, sizeof pids, "/proc/%d/task/%s", (int)pid, name);
        pid_t child;
        for (char *at = pids, *end; (child = (pid_t)strtol(at, &end, 10)) > 0; at = end)
            add(m, child, depth);
    }
    if (tasks) closedir(tasks);
}

void top_children(top_more_t *m, pid_t pid) {
    m->count = 0;
    add_below(m, pid, 1);
}
