#include "explain/order.h"

#include "base/mem.h"

#include <errno.h>

typedef struct order_level {
    uint32_t cursor, end; /* edges still to follow */
    uint32_t place;
} order_level_t;

typedef struct order_walk {
    const graph_t *g;
    order_t *o;
    order_level_t *stack; /* room for every node, charged only as deep as the walk goes */
    uint32_t next;        /* place of the next new node */
} order_walk_t;

static uint32_t order_enter(order_walk_t *w, uint32_t id, uint32_t parent) {
    uint32_t place = w->next++;
    w->o->number[id] = place;
    w->o->id[place] = id;
    w->o->parent[place] = parent;
    return place;
}

/* Everything unseen that can be reached from `id`. */
static void order_walk_from(order_walk_t *w, uint32_t id, uint32_t parent) {
    const graph_t *g = w->g;
    const uint32_t *number = w->o->number, *target = g->target;
    uint32_t depth = 0;
    if (number[id]) return;
    uint32_t place = order_enter(w, id, parent);
    w->stack[depth++] = (order_level_t){g->begin[id], g->begin[id + 1], place};
    while (depth > 0) {
        order_level_t *level = &w->stack[depth - 1];
        if (level->cursor == level->end) {
            depth--;
            continue;
        }
        uint32_t t = target[level->cursor++];
        if (number[t]) continue;
        place = order_enter(w, t, level->place);
        uint32_t begin = g->begin[t], end = g->begin[t + 1];
        if (begin < end) w->stack[depth++] = (order_level_t){begin, end, place};
    }
}

/* From every object whose bit is set, under a virtual node. */
static void order_walk_set(order_walk_t *w, const uint64_t *bits, uint32_t node) {
    uint32_t parent = order_enter(w, node, 0);
    for (size_t word = 0; word < graph_words(w->g->n); word++) {
        for (uint64_t rest = bits[word]; rest; rest &= rest - 1) {
            order_walk_from(w, (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(rest), parent);
        }
    }
}

VEC_DEFINE(order_u32_vec, uint32_t);

/* Walk the garbage once from anywhere and note where each walk began. Taken from the last to the
 * first, those beginnings that no later one reaches lie in parts that nothing else refers to (the
 * first half of Kosaraju's algorithm). */
static int order_walk_garbage(order_walk_t *w) {
    uint32_t n = w->g->n, parent = order_enter(w, n + GRAPH_GARBAGE, 0);
    uint32_t first = w->next;
    order_u32_vec_t starts = {0};
    if (first == w->o->count) return 0;
    for (uint32_t id = 0; id < n; id++) {
        if (w->o->number[id]) continue;
        if (order_u32_vec_push(&starts, id)) {
            order_u32_vec_free(&starts);
            return -ENOMEM;
        }
        order_walk_from(w, id, parent);
    }
    while (w->next > first) w->o->number[w->o->id[--w->next]] = 0;
    for (size_t i = starts.count; i-- > 0;) order_walk_from(w, starts.at[i], parent);
    order_u32_vec_free(&starts);
    return 0;
}

int order_build(order_t *o, graph_t *g, err_t *e) {
    uint32_t n = g->n, count = n + GRAPH_VIRTUAL;
    size_t stack = (size_t)count * sizeof(order_level_t);
    *o = (order_t){.count = count};
    o->number = spare_take_zeroed(&g->spare);
    o->id = spare_take(&g->spare);
    o->parent = spare_take(&g->spare);
    order_walk_t w = {.g = g, .o = o, .stack = mem_map(stack)};
    int status = -ENOMEM;
    if (!o->number || !o->id || !o->parent || !w.stack) goto cleanup;

    order_enter(&w, n + GRAPH_ROOT, 0);
    if (n > 0) order_walk_from(&w, 0, 0);
    order_walk_set(&w, g->surplus, n + GRAPH_C);
    order_walk_set(&w, g->immortal, n + GRAPH_IMMORTAL);
    o->first_garbage = w.next;
    status = order_walk_garbage(&w);
cleanup:
    mem_unmap(w.stack, stack);
    if (status) {
        order_free(o, &g->spare);
        return err_set(e, status, "no memory for the order of %u objects", n);
    }
    return 0;
}

/* What the bit sets and the walk say beyond the stored edges, one call for each such edge. */
static void order_virtual_edges(const order_t *o, const graph_t *g,
                                void (*edge)(void *, uint32_t, uint32_t), void *to) {
    uint32_t n = g->n, c = o->number[n + GRAPH_C], immortal = o->number[n + GRAPH_IMMORTAL];
    for (size_t word = 0; word < graph_words(n); word++) {
        for (uint64_t rest = g->surplus[word]; rest; rest &= rest - 1) {
            edge(to, c, o->number[word * 64 + (size_t)__builtin_ctzll(rest)]);
        }
        for (uint64_t rest = g->immortal[word]; rest; rest &= rest - 1) {
            edge(to, immortal, o->number[word * 64 + (size_t)__builtin_ctzll(rest)]);
        }
    }
    for (uint32_t p = o->first_garbage + 1; p < o->count; p++) {
        if (o->parent[p] == o->first_garbage) edge(to, o->first_garbage, p);
    }
    if (n > 0) edge(to, 0, o->number[0]);
    for (uint32_t v = GRAPH_C; v < GRAPH_VIRTUAL; v++) edge(to, 0, o->number[n + v]);
}

static void order_count_edge(void *to, uint32_t from, uint32_t place) {
    (void)from;
    ((order_t *)to)->pred_begin[place + 1]++;
}

/* While rows are filled, pred_begin[p + 1] is where row p goes on; at the end it is where it ends.
 */
static void order_put_edge(void *to, uint32_t from, uint32_t place) {
    order_t *o = to;
    o->pred[o->pred_begin[place + 1]++] = from;
}

int order_predecessors(order_t *o, graph_t *g, err_t *e) {
    uint32_t n = g->n;
    o->pred_begin = spare_take_zeroed(&g->spare);
    if (!o->pred_begin)
        return err_set(e, -ENOMEM, "no memory for the predecessors of %u objects", n);
    for (uint32_t id = 0; id < n; id++) o->pred_begin[o->number[id] + 1] = g->owners[id];
    graph_drop_owners(g);
    order_virtual_edges(o, g, order_count_edge, o);
    uint64_t total = 0;
    for (uint32_t p = 0; p < o->count; p++) {
        uint32_t row = o->pred_begin[p + 1];
        o->pred_begin[p + 1] = (uint32_t)total;
        total += row;
    }
    if (total > UINT32_MAX - 1)
        return err_set(e, -EOVERFLOW, "more than 4,294,967,294 references: too large a heap");
    o->pred_count = (size_t)total;
    o->pred = mem_map(o->pred_count * sizeof(uint32_t));
    if (!o->pred) return err_set(e, -ENOMEM, "no memory for %zu references", o->pred_count);
    for (uint32_t id = 0; id < n; id++) {
        uint32_t from = o->number[id];
        for (uint32_t k = g->begin[id]; k < g->begin[id + 1]; k++) {
            o->pred[o->pred_begin[o->number[g->target[k]] + 1]++] = from;
        }
    }
    order_virtual_edges(o, g, order_put_edge, o);
    graph_drop_targets(g);
    return 0;
}

void order_free(order_t *o, spare_t *spare) {
    spare_give(spare, o->number);
    spare_give(spare, o->id);
    spare_give(spare, o->parent);
    spare_give(spare, o->pred_begin);
    mem_unmap(o->pred, o->pred_count * sizeof(uint32_t));
    *o = (order_t){0};
}
