/* Fewer stacks where a profile has more than a reader can show: what is small counts for its caller, so sums stay true. */
#ifndef LOWTIDE_EXPLAIN_PROFILE_FOLD_H
#define LOWTIDE_EXPLAIN_PROFILE_FOLD_H

#include "explain/profile.h"

/* Node i + 1 is stack i with all that it called; node 0 the whole. */
typedef struct profile_node {
    uint64_t bytes[PROFILE_FIGURES];
    uint32_t parent; /* node */
    uint32_t place;  /* among those that are kept */
    bool kept;
} profile_node_t;

typedef struct profile_nodes {
    profile_node_t *at; /* stack_count + 1 */
    uint32_t count, kept;
    uint64_t parts; /* kept is what has 1/parts of the whole in one of the figures */
} profile_nodes_t;

typedef struct profile_fold {
    uint32_t figures; /* bits: 1 << PROFILE_LIVE … */
    uint64_t parts;   /* to begin with, and half as many until no more than `most` nodes are kept */
    uint32_t most;
} profile_fold_t;

/* 0 or -ENOMEM. The caller frees the nodes in both cases. */
int profile_nodes(const profile_t *p, const profile_fold_t *how, profile_nodes_t *out);
void profile_nodes_free(profile_nodes_t *nodes);

/* Moves the cells of stacks that are not kept to their callers, where there are more than `most` stacks: for views of stacks alone, as
 * sites keep theirs. What no caller is left for stands below a frame of its own. *parts: as above, 0 where nothing was folded. */
int profile_fold(profile_t *p, uint32_t most, uint64_t *parts, err_t *e);

#endif
