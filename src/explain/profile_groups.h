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

/* Of the sites that have some of the figure and of which told[site] is false. A group stands out that is above its error and has
 * a thousandth of the whole. */
int profile_groups(const profile_t *p, int figure, const bool *told, profile_groups_t *out,
                   err_t *e);

#endif
