#include "explain/graph.h"

#include "base/arena.h"
#include "base/mem.h"
#include "base/origin.h"
#include "explain/label.h"

#include <errno.h>
#include <string.h>

enum {
    GRAPH_COST_FROM_C = 120, /* behind every path from object 0 that is worth reading */
    GRAPH_ROUNDS_MAX = 64
};

VEC_DEFINE(graph_u32_vec, uint32_t);

/* What the pass needs beside the graph and gives back at its end. */
typedef struct graph_pass {
    graph_t *g;
    const lowtide_recording *rec;
    const label_costs_t *costs;
    uint32_t *refcount; /* UINT32_MAX: that or more */
    uint64_t *late;     /* bits: a better path was found after its references had been followed */
    bool any_late, settling;
    uint32_t count;          /* references so far */
    size_t untouched;        /* of g->untouched, the next row */
    graph_u32_vec_t first;   /* object of each chunk, and the end */
    graph_u32_vec_t foreign; /* frames of libraries, in rising order */
    arena_t arena;
    err_t *e;
} graph_pass_t;

static int graph_no_memory(graph_pass_t *p) {
    return err_set(p->e, -ENOMEM, "no memory for the graph of %u objects", lowtide_objects(p->rec));
}

static int graph_too_many(err_t *e) {
    return err_set(e, -EOVERFLOW,
                   "more than 4,294,967,294 references: too large a heap for this version");
}

static inline void graph_relax(graph_pass_t *p, uint32_t u, uint32_t t, unsigned step) {
    unsigned cost = p->g->cost[u] + step;
    if (p->g->cost[u] == GRAPH_UNSEEN) return;
    if (cost > GRAPH_COST_MAX) cost = GRAPH_COST_MAX;
    if (cost >= p->g->cost[t]) return;
    p->g->cost[t] = (uint8_t)cost;
    p->g->via[t] = u;
    if (t <= u || p->settling) {
        graph_set(p->late, t);
        p->any_late = true;
    }
}

static inline void graph_edge(graph_pass_t *p, uint32_t u, uint32_t t, unsigned step,
                              unsigned more) {
    if (t == LOWTIDE_NONE || step == 0) return;
    p->g->target[p->count++] = t;
    p->g->owners[t]++;
    graph_relax(p, u, t, step + more);
}

static int graph_make_room(graph_pass_t *p, uint64_t more) {
    graph_t *g = p->g;
    uint64_t need = p->count + more;
    if (need <= g->target_room) return 0;
    if (need >= UINT32_MAX) return graph_too_many(p->e);
    size_t room = g->target_room * 2 > need ? g->target_room * 2 : (size_t)need;
    uint32_t *target = mem_remap(g->target, g->target_room * sizeof *target, room * sizeof *target);
    if (!target) return graph_no_memory(p);
    g->target = target;
    g->target_room = room;
    return 0;
}

static int graph_put_size(graph_pass_t *p, uint32_t id, uint64_t size, uint64_t buffers) {
    uint64_t bytes;
    if (__builtin_add_overflow(size, buffers, &bytes)) bytes = UINT64_MAX;
    bytes = untouched_less(&p->g->untouched, &p->untouched, id, bytes);
    p->g->shallow[id] = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
    if (bytes < UINT32_MAX) return 0;
    return graph_big_vec_push(&p->g->big, (graph_big_t){id, bytes}) ? graph_no_memory(p) : 0;
}

/* "function US file US line": whether the file is a library's. */
static bool graph_is_library(const lowtide_value *v) {
    char file[4096];
    const char *begin = v->kind == LOWTIDE_VALUE_NAME ? memchr(v->text, 0x1F, v->text_bytes) : NULL;
    if (!begin) return false;
    size_t left = v->text_bytes - (size_t)(++begin - v->text);
    const char *end = memchr(begin, 0x1F, left);
    size_t n = end ? (size_t)(end - begin) : left;
    if (n >= sizeof file) return false;
    memcpy(file, begin, n);
    file[n] = 0;
    return origin_of(file, NULL) <= ORIGIN_PACKAGE;
}

/* Values are read of those chunks alone that have frames: commonly the first. */
static int graph_find_foreign(graph_pass_t *p, const lowtide_chunk *c, uint32_t chunk) {
    lowtide_chunk *values = NULL;
    lowtide_error error;
    int status = 0;
    uint32_t i = 0;
    while (i < c->count && !p->costs[c->shape[i]].frame) i++;
    if (i == c->count) return 0;
    if (lowtide_chunk_load(p->rec, chunk, LOWTIDE_COL_VALUES, &values, &error)) return 0;
    for (; i < values->count && !status; i++) {
        if (p->costs[values->shape[i]].frame && graph_is_library(&values->values[i]))
            status = graph_u32_vec_push(&p->foreign, values->first + i);
    }
    lowtide_chunk_free(values);
    return status ? graph_no_memory(p) : 0;
}

static uint8_t graph_more_of(const graph_pass_t *p, const label_costs_t *costs, uint32_t u) {
    size_t low = 0, high = costs->frame ? p->foreign.count : 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (p->foreign.at[middle] == u) return LABEL_COST_LIBRARY_FRAME;
        if (p->foreign.at[middle] < u)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

static int graph_chunk(graph_pass_t *p, const lowtide_chunk *c) {
    graph_t *g = p->g;
    int status = graph_make_room(p, c->edge_begin[c->count] - c->edge_begin[0]);
    if (status) return status;
    memcpy(g->shape + c->first, c->shape, c->count * sizeof *g->shape);
    for (uint32_t i = 0; i < c->count; i++) {
        uint32_t u = c->first + i, k = c->edge_begin[i], end = c->edge_begin[i + 1];
        const label_costs_t *costs = &p->costs[c->shape[i]];
        uint64_t refcount = c->refcount[i];
        p->refcount[u] = refcount < UINT32_MAX ? (uint32_t)refcount : UINT32_MAX;
        if ((status = graph_put_size(p, u, c->size[i], c->buffers[i]))) return status;
        g->begin[u] = p->count;
        uint8_t more = graph_more_of(p, costs, u);
        for (uint32_t f = 0; f < costs->fixed_count && k < end; f++, k++)
            graph_edge(p, u, c->edges[k], costs->fixed[f], more);
        for (uint32_t r = 0; k < end; r ^= costs->repeat_count == 2, k++)
            graph_edge(p, u, c->edges[k], costs->repeat[r], more);
    }
    return 0;
}

static bool graph_any_bit(const uint64_t *bits, uint32_t from, uint32_t to) {
    for (uint32_t i = from; i < to; i = (i | 63) + 1) {
        uint64_t word = bits[i >> 6] & UINT64_MAX << (i & 63);
        if ((i | 63) >= to) word &= (UINT64_C(1) << (to & 63)) - 1;
        if (word) return true;
    }
    return false;
}

static void graph_settle_chunk(graph_pass_t *p, const lowtide_chunk *c) {
    for (uint32_t i = 0; i < c->count; i++) {
        uint32_t u = c->first + i, begin = c->edge_begin[i];
        if (!graph_bit(p->late, u)) continue;
        p->late[u >> 6] &= ~(UINT64_C(1) << (u & 63));
        uint8_t more = graph_more_of(p, &p->costs[c->shape[i]], u);
        for (uint32_t k = begin; k < c->edge_begin[i + 1]; k++) {
            uint8_t step = label_cost(&p->costs[c->shape[i]], k - begin);
            if (step && c->edges[k] != LOWTIDE_NONE)
                graph_relax(p, u, c->edges[k], step + (unsigned)more);
        }
    }
}

/* Follows the references of late objects once more, in rounds of rising ids. */
static int graph_settle(graph_pass_t *p) {
    lowtide_chunk *c = NULL;
    lowtide_error error;
    int status = 0;
    p->settling = true;
    for (int round = 0; p->any_late && round < GRAPH_ROUNDS_MAX && !status; round++) {
        p->any_late = false;
        for (uint32_t k = 0; k + 1 < p->first.count && !status; k++) {
            if (!graph_any_bit(p->late, p->first.at[k], p->first.at[k + 1])) continue;
            status = lowtide_chunk_load(p->rec, k, LOWTIDE_COL_EDGES, &c, &error);
            if (status)
                err_set(p->e, status, "%s", error.text);
            else
                graph_settle_chunk(p, c);
        }
    }
    lowtide_chunk_free(c);
    return status;
}

static int graph_read(graph_pass_t *p) {
    enum {
        COLUMNS = LOWTIDE_COL_SIZE | LOWTIDE_COL_REFCOUNT | LOWTIDE_COL_EDGES | LOWTIDE_COL_BUFFERS
    };
    lowtide_chunk *c = NULL;
    lowtide_error error;
    int status = 0;
    for (uint32_t k = 0; k < lowtide_chunks(p->rec) && !status; k++) {
        status = lowtide_chunk_load(p->rec, k, COLUMNS, &c, &error);
        if (status)
            err_set(p->e, status, "%s", error.text);
        else if (graph_u32_vec_push(&p->first, c->first))
            status = graph_no_memory(p);
        else if (!(status = graph_find_foreign(p, c, k)))
            status = graph_chunk(p, c);
    }
    lowtide_chunk_free(c);
    if (!status && graph_u32_vec_push(&p->first, p->g->n)) status = graph_no_memory(p);
    p->g->begin[p->g->n] = p->count;
    p->g->references = p->count;
    return status;
}

/* References beyond those that the heap accounts for; and, for what object 0 does not reach, a path
 * from C code. */
static void graph_mark_surplus(graph_pass_t *p) {
    graph_t *g = p->g;
    for (uint32_t id = 0; id < g->n; id++) {
        if (lowtide_shape_at(p->rec, g->shape[id])->kind != LOWTIDE_SHAPE_OBJECT) continue;
        if (p->refcount[id] == 0) {
            graph_set(g->immortal, id);
        } else if (p->refcount[id] > g->owners[id]) {
            graph_set(g->surplus, id);
        } else {
            continue;
        }
        if (p->g->cost[id] != GRAPH_UNSEEN) continue;
        p->g->cost[id] = GRAPH_COST_FROM_C;
        graph_set(p->late, id);
        p->any_late = true;
    }
}

static int graph_allocate(graph_pass_t *p) {
    graph_t *g = p->g;
    size_t bits = graph_words(g->n) * sizeof(uint64_t);
    uint64_t references = lowtide_references(p->rec);
    g->target_room = references < UINT32_MAX ? (size_t)references + 1 : UINT32_MAX;
    g->spare.bytes = ((size_t)g->n + GRAPH_VIRTUAL + 1) * sizeof(uint32_t);
    g->begin = spare_take(&g->spare);
    g->target = mem_map(g->target_room * sizeof(uint32_t));
    g->owners = spare_take_zeroed(&g->spare);
    g->shallow = spare_take(&g->spare);
    g->shape = spare_take(&g->spare);
    g->via = spare_take(&g->spare);
    g->surplus = mem_map(bits);
    g->immortal = mem_map(bits);
    p->refcount = spare_take(&g->spare);
    p->g->cost = mem_map((size_t)g->n + 1);
    p->late = mem_map(bits);
    p->costs = label_costs_of(p->rec, &p->arena);
    if (!g->begin || !g->target || !g->owners || !g->shallow || !g->shape || !g->via ||
        !g->surplus || !g->immortal || !p->refcount || !p->g->cost || !p->late || !p->costs) {
        return graph_no_memory(p);
    }
    memset(g->via, 0xFF, (size_t)g->n * sizeof *g->via);
    memset(p->g->cost, GRAPH_UNSEEN, g->n);
    if (g->n > 0) p->g->cost[0] = 0;
    return 0;
}

int graph_load(graph_t *g, const lowtide_recording *rec, err_t *e) {
    *g = (graph_t){.n = lowtide_objects(rec)};
    graph_pass_t p = {.g = g, .rec = rec, .e = e};
    if (g->n > UINT32_MAX - 1 - GRAPH_VIRTUAL) {
        return err_set(e, -EOVERFLOW,
                       "more than 4,294,967,290 objects: too large a heap for this version");
    }
    if (lowtide_references(rec) >= UINT32_MAX) return graph_too_many(e);
    int status = graph_allocate(&p);
    if (!status && untouched_load(rec, &g->untouched)) status = graph_no_memory(&p);
    if (!status) status = graph_read(&p);
    if (!status) {
        graph_mark_surplus(&p);
        status = graph_settle(&p);
    }
    lowtide_release_pages(rec);
    spare_give(&g->spare, p.refcount);
    mem_unmap(p.late, graph_words(g->n) * sizeof(uint64_t));
    graph_u32_vec_free(&p.first);
    graph_u32_vec_free(&p.foreign);
    arena_free(&p.arena);
    if (status) graph_free(g);
    return status;
}
