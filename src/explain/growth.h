/* What stands at the same place in several recordings. For growth.c and the finding
 * growing-container.
 */
#ifndef LOWTIDE_EXPLAIN_GROWTH_H
#define LOWTIDE_EXPLAIN_GROWTH_H

#include "base/map.h"
#include "explain/model_data.h"
#include "explain/path.h"

/* One line: a place in the program and what was there each time. */
typedef struct growth_line {
    model_growth_t g;
    uint32_t *ids;    /* one a recording; LOWTIDE_NONE: nothing there, or a group of objects */
    uint64_t members; /* 1, or a group */
} growth_line_t;
VEC_DEFINE(growth_vec, growth_line_t);

typedef struct growth {
    const model_t *const *models;
    uint32_t n;
    bool same_process; /* objects keep their addresses */
    growth_vec_t lines;
    map_t by_text; /* hash of path and type → line */
    model_diff_t *out;
    err_t *e;
} growth_t;

/* Gathers the lines of all recordings (growth_places.c). */
int growth_gather(growth_t *g);
growth_line_t *growth_line(growth_t *g, const char *path, const char *type, bool *fresh);
int growth_no_memory(growth_t *g);
/* Entries of a container, else the objects that it retains. */
int growth_measure(growth_t *g, growth_line_t *line, uint32_t k, uint32_t id);

/* Containers among the lines that grew each time. */
int growth_find_containers(growth_t *g);

#endif
