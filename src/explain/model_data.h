/* What a model is made of; for the files of this room alone. */
#ifndef LOWTIDE_EXPLAIN_MODEL_DATA_H
#define LOWTIDE_EXPLAIN_MODEL_DATA_H

#include "base/arena.h"
#include "explain/dom.h"
#include "explain/graph.h"
#include "explain/label.h"
#include "explain/model.h"
#include "explain/order.h"

typedef struct names names_t;

struct model {
    lowtide_recording *rec;
    const namer_t *namer;
    graph_t g;     /* begin, target and owners are gone */
    order_t order; /* number, pred_begin, pred (ids): the predecessors */
    dom_tree_t tree;
    model_totals_t totals;
    arena_t arena; /* for all below */
    model_type_t *types;
    uint32_t type_count;
    uint32_t *type_of_shape; /* index into types */
    const label_costs_t *costs;
    names_t *names; /* what is remembered between questions */
};

/* One object through the reader's cache. Pointers hold until the next read. */
int model_read(const model_t *m, uint32_t id, lowtide_object *out, err_t *e);

/* types.c: fills types and type_of_shape. */
int types_build(model_t *m, err_t *e);
/* The type's name as people write it: "dict", "app.User"; in the arena, NULL when there is no
 * memory. */
const char *types_name(arena_t *arena, const lowtide_recording *rec, const lowtide_shape *shape);

static inline const lowtide_shape *model_shape_of(const model_t *m, uint32_t id) {
    return lowtide_shape_at(m->rec, m->g.shape[id]);
}

#endif
