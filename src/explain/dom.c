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

int dom_find(uint32_t n, const uint32_t *pred_begin, const uint32_t *pred, uint32_t *idom) {
    size_t words = (size_t)n * sizeof(uint32_t);
    int status = -ENOMEM;
    dom_cell_t *cell = mem_map(2 * words);
    uint32_t *semi = mem_map(words);
    uint32_t *stack = mem_map(words);
    if (!cell || !semi || !stack) goto cleanup;

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
    mem_unmap(cell, 2 * words);
    mem_unmap(semi, words);
    mem_unmap(stack, words);
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

int dom_tree_build(dom_tree_t *t, order_t *o, uint32_t *idom, const graph_t *g, err_t *e) {
    uint32_t n = o->count;
    size_t words = (size_t)n * sizeof(uint32_t);
    *t = (dom_tree_t){.count = n};
    uint32_t *size = mem_map(words), *place = mem_map(words);
    if (size && place && (t->id = mem_map(words)) && (t->idom = mem_map(words))) {
        dom_places(n, idom, size, place);
        for (uint32_t v = 0; v < n; v++) {
            t->id[place[v]] = o->id[v];
            t->idom[place[v]] = place[idom[v]];
        }
    }
    mem_unmap(idom, words);
    if (t->idom && (t->size = mem_map(words))) {
        for (uint32_t v = 0; v < n; v++) t->size[place[v]] = size[v];
        for (size_t k = 0; k < o->pred_count; k++) o->pred[k] = o->id[o->pred[k]];
    }
    mem_unmap(size, words);
    if (t->size) {
        /* By id: the numbers of the depth-first order are not needed for the tree any more, only to
         * find a row of predecessors, so the places get an array of their own. */
        order_drop_id(o);
        if ((t->place = mem_map(words))) {
            for (uint32_t id = 0; id < n; id++) t->place[id] = place[o->number[id]];
        }
    }
    mem_unmap(place, words);
    if (t->place) t->sum = mem_map(((size_t)n + 1) * sizeof(uint64_t));
    if (!t->sum) {
        dom_tree_free(t);
        return err_set(e, -ENOMEM, "no memory for the dominators of %u objects", g->n);
    }
    for (uint32_t p = 0; p < n; p++) {
        t->sum[p + 1] = t->sum[p] + (t->id[p] < g->n ? graph_shallow(g, t->id[p]) : 0);
    }
    return 0;
}

void dom_tree_free(dom_tree_t *t) {
    size_t words = (size_t)t->count * sizeof(uint32_t);
    mem_unmap(t->place, words);
    mem_unmap(t->id, words);
    mem_unmap(t->idom, words);
    mem_unmap(t->size, words);
    mem_unmap(t->sum, ((size_t)t->count + 1) * sizeof(uint64_t));
    *t = (dom_tree_t){0};
}
