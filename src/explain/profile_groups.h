/* Lines of which none stands out, taken together: by function, or where most is in functions of which none stands out either,
 * by file. */
#ifndef LOWTIDE_EXPLAIN_PROFILE_GROUPS_H
#define LOWTIDE_EXPLAIN_PROFILE_GROUPS_H

#include "explain/profile.h"

typedef struct profile_group {
    const profile_frame_t *frame; /* of one of its lines */
    profile_sums_t sums;
    uint32_t lines;
    bool by_function; /* else by file */
} profile_group_t;

typedef struct profile_groups {
    profile_group_t *at; /* those that stand out, most first; for the caller to mem_free */
    uint32_t count;
    profile_group_t others; /* what is in none of them */
} profile_groups_t;

/* A line stands out that is above its error and has a thousandth of the whole. */
bool profile_stands_out(const profile_t *p, const profile_sums_t *sums, int figure);

/* Of the lines of which none stands out, where more than half of the figure is in such; else none, and all that is in them in `others`.
 * A group stands out as a line does. */
int profile_groups(const profile_t *p, int figure, profile_groups_t *out, err_t *e);

#endif
