/* The reference graph of a recording, as plain arrays, and what is learned on the one pass that
 * reads it.
 *
 *     targets of object u: target[begin[u] … begin[u + 1])        owning references only, NULLs
 * left out
 *
 * Object ids are 0 … n − 1; four virtual nodes n … n + 3 (GRAPH_ROOT …) stand for what holds
 * objects from outside. Their edges are not stored: they follow from the bit sets. Everything is
 * mapped memory, owned by the graph.
 */
#ifndef LOWTIDE_EXPLAIN_GRAPH_H
#define LOWTIDE_EXPLAIN_GRAPH_H

#include "base/err.h"
#include "base/vec.h"
#include "explain/spare.h"
#include "explain/untouched.h"
#include "lowtide/recording.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GRAPH_ROOT, GRAPH_C, GRAPH_IMMORTAL, GRAPH_GARBAGE, GRAPH_VIRTUAL };

enum { GRAPH_COST_MAX = 254, GRAPH_UNSEEN = 255 };

typedef struct graph_big {
    uint32_t id;
    uint64_t bytes;
} graph_big_t;
VEC_DEFINE(graph_big_vec, graph_big_t);

typedef struct graph {
    uint32_t n;
    spare_t spare; /* arrays of a word a node, virtual ones too; most of those below are of them */
    uint64_t references; /* stored ones */
    uint32_t *begin;     /* n + 1 */
    uint32_t *target;
    size_t target_room;
    uint32_t *owners;    /* n: owning references to it; freed once the predecessors stand */
    uint32_t *shallow;   /* n: bytes, without those untouched; UINT32_MAX: look into big */
    graph_big_vec_t big; /* sorted by id */
    untouched_vec_t untouched;
    uint32_t *shape; /* n */
    uint32_t *via;   /* n: who refers to it on its best path from object 0; LOWTIDE_NONE where there
                      is none */
    uint8_t *cost;   /* n: what that path costs (label.h), GRAPH_UNSEEN where there is none */
    uint64_t *surplus; /* bits: C code holds references to it */
    uint64_t *immortal;
} graph_t;

static inline bool graph_bit(const uint64_t *bits, uint32_t i) {
    return bits[i >> 6] >> (i & 63) & 1;
}
static inline void graph_set(uint64_t *bits, uint32_t i) {
    bits[i >> 6] |= UINT64_C(1) << (i & 63);
}
static inline size_t graph_words(uint64_t n) {
    return (size_t)(n / 64 + 1);
}

/* Reads all chunks once. -EOVERFLOW: more than 2^32 − 2 references. On failure the graph is empty.
 */
int graph_load(graph_t *g, const lowtide_recording *rec, err_t *e);
void graph_free(graph_t *g);
/* Forward edges are needed until the predecessors stand. */
void graph_drop_targets(graph_t *g);
void graph_drop_owners(graph_t *g);

uint64_t graph_shallow(const graph_t *g, uint32_t id);

#endif
