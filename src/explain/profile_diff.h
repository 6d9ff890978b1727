/* What two profiles and more of one program say of the same lines, oldest first.
 *
 * Sites are matched by file, function and line; of those left over, by function and the text of the line (in whichever
 * directory the file lies), then by file, function and the line's distance from the function's first. So a line that
 * moved stays the line that it is, and one that was rewritten is another.
 */
#ifndef LOWTIDE_EXPLAIN_PROFILE_DIFF_H
#define LOWTIDE_EXPLAIN_PROFILE_DIFF_H

#include "explain/profile.h"

typedef struct profile_change {
    const profile_frame_t *frame; /* as in the last recording that has it */
    uint32_t line_before;         /* where it stood in the first that has it; 0: there, too */
    const profile_sums_t **sums;  /* one a recording, NULL: not there */
    const profile_frame_t *from;  /* the program's own line that it came by, or NULL */
    int64_t grown_bytes[PROFILE_FIGURES], grown_blocks[PROFILE_FIGURES]; /* last - first */
    uint64_t error_bytes[PROFILE_FIGURES]; /* of the growth: half of its 95 % interval */
} profile_change_t;

typedef struct profile_diff {
    uint32_t recordings, count;
    profile_change_t *changes;
    profile_change_t all; /* of all lines together; no frame */
    arena_t memory;
} profile_diff_t;

/* The profiles stay the caller's and must outlive the diff. n >= 2. */
int profile_diff(const profile_t *const *profiles, uint32_t n, profile_diff_t *out, err_t *e);
void profile_diff_free(profile_diff_t *d);
/* Is the growth no more than its error? */
bool profile_change_within(const profile_change_t *c, int figure);
/* Most grown first, shrunk ones last: `count` indexes for the caller to mem_free. */
int profile_diff_order(const profile_diff_t *d, int figure, uint32_t **out, err_t *e);

#endif
