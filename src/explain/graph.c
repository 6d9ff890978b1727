#include "explain/graph.h"

#include "base/mem.h"

void graph_drop_targets(graph_t *g) {
    spare_give(&g->spare, g->begin);
    mem_unmap(g->target, g->target_room * sizeof(uint32_t));
    g->begin = NULL;
    g->target = NULL;
    g->target_room = 0;
}

void graph_drop_owners(graph_t *g) {
    spare_give(&g->spare, g->owners);
    g->owners = NULL;
}

void graph_free(graph_t *g) {
    size_t bits = graph_words(g->n) * sizeof(uint64_t);
    graph_drop_targets(g);
    graph_drop_owners(g);
    spare_give(&g->spare, g->shallow);
    spare_give(&g->spare, g->shape);
    spare_give(&g->spare, g->via);
    mem_unmap(g->cost, (size_t)g->n + 1);
    mem_unmap(g->surplus, bits);
    mem_unmap(g->immortal, bits);
    spare_free(&g->spare);
    graph_big_vec_free(&g->big);
    untouched_vec_free(&g->untouched);
    *g = (graph_t){0};
}

uint64_t graph_shallow(const graph_t *g, uint32_t id) {
    if (g->shallow[id] != UINT32_MAX) return g->shallow[id];
    size_t low = 0, high = g->big.count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (g->big.at[middle].id <= id)
            low = middle;
        else
            high = middle;
    }
    return g->big.count ? g->big.at[low].bytes : UINT32_MAX;
}
