/* Dominators and retained bytes on plain arrays, against the definition: take a node away and count
 * what is still reached. */
#include "base/mem.h"
#include "explain/dom.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NODES_MAX = 64, EDGES_MAX = 256 };

static uint64_t seed = 88172645463325252u;

static uint32_t pick(uint32_t below) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 32) % below;
}

typedef struct edges {
    uint32_t count;
    uint32_t from[EDGES_MAX], to[EDGES_MAX];
} edges_t;

/* A graph as graph_load would leave it. */
static int make_graph(graph_t *g, uint32_t n, const edges_t *edges) {
    *g = (graph_t){.n = n, .references = edges->count, .target_room = edges->count + 1};
    g->spare.bytes = ((size_t)n + GRAPH_VIRTUAL + 1) * 4;
    g->begin = mem_map(g->spare.bytes);
    g->target = mem_map(g->target_room * 4);
    g->owners = mem_map(g->spare.bytes);
    g->shallow = mem_map(g->spare.bytes);
    g->shape = mem_map(g->spare.bytes);
    g->via = mem_map(g->spare.bytes);
    g->surplus = mem_map(graph_words(n) * 8);
    g->immortal = mem_map(graph_words(n) * 8);
    if (!g->begin || !g->target || !g->owners || !g->shallow || !g->shape || !g->via ||
        !g->surplus || !g->immortal) {
        graph_free(g);
        return -1;
    }
    uint32_t at = 0;
    for (uint32_t u = 0; u < n; u++) {
        g->begin[u] = at;
        for (uint32_t k = 0; k < edges->count; k++) {
            if (edges->from[k] != u) continue;
            g->target[at++] = edges->to[k];
            g->owners[edges->to[k]]++;
        }
    }
    g->begin[n] = at;
    return 0;
}

/* Marks what is reached from the root without passing `without`. entry: the walk's children of the
 * garbage node. */
static void reach(const graph_t *g, const edges_t *edges, const uint64_t *entry, uint32_t without,
                  uint8_t *seen) {
    memset(seen, 0, g->n);
    for (uint32_t id = 0; id < g->n; id++) {
        seen[id] = id != without && (id == 0 || graph_bit(g->surplus, id) ||
                                     graph_bit(g->immortal, id) || graph_bit(entry, id));
    }
    for (int changed = 1; changed;) {
        changed = 0;
        for (uint32_t k = 0; k < edges->count; k++) {
            uint32_t from = edges->from[k], to = edges->to[k];
            if (seen[from] && !seen[to] && to != without) changed = seen[to] = 1;
        }
    }
}

static int build_tree(dom_tree_t *t, order_t *o, graph_t *g, uint64_t *entry, err_t *e) {
    int status = order_build(o, g, e);
    if (status) return status;
    if ((status = order_predecessors(o, g, e))) return status;
    for (uint32_t p = o->first_garbage + 1; p < o->count; p++) {
        if (o->parent[p] == o->first_garbage) graph_set(entry, o->id[p]);
    }
    uint32_t *idom = o->parent;
    uint64_t *room = mem_map(2 * g->spare.bytes);
    o->parent = NULL;
    status = room ? dom_find(o->count, o->pred_begin, o->pred, idom, room, &g->spare) : -ENOMEM;
    if (status) {
        spare_give(&g->spare, idom);
        mem_unmap(room, 2 * g->spare.bytes);
        return status;
    }
    return dom_tree_build(t, o, idom, room, g, e);
}

static void check_graph(uint32_t n, const edges_t *edges, const uint64_t *surplus,
                        const uint64_t *immortal) {
    graph_t g;
    order_t o;
    dom_tree_t t;
    err_t e;
    uint64_t entry[2] = {0};
    uint8_t all[NODES_MAX], without[NODES_MAX];
    assert_int_equal(make_graph(&g, n, edges), 0);
    memcpy(g.surplus, surplus, graph_words(n) * 8);
    memcpy(g.immortal, immortal, graph_words(n) * 8);
    for (uint32_t id = 0; id < n; id++) g.shallow[id] = 1 + pick(100);
    assert_int_equal(build_tree(&t, &o, &g, entry, &e), 0);

    reach(&g, edges, entry, UINT32_MAX, all);
    for (uint32_t id = 0; id < n; id++) {
        uint64_t bytes = 0;
        uint32_t count = 0, place = t.place[id];
        assert_true(all[id]);
        reach(&g, edges, entry, id, without);
        for (uint32_t x = 0; x < n; x++) {
            int dominated = t.place[x] >= place && t.place[x] < place + t.size[place];
            assert_int_equal(dominated, !without[x]);
            bytes += without[x] ? 0 : g.shallow[x];
            count += !without[x];
        }
        assert_int_equal(t.sum[place + t.size[place]] - t.sum[place], bytes);
        assert_int_equal(t.size[place], count);
        assert_true(t.idom[place] < place);
    }
    dom_tree_free(&t, &g.spare);
    order_free(&o, &g.spare);
    graph_free(&g);
}

static void random_edges(edges_t *edges, uint32_t n, uint32_t count) {
    edges->count = count;
    for (uint32_t k = 0; k < count; k++) {
        edges->from[k] = pick(n);
        edges->to[k] =
            pick(4) ? pick(n) : (edges->from[k] + 1) % n; /* some order, so that chains appear */
    }
}

static void retained_bytes_equal_deletion_on_random_graphs(void **state) {
    (void)state;
    edges_t edges;
    for (int round = 0; round < 4000; round++) {
        uint32_t n = 1 + pick(NODES_MAX - 1);
        uint64_t surplus[2] = {0}, immortal[2] = {0};
        random_edges(&edges, n, pick(n * 3 + 1));
        for (uint32_t k = pick(4); k > 0; k--) graph_set(surplus, pick(n));
        for (uint32_t k = pick(3); k > 0; k--) graph_set(immortal, pick(n));
        check_graph(n, &edges, surplus, immortal);
    }
}

static void garbage_hangs_from_one_entry_for_each_part_that_nothing_refers_to(void **state) {
    (void)state;
    edges_t edges;
    for (int round = 0; round < 2000; round++) {
        graph_t g;
        order_t o;
        err_t e;
        uint32_t n = 2 + pick(40);
        uint8_t reached[NODES_MAX][NODES_MAX] = {{0}};
        random_edges(&edges, n, pick(n * 2));
        assert_int_equal(make_graph(&g, n, &edges), 0);
        assert_int_equal(order_build(&o, &g, &e), 0);
        for (uint32_t u = 0; u < n; u++) reached[u][u] = 1;
        for (int changed = 1; changed;) {
            changed = 0;
            for (uint32_t k = 0; k < edges.count; k++) {
                for (uint32_t u = 0; u < n; u++) {
                    if (!reached[u][edges.from[k]] || reached[u][edges.to[k]]) continue;
                    changed = reached[u][edges.to[k]] = 1;
                }
            }
        }
        for (uint32_t p = o.first_garbage + 1; p < o.count; p++) {
            assert_false(reached[0][o.id[p]]);
            if (o.parent[p] != o.first_garbage) continue;
            for (uint32_t u = 0; u < n; u++) {
                assert_true(reached[0][u] || !reached[u][o.id[p]] || reached[o.id[p]][u]);
            }
            for (uint32_t q = o.first_garbage + 1; q < p; q++) {
                assert_false(o.parent[q] == o.first_garbage && reached[o.id[q]][o.id[p]]);
            }
        }
        order_free(&o, &g.spare);
        graph_free(&g);
    }
}

static void a_list_of_a_million_links_needs_no_recursion(void **state) {
    (void)state;
    enum { N = 1000000 };
    graph_t g = {.n = N, .references = 2 * N - 2, .target_room = 2 * N};
    order_t o;
    dom_tree_t t;
    err_t e;
    g.spare.bytes = (N + GRAPH_VIRTUAL + 1) * 4;
    g.begin = mem_map(g.spare.bytes);
    g.target = mem_map(g.target_room * 4);
    g.owners = mem_map(g.spare.bytes);
    g.shallow = mem_map(g.spare.bytes);
    g.shape = mem_map(g.spare.bytes);
    g.via = mem_map(g.spare.bytes);
    g.surplus = mem_map(graph_words(N) * 8);
    g.immortal = mem_map(graph_words(N) * 8);
    for (uint32_t u = 0; u < N; u++) { /* both ways: next and previous */
        g.shallow[u] = 1;
        if (u + 1 < N) g.owners[g.target[g.begin[u + 1]++ + (u ? 2 * u - 1 : 0)] = u + 1]++;
        if (u > 0) g.owners[g.target[2 * u - 1 + g.begin[u + 1]++] = u - 1]++;
        g.begin[u + 1] += g.begin[u];
    }
    uint64_t *entry = mem_map(graph_words(N) * 8);
    assert_int_equal(build_tree(&t, &o, &g, entry, &e), 0);
    for (uint32_t u = 0; u < N; u++) assert_int_equal(t.size[t.place[u]], N - u);
    dom_tree_free(&t, &g.spare);
    order_free(&o, &g.spare);
    graph_free(&g);
    mem_unmap(entry, graph_words(N) * 8);
}

static void every_allocation_that_fails_is_reported(void **state) {
    (void)state;
    edges_t edges;
    uint64_t entry[2] = {0};
    random_edges(&edges, 20, 10);
    for (long nth = 1;; nth++) {
        graph_t g;
        order_t o = {0};
        dom_tree_t t = {0};
        err_t e;
        assert_int_equal(make_graph(&g, 20, &edges), 0);
        mem_fail_at(nth);
        int status = build_tree(&t, &o, &g, entry, &e);
        long left = mem_fail_at(0);
        assert_int_equal(status != 0, left <= 0);
        dom_tree_free(&t, &g.spare);
        order_free(&o, &g.spare);
        graph_free(&g);
        if (left > 0) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(retained_bytes_equal_deletion_on_random_graphs),
        cmocka_unit_test(garbage_hangs_from_one_entry_for_each_part_that_nothing_refers_to),
        cmocka_unit_test(a_list_of_a_million_links_needs_no_recursion),
        cmocka_unit_test(every_allocation_that_fails_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
