/* Many objects by the shape of their best paths.
 *
 * The best paths of all objects are a tree. The nodes on the ways to the objects asked about are
 * marked, the references between them are read chunk by chunk, and a trie over the references'
 * meanings is laid along the tree: objects that come to the same node of the trie are reached in
 * the same way. A reference that repeats the one before it (x.next.next), or the two before it,
 * goes back in the trie, so that chains and trees of any depth are one way. */
#include "explain/path.h"

#include "base/map.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "explain/names.h"

enum { ROUTES_MAX = 200 };

typedef struct routes_node {
    uint32_t parent;
    uint64_t code;
    uint32_t example; /* the least id of those that come here: the one nearest to the root */
    uint64_t count, shallow, retained;
    uint32_t covered; /* end of the last subtree that was counted */
    uint32_t self;    /* its number before the trie was sorted */
} routes_node_t;
VEC_DEFINE(routes_vec, routes_node_t);

typedef struct routes {
    const model_t *m;
    const uint32_t *via;
    uint64_t *marked, *inner; /* bits: on a way; with a marked node behind it */
    uint64_t
        *code; /* by object: what the reference to it means: cost << 40 | label kind << 32 | name */
    uint32_t *node; /* by object: its node of the trie plus 1 */
    routes_vec_t trie;
    map_t index;
    path_ids_t stack;
    uint32_t *places; /* of those asked about, in dominator order */
    err_t *e;
} routes_t;

static int routes_no_memory(routes_t *r) {
    return err_set(r->e, -ENOMEM, "no memory for the paths of many objects");
}

static void routes_mark(routes_t *r, const uint32_t *ids, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        uint32_t at = ids[i];
        while (!graph_bit(r->marked, at)) {
            graph_set(r->marked, at);
            if (at == 0 || r->via[at] == LOWTIDE_NONE) break;
            at = r->via[at];
            graph_set(r->inner, at);
        }
    }
}

/* What is named keeps its name; keys and indexes of containers are all alike. */
static uint64_t routes_code(const routes_t *r, const lowtide_chunk *c, uint32_t i, uint32_t k,
                            uint8_t cost) {
    const lowtide_shape *shape = lowtide_shape_at(r->m->rec, c->shape[i]);
    uint32_t at = k - c->edge_begin[i], index, name = 0;
    lowtide_label label = lowtide_label_at(shape, at, &index);
    if (label.name != LOWTIDE_NONE) name = label.name + 1;
    if (label.kind == LOWTIDE_VALUE &&
        (shape->flags & LOWTIDE_SHAPE_IS_NAMESPACE || c->first + i == r->m->names->modules.dict)) {
        name = at > 0 ? c->edges[k - 1] + 1 : 0;
    }
    if (model_shape_of(r->m, c->edges[k])->kind != LOWTIDE_SHAPE_OBJECT) name = c->edges[k] + 1;
    return (uint64_t)cost << 40 | (uint64_t)label.kind << 32 | name;
}

static bool routes_is_specific(uint64_t code) {
    return (uint32_t)code != 0;
}

static int routes_read(routes_t *r) {
    lowtide_chunk *c = NULL;
    lowtide_error error;
    int status = 0;
    for (uint32_t k = 0; k < lowtide_chunks(r->m->rec) && !status; k++) {
        status = lowtide_chunk_load(r->m->rec, k, LOWTIDE_COL_EDGES, &c, &error);
        if (status) {
            err_set(r->e, status, "%s", error.text);
            break;
        }
        for (uint32_t i = 0; i < c->count; i++) {
            uint32_t u = c->first + i;
            if (!graph_bit(r->inner, u)) continue;
            for (uint32_t j = c->edge_begin[i]; j < c->edge_begin[i + 1]; j++) {
                uint32_t t = c->edges[j];
                if (t == LOWTIDE_NONE || !graph_bit(r->marked, t) || r->via[t] != u) continue;
                uint8_t cost = label_cost(&r->m->costs[c->shape[i]], j - c->edge_begin[i]);
                if (cost == 0 || (r->code[t] && r->code[t] >> 40 <= cost)) continue;
                r->code[t] = routes_code(r, c, i, j, cost);
            }
        }
    }
    lowtide_chunk_free(c);
    return status;
}

/* The node of the trie behind `parent`, or the earlier one that the reference repeats. */
static int routes_step(routes_t *r, uint32_t parent, uint64_t code, uint32_t *out) {
    const routes_node_t *p = &r->trie.at[parent];
    int fresh;
    *out = parent;
    if (p->code == code && code) return 0;
    if (p->parent != LOWTIDE_NONE && r->trie.at[p->parent].code == code && code) {
        const routes_node_t *q = &r->trie.at[p->parent];
        if (q->parent != LOWTIDE_NONE && r->trie.at[q->parent].code == p->code) {
            *out = p->parent;
            return 0;
        }
    }
    uint64_t key =
        ((uint64_t)parent * UINT64_C(0x9E3779B97F4A7C15) ^ code * UINT64_C(0xC2B2AE3D27D4EB4F)) >>
        1;
    uint32_t *at = map_put(&r->index, key, &fresh);
    if (!at) return -ENOMEM;
    if (fresh) {
        *at = (uint32_t)r->trie.count;
        routes_node_t node = {.parent = parent, .code = code, .example = LOWTIDE_NONE};
        if (routes_vec_push(&r->trie, node)) return -ENOMEM;
    }
    *out = *at;
    return 0;
}

/* Node 0 is object 0; what does not begin there begins at its own kind of holder. */
static int routes_begin(routes_t *r, uint32_t id, uint32_t *out) {
    *out = 0;
    if (id == 0) return 0;
    uint64_t kind = graph_bit(r->m->g.surplus, id) ? 1 : graph_bit(r->m->g.immortal, id) ? 2 : 3;
    return routes_step(r, 0, UINT64_C(0xFF) << 40 | kind << 36 | (model_type_of(r->m, id) + 1),
                       out);
}

static int routes_lay(routes_t *r, uint32_t id) {
    uint32_t at = id, node;
    int status = 0;
    r->stack.count = 0;
    while (!r->node[at] && at != 0 && r->via[at] != LOWTIDE_NONE) {
        if (path_ids_push(&r->stack, at)) return -ENOMEM;
        at = r->via[at];
    }
    if (!r->node[at]) {
        status = routes_begin(r, at, &node);
        r->node[at] = node + 1;
    }
    node = r->node[at] - 1;
    while (r->stack.count > 0 && !status) {
        at = r->stack.at[--r->stack.count];
        status = routes_step(r, node, r->code[at], &node);
        r->node[at] = node + 1;
    }
    return status;
}

static int routes_compare_places(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void routes_sum(routes_t *r, const uint32_t *ids, uint64_t count) {
    const dom_tree_t *t = &r->m->tree;
    uint32_t *places = r->places;
    for (uint64_t i = 0; i < count; i++) places[i] = t->place[ids[i]];
    qsort(places, (size_t)count, sizeof *places, routes_compare_places);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t p = places[i], id = t->id[p];
        routes_node_t *node = &r->trie.at[r->node[id] - 1];
        node->count++;
        node->shallow += t->sum[p + 1] - t->sum[p];
        if (id < node->example) node->example = id;
        if (p < node->covered) continue;
        node->covered = p + t->size[p];
        node->retained += t->sum[node->covered] - t->sum[p];
    }
}

/* To each route the places of its objects. */
static int routes_members(const routes_t *r, uint64_t count, model_routes_t *out) {
    uint32_t *orders = arena_alloc(&out->memory, (count + 1) * sizeof *orders), used = out->count;
    uint32_t **to = mem_alloc((r->trie.count + 1) * sizeof *to);
    if (!orders || !to) {
        mem_free(to);
        return -ENOMEM;
    }
    memset(to, 0, r->trie.count * sizeof *to);
    for (uint32_t i = 0; i < used; i++) {
        out->routes[i].orders = to[r->trie.at[i].self] = orders;
        orders += r->trie.at[i].count;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint32_t **at = &to[r->node[r->m->tree.id[r->places[i]]] - 1];
        if (*at) *(*at)++ = r->places[i];
    }
    mem_free(to);
    return 0;
}

/* The path of an object in this search's tree, first to last. */
static int routes_path(const routes_t *r, uint32_t id, path_ids_t *nodes) {
    if (r->via == r->m->g.via) return path_nodes(r->m, id, nodes, r->e);
    nodes->count = 0;
    for (uint32_t at = id;; at = r->via[at]) {
        if (path_ids_push(nodes, at)) return err_set(r->e, -ENOMEM, "no memory for a path");
        if (at == 0 || r->via[at] == LOWTIDE_NONE) break;
    }
    for (size_t i = 0, j = nodes->count - 1; i < j; i++, j--) {
        uint32_t x = nodes->at[i];
        nodes->at[i] = nodes->at[j];
        nodes->at[j] = x;
    }
    return 0;
}

static int routes_say(routes_t *r, const routes_node_t *node, model_routes_t *out,
                      model_route_t *route) {
    path_ids_t nodes = {0};
    strbuf_t text = {0};
    bool expression;
    *route = (model_route_t){.example = node->example,
                             .count = node->count,
                             .shallow_bytes = node->shallow,
                             .retained_bytes = node->retained};
    int status = routes_path(r, node->example, &nodes);
    if (!status)
        status = path_say(r->m, nodes.at, nodes.count, PATH_SHAPE, &text, &expression, r->e);
    if (!status) {
        route->text = arena_text(&out->memory, strbuf_text(&text), text.count);
        size_t last = 1;
        while (last + 1 < nodes.count && routes_is_specific(r->code[nodes.at[last]])) last++;
        if (last > 1 && !routes_is_specific(r->code[nodes.at[last]])) last--;
        if (last >= nodes.count) last = nodes.count - 1;
        route->through_id = nodes.at[last];
        strbuf_clear(&text);
        status = path_say(r->m, nodes.at, last + 1, PATH_EXACT, &text, &expression, r->e);
        route->through = arena_text(&out->memory, strbuf_text(&text), text.count);
    }
    if (!status && (!route->text || !route->through || text.failed)) status = routes_no_memory(r);
    path_ids_free(&nodes);
    strbuf_free(&text);
    return status;
}

static int routes_compare(const void *a, const void *b) {
    const routes_node_t *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? 1 : -1;
    return x->example < y->example ? -1 : x->example > y->example;
}

static int routes_find(routes_t *r, const uint32_t *ids, uint64_t count, model_routes_t *out) {
    routes_mark(r, ids, count);
    int status = routes_read(r);
    if (status) return status;
    routes_node_t root = {.parent = LOWTIDE_NONE, .example = LOWTIDE_NONE};
    if (routes_vec_push(&r->trie, root)) return routes_no_memory(r);
    for (uint64_t i = 0; i < count && !status; i++) status = routes_lay(r, ids[i]);
    if (status) return routes_no_memory(r);
    routes_sum(r, ids, count);
    for (size_t i = 0; i < r->trie.count; i++) r->trie.at[i].self = (uint32_t)i;
    qsort(r->trie.at, r->trie.count, sizeof *r->trie.at, routes_compare);
    uint32_t used = 0;
    while (used < r->trie.count && used < ROUTES_MAX && r->trie.at[used].count) used++;
    out->routes = arena_alloc(&out->memory, (used + 1) * sizeof *out->routes);
    if (!out->routes) return routes_no_memory(r);
    for (; out->count < used && !status; out->count++) {
        status = routes_say(r, &r->trie.at[out->count], out, &out->routes[out->count]);
    }
    if (!status && routes_members(r, count, out)) status = routes_no_memory(r);
    return status;
}

int model_routes_of(const model_t *m, const uint32_t *ids, uint64_t count,
                    const model_avoid_t *avoid, model_routes_t *out, err_t *e) {
    size_t n = m->g.n, bits = graph_words(n) * sizeof(uint64_t);
    *out = (model_routes_t){.total = count};
    if (count == 0) return 0;
    bool avoiding = avoid && (avoid->id_count || avoid->type_count);
    uint32_t *via = NULL;
    routes_t r = {.m = m, .via = m->g.via, .e = e};
    int status = avoiding ? path_tree_avoiding(m, avoid, &via, e) : 0;
    if (status) return status;
    if (via) r.via = via;
    r.marked = mem_map(bits);
    r.inner = mem_map(bits);
    r.code = mem_map(n * sizeof *r.code);
    r.node = mem_map(n * sizeof *r.node);
    r.places = mem_map((size_t)(count + 1) * sizeof *r.places);
    if (r.marked && r.inner && r.code && r.node && r.places)
        status = routes_find(&r, ids, count, out);
    else
        status = routes_no_memory(&r);
    mem_unmap(via, n * sizeof *via);
    mem_unmap(r.marked, bits);
    mem_unmap(r.inner, bits);
    mem_unmap(r.code, n * sizeof *r.code);
    mem_unmap(r.node, n * sizeof *r.node);
    mem_unmap(r.places, (size_t)(count + 1) * sizeof *r.places);
    routes_vec_free(&r.trie);
    map_free(&r.index);
    path_ids_free(&r.stack);
    if (status) model_routes_free(out);
    return status;
}

void model_routes_free(model_routes_t *routes) {
    arena_free(&routes->memory);
    *routes = (model_routes_t){0};
}
