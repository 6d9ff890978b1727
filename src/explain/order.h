/* Depth-first order from the virtual root, and predecessors in it: the layout in which SEMI-NCA
 * runs fast.
 *
 * The walk goes from object 0 first, then from what C code holds, then from what is immortal. What
 * is still unseen is garbage. Its entries are found so that each garbage cluster hangs from one of
 * its own: one node of each strongly connected part that no other part of the garbage refers to.
 */
#ifndef LOWTIDE_EXPLAIN_ORDER_H
#define LOWTIDE_EXPLAIN_ORDER_H

#include "explain/graph.h"

typedef struct order {
    uint32_t count;         /* nodes: n + GRAPH_VIRTUAL, all of them are reached */
    uint32_t *number;       /* by id: its place in the order; the root's is 0 */
    uint32_t *id;           /* by place */
    uint32_t *parent;       /* by place: the place of its parent in the walk */
    uint32_t first_garbage; /* place of the garbage node: all behind it is garbage */
    uint32_t *pred_begin;   /* count + 1, by place */
    uint32_t *pred;         /* places; a virtual node is among them where it holds the object */
    size_t pred_count;
} order_t;

int order_build(order_t *o, graph_t *g, err_t *e);
/* Needs number, id and parent; uses up g->owners and lets the targets go. */
int order_predecessors(order_t *o, graph_t *g, err_t *e);
void order_free(order_t *o, spare_t *spare);

#endif
