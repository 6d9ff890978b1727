/* What `lowtide top` shows beside the sites: where the resident memory is, and the processes below this one. */
#ifndef LOWTIDE_CLI_TOP_MORE_H
#define LOWTIDE_CLI_TOP_MORE_H

#include "cli/agent_talk.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { TOP_LINES_MOST = 64, TOP_CHILDREN_MOST = 64, TOP_NAME_BYTES = 128 };

typedef struct top_line {
    char name[TOP_NAME_BYTES];
    uint64_t bytes;
} top_line_t;

typedef struct top_child {
    pid_t pid;
    int depth; /* 1: a child */
    uint64_t rss_bytes;
    char command[TOP_NAME_BYTES];
} top_child_t;

typedef struct top_more {
    top_line_t ledger[TOP_LINES_MOST]; /* the largest first */
    size_t lines;
    top_line_t first[TOP_LINES_MOST]; /* as it was when it was first read */
    size_t first_lines;
    top_child_t children[TOP_CHILDREN_MOST]; /* parents first */
    size_t count;
} top_more_t;

/* Asks the agent for the ledger: takes the GIL for a moment. What cannot be had leaves the lines as they were. Returns 0, or -ESRCH where
 * the process has ended. */
int top_ledger(top_more_t *m, agent_talk_t *talk, uint32_t timeout_ms);
/* By how much a line of the ledger has grown since it was first read. */
int64_t top_growth(const top_more_t *m, const top_line_t *line);
/* From /proc; the children are not watched. */
void top_children(top_more_t *m, pid_t pid);

#endif
