/* What `lowtide top` shows, as a screen and as JSON: from what top.c watches and top_more.c asks for. */
#ifndef LOWTIDE_CLI_TOP_VIEW_H
#define LOWTIDE_CLI_TOP_VIEW_H

#include "cli/attach_tree.h"
#include "cli/record.h"
#include "cli/top_more.h"
#include "view/screen.h"

#include <stdbool.h>
#include <stdint.h>

enum { TOP_SITES_MOST = 4096 };

typedef struct top_site {
    uint32_t frame;
    uint64_t live_bytes, live_blocks, total_bytes;
    double live_variance, total_variance; /* bytes² */
} top_site_t;

typedef struct top {
    pid_t pid;
    bool once, json, quit;
    uint32_t every_ms;
    agent_talk_t talk;
    ctl_profile_t profile;
    record_t record; /* never written */
    attach_tree_t tree;
    top_site_t sites[TOP_SITES_MOST]; /* most live bytes first */
    size_t count;
    uint64_t interval_bytes;            /* the longest of those watched */
    double live_variance;               /* of all sites together */
    uint64_t made_bytes, made_us, rate; /* allocated in all, by when; and a second */
    double made_variance;
    uint64_t rate_error;
    top_more_t more;
    uint64_t ledger_us; /* when it was last asked for */
} top_t;

/* At most `rows` lines. The process is there. */
void top_draw(const top_t *t, const screen_t *s, int rows);
void top_json(const top_t *t, FILE *file);

#endif
