/* Immediate dominators by SEMI-NCA, and the dominator tree laid out so that every subtree is one
 * run of places.
 *
 * SEMI-NCA: Loukas Georgiadis, "Linear-Time Algorithms for Dominators and Related Problems",
 * Princeton 2005; measured in Georgiadis, Tarjan, Werneck, "Finding Dominators in Practice", JGAA
 * 10 (2006). Semidominators by path compression, then the nearest common ancestor of parent and
 * semidominator in the tree built so far.
 */
#ifndef LOWTIDE_EXPLAIN_DOM_H
#define LOWTIDE_EXPLAIN_DOM_H

#include "explain/order.h"

/* Nodes 0 … n − 1 are numbered in preorder of a depth-first walk from 0. idom holds each node's
 * parent in that walk and gets its immediate dominator. `room` has two words a node, to work in.
 * 0 or -ENOMEM. */
int dom_find(uint32_t n, const uint32_t *pred_begin, const uint32_t *pred, uint32_t *idom,
             uint64_t *room, spare_t *spare);

/* The tree by places of a preorder walk over itself: what place p dominates is p … p + size[p] − 1.
 */
typedef struct dom_tree {
    uint32_t count;
    uint32_t *place; /* by id */
    uint32_t *id;    /* by place */
    uint32_t *idom;  /* by place: a place; the root's is itself */
    uint32_t *size;  /* by place: nodes in its subtree */
    uint64_t *sum;   /* count + 1, by place: shallow bytes of all places before it */
} dom_tree_t;

/* Takes idom (by o's places) and room, which becomes the sums, also on failure; uses up o->id and
 * turns o->pred into ids. */
int dom_tree_build(dom_tree_t *t, order_t *o, uint32_t *idom, uint64_t *room, graph_t *g, err_t *e);
void dom_tree_free(dom_tree_t *t, spare_t *spare);

#endif
