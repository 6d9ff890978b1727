#include "explain/dom.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>

/* A node of the forest that semidominators are read from. Nodes above the one at work are linked to
 * their parents; `up` is an ancestor, `label` the least semidominator from the node up to below
 * that ancestor. */
typedef struct dom_cell {
    uint32_t up, label;
} dom_cell_t;

/* The least semidominator on the way from u to the unlinked node above it; the way is made short.
 */
static uint32_t dom_eval(dom_cell_t *cell, uint32_t *stack, uint32_t u, uint32_t at_work) {
    uint32_t depth = 0;
    while (cell[u].up > at_work) {
        stack[depth++] = u;
        u = cell[u].up;
    }
    dom_cell_t top = cell[u];
    while (depth > 0) {
        u = stack[--depth];
        if (cell[u].label < top.label) top.label = cell[u].label;
        cell[u] = top;
    }
    return top.label;
}

int dom_find(uint32_t n, const uint32_t *pred_begin, const uint32_t *pred, uint32_t *idom,
             uint64_t *room, spare_t *spare) {
    int status = -ENOMEM;
    dom_cell_t *cell = (dom_cell_t *)room;
    uint32_t *semi = spare_take(spare);
    uint32_t *stack =
        mem_map(spare->bytes); /* touched as deep as the walk was, so not an old one */
    if (!semi || !stack) goto cleanup;

    for (uint32_t v = 0; v < n; v++) cell[v] = (dom_cell_t){.up = idom[v], .label = v};
    for (uint32_t v = n - 1; v > 0; v--) {
        uint32_t least = idom[v];
        for (uint32_t k = pred_begin[v]; k < pred_begin[v + 1]; k++) {
            uint32_t u = pred[k];
            if (u > v) {
                dom_cell_t c = cell[u];
                u = c.up <= v ? c.label : dom_eval(cell, stack, u, v);
            }
            if (u < least) least = u;
        }
        semi[v] = least;
        cell[v].label = least;
    }
    for (uint32_t v = 1; v < n; v++) {
        uint32_t d = idom[v];
        while (d > semi[v]) d = idom[d];
        idom[v] = d;
    }
    status = 0;
cleanup:
    spare_give(spare, semi);
    mem_unmap(stack, spare->bytes);
    return status;
}

/* Places in a preorder walk over the dominator tree, from subtree sizes alone: a node comes after
 * its dominator in the depth-first order, so one sweep down gives each node the next free place
 * below its dominator. `next` gets the places. */
static void dom_places(uint32_t n, const uint32_t *idom, uint32_t *size, uint32_t *next) {
    for (uint32_t v = 0; v < n; v++) size[v] = 1;
    for (uint32_t v = n - 1; v > 0; v--) size[idom[v]] += size[v];
    next[0] = 1;
    for (uint32_t v = 1; v < n; v++) {
        uint32_t place = next[idom[v]];
        next[idom[v]] = place + size[v];
        next[v] = place + 1;
    }
    /* next[v] is now behind v's last child, which is v's place and its subtree. */
    for (uint32_t v = 0; v < n; v++) next[v] -= size[v];
}

/* Lays the tree out: each array is dropped as soon as what it says stands elsewhere. */
static void dom_tree_fill(dom_tree_t *t, order_t *o, uint32_t *idom, uint32_t *size,
                          uint32_t *place, spare_t *spare) {
    uint32_t n = t->count;
    dom_places(n, idom, size, place);
    for (size_t k = 0; k < o->pred_count; k++) o->pred[k] = o->id[o->pred[k]];
    for (uint32_t v = 0; v < n; v++) t->id[place[v]] = o->id[v];
    t->idom = o->id;
    o->id = NULL;
    for (uint32_t v = 0; v < n; v++) t->idom[place[v]] = place[idom[v]];
    t->size = idom;
    for (uint32_t v = 0; v < n; v++) t->size[place[v]] = size[v];
    t->place = size;
    for (uint32_t id = 0; id < n; id++) t->place[id] = place[o->number[id]];
    spare_give(spare, place);
}

int dom_tree_build(dom_tree_t *t, order_t *o, uint32_t *idom, uint64_t *room, graph_t *g,
                   err_t *e) {
    uint32_t n = o->count;
    *t = (dom_tree_t){.count = n, .sum = room};
    uint32_t *size = spare_take(&g->spare), *place = spare_take(&g->spare);
    t->id = spare_take(&g->spare);
    if (!size || !place || !t->id) {
        spare_give(&g->spare, size);
        spare_give(&g->spare, place);
        spare_give(&g->spare, idom);
        dom_tree_free(t, &g->spare);
        return err_set(e, -ENOMEM, "no memory for the dominators of %u objects", g->n);
    }
    dom_tree_fill(t, o, idom, size, place, &g->spare);
    t->sum[0] = 0;
    for (uint32_t p = 0; p < n; p++) {
        t->sum[p + 1] = t->sum[p] + (t->id[p] < g->n ? graph_shallow(g, t->id[p]) : 0);
    }
    return 0;
}

void dom_tree_free(dom_tree_t *t, spare_t *spare) {
    spare_give(spare, t->place);
    spare_give(spare, t->id);
    spare_give(spare, t->idom);
    spare_give(spare, t->size);
    mem_unmap(t->sum, 2 * spare->bytes);
    *t = (dom_tree_t){0};
}
