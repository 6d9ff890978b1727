#define _GNU_SOURCE
#include "cli/top_more.h"

#include "base/proc.h"
#include "cli/process_tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GIL_MS = 2000, PAUSE_MS_MOST = 200 };

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
    if (m->first_lines) return 0;
    memcpy(m->first, lines.at, lines.n * sizeof lines.at[0]);
    m->first_lines = lines.n;
    return 0;
}

int64_t top_growth(const top_more_t *m, const top_line_t *line) {
    for (size_t i = 0; i < m->first_lines; i++)
        if (strcmp(m->first[i].name, line->name) == 0)
            return (int64_t)line->bytes - (int64_t)m->first[i].bytes;
    return (int64_t)line->bytes;
}

/* ── Children ── */

static void add(top_more_t *m, const tree_process_t *p) {
    char text[256];
    top_child_t *c = &m->children[m->count];
    *c = (top_child_t){.pid = p->pid, .depth = p->depth};
    proc_read(text, sizeof text, p->pid, "statm");
    const char *at = strchr(text, ' ');
    c->rss_bytes = at ? strtoull(at + 1, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
    size_t n = proc_read(c->command, sizeof c->command, p->pid, "cmdline");
    for (size_t i = 0; i + 1 < n; i++)
        if (!c->command[i]) c->command[i] = ' ';
    if (n) m->count++; /* else a zombie, or the kernel's */
}

void top_children(top_more_t *m, pid_t pid) {
    tree_processes_t all = {0};
    m->count = 0;
    tree_below(&all, pid);
    for (size_t i = 0; i < all.count && m->count < TOP_CHILDREN_MOST; i++) add(m, &all.at[i]);
    tree_processes_free(&all);
}
