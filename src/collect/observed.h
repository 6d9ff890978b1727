/* One process's region (control/region.h) as its recorder sees it.
 *
 * The process writes on while we read, and may be anybody's: nothing in the region is believed. Where the parts lie is read
 * once, at observed_open, and checked against the region's size, which a seal keeps it from changing; every index is checked where
 * it is used. What does not hold reads as nothing. One thread.
 */
#ifndef LOWTIDE_COLLECT_OBSERVED_H
#define LOWTIDE_COLLECT_OBSERVED_H

#include "base/err.h"
#include "control/region.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct observed_part {
    const void *at;
    uint64_t room;
    const _Atomic uint64_t *used;
} observed_part_t;

typedef struct observed {
    region_t *
        region; /* shared; rss_epoch, snapshot_above, heap_recent_bytes and tree_… are ours to change */
    uint64_t bytes;
    uint32_t mode;
    uint64_t interval_bytes, begin_ns;
    uint64_t gc_collecting, gc_stats; /* addresses in the process, which are only ever read there */
    observed_part_t texts, frames, stacks, cells, blocks, events;
} observed_t;

/* A text that lies in the region: not zero-terminated, and never more than OBSERVED_TEXT_MOST bytes. */
enum { OBSERVED_TEXT_MOST = 4096 };
typedef struct observed_text {
    const char *at;
    size_t bytes;
} observed_text_t;

/* A cell's figures at one moment. */
typedef struct observed_counts {
    int64_t bytes, blocks; /* never below 0 */
    uint64_t variance;
} observed_counts_t;

typedef struct observed_cell {
    uint32_t stack, domain;
    observed_counts_t live, total, peak, rss_peak;
} observed_cell_t;

/* Takes a mapping of the memory behind fd, which stays the caller's. -EBADMSG: not a region, or one of another build. */
int observed_open(observed_t *o, int fd, err_t *e);
void observed_close(observed_t *o);

/* How many elements of a part are there, never more than its room. */
uint64_t observed_used(const observed_part_t *part);

bool observed_frame(const observed_t *o, uint64_t i, region_frame_t *out);
bool observed_stack(const observed_t *o, uint64_t i, region_stack_t *out);
bool observed_cell(const observed_t *o, uint64_t i, observed_cell_t *out);
bool observed_event(const observed_t *o, uint64_t i, region_event_t *out);
/* What of it is alive, and what it made in all; false: it is being made. */
bool observed_cell_now(const observed_t *o, uint64_t i, uint64_t *live, uint64_t *total);
/* false: no block is in that slot. */
bool observed_block(const observed_t *o, uint64_t i, region_block_t *out);
/* Is the block of this address still in that slot? A slot is emptied before its block goes. */
bool observed_block_is(const observed_t *o, uint64_t i, uint64_t address);
/* "" where there is none. */
observed_text_t observed_text(const observed_t *o, uint32_t offset);

/* Live now, never below 0. */
uint64_t observed_heap_bytes(const observed_t *o);
uint64_t observed_heap_peak_bytes(const observed_t *o); /* at the highest */
/* The most that was alive at once since it was last asked. */
uint64_t observed_heap_recent_bytes(const observed_t *o);
/* How often a stack was counted without its callers, and a block not at all, for want of room. */
void observed_lost(const observed_t *o, uint64_t *stacks, uint64_t *blocks);
/* How many forked children could not call us, and why (errno); and why it could not itself at its end, or 0. */
void observed_mute(const observed_t *o, uint64_t *children, uint32_t *children_code,
                   uint32_t *end_code);
/* How many programs it started that cannot call; names: where in texts the first few are, or 0. */
uint64_t observed_silent(const observed_t *o, uint32_t names[REGION_SILENT_NAMES]);
/* The process is to call for a snapshot when more is live than that; UINT64_MAX: never. */
void observed_snapshot_above(observed_t *o, uint64_t bytes);
/* Nobody will read the region any more: the process need not count. */
void observed_dismiss(observed_t *o);
/* The soft limit that the process has; 0: none. */
uint64_t observed_limit(const observed_t *o);
/* What it shares that with (region.h). */
void observed_tree(observed_t *o, int64_t beside, uint32_t share, bool largest, uint64_t now_ns);
/* The RSS stands at its highest: what is live from here on is the new peak. */
void observed_rss_peak(observed_t *o);

#endif
