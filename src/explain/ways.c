/* Several ways to one object that have nothing in common but what every way must pass. */
#include "explain/path.h"

#include "base/mem.h"
#include "explain/names.h"

#include <errno.h>
#include <string.h>

enum { WHY_BLOCKED = 1, WHY_ROUNDS_MAX = 250 };

typedef struct why {
    const model_t *m;
    uint32_t id;
    uint64_t *avoided; /* bits: nodes that no path may pass */
    uint32_t *next;    /* by node: the next one toward the object, plus 1; 0: not seen */
    uint8_t *chain; /* by node: WHY_BLOCKED, or the round in which its best path was found free */
    uint8_t round;
    path_ids_t seen;  /* in the order of the search */
    path_ids_t cut;   /* pairs: references that no path may take */
    path_ids_t nodes; /* the path found last */
    err_t *e;
} why_t;

/* Nodes that many holders share without being one themselves: interpreters, threads, frames,
 * modules and their dicts. */
static bool why_is_ground(const model_t *m, uint32_t id) {
    if (id >= m->g.n || id == m->names->modules.dict) return true;
    const lowtide_shape *shape = model_shape_of(m, id);
    if (shape->kind != LOWTIDE_SHAPE_OBJECT || shape->flags & LOWTIDE_SHAPE_IS_MODULE) return true;
    if (!(shape->flags & LOWTIDE_SHAPE_IS_NAMESPACE)) return false;
    uint32_t owner = m->g.via[id];
    return owner != LOWTIDE_NONE && model_shape_of(m, owner)->flags & LOWTIDE_SHAPE_IS_MODULE;
}

static bool why_is_cut(const why_t *w, uint32_t from, uint32_t to) {
    for (size_t i = 0; i + 1 < w->cut.count; i += 2) {
        if (w->cut.at[i] == from && w->cut.at[i + 1] == to) return true;
    }
    return false;
}

/* Whether the best path to a node is free; what was found on the way is remembered. What is
 * blocked stays so, since more and more is avoided; what was free is asked again in the next
 * round. */
static bool why_chain_is_clean(why_t *w, uint32_t id) {
    const uint32_t *via = w->m->g.via;
    uint32_t at = id;
    uint8_t found = w->round;
    for (; w->chain[at] != WHY_BLOCKED && w->chain[at] != w->round && at != 0; at = via[at]) {
        bool stop = graph_bit(w->avoided, at) || at == w->id || via[at] == LOWTIDE_NONE;
        if (stop || (w->cut.count && why_is_cut(w, via[at], at))) {
            found = WHY_BLOCKED;
            break;
        }
    }
    if (w->chain[at] == WHY_BLOCKED) found = WHY_BLOCKED;
    for (uint32_t x = id; w->chain[x] != found; x = via[x]) {
        w->chain[x] = found;
        if (x == at) break;
    }
    return found != WHY_BLOCKED;
}

/* What the best path to a holder costs; a local of a frame is a dear last step. */
static unsigned why_cost(const why_t *w, uint32_t id) {
    bool frame = model_shape_of(w->m, id)->kind == LOWTIDE_SHAPE_FRAME;
    return w->m->g.cost[id] + (frame ? 3u : 0u);
}

static int why_compose(why_t *w, uint32_t from) {
    w->nodes.count = 0;
    int status = path_nodes(w->m, from, &w->nodes, w->e);
    for (uint32_t at = from; !status && at != w->id;) {
        at = w->next[at] - 1;
        if (path_ids_push(&w->nodes, at)) status = err_set(w->e, -ENOMEM, "no memory for a path");
    }
    return status;
}

/* Backward from the object, level by level, until some node of a level has a free best path; the
 * cheapest such is taken. -ENOENT: there is no way left. */
static int why_search(why_t *w) {
    const model_t *m = w->m;
    uint32_t held_by_c = LOWTIDE_NONE;
    w->round++;
    for (size_t i = 0; i < w->seen.count; i++) w->next[w->seen.at[i]] = 0;
    w->seen.count = 0;
    if (path_ids_push(&w->seen, w->id)) return err_set(w->e, -ENOMEM, "no memory for a search");
    w->next[w->id] = w->id + 1;
    if (w->id == 0) return why_compose(w, 0);
    for (size_t level = 0; level < w->seen.count;) {
        size_t end = w->seen.count;
        unsigned best_cost = UINT32_MAX;
        uint32_t best = LOWTIDE_NONE;
        for (; level < end; level++) {
            uint32_t at = w->seen.at[level], count;
            const uint32_t *from;
            if (held_by_c == LOWTIDE_NONE &&
                (graph_bit(m->g.surplus, at) || graph_bit(m->g.immortal, at)))
                held_by_c = at;
            count = model_referrers(m, at, &from);
            for (uint32_t k = 0; k < count; k++) {
                if (w->next[from[k]] || graph_bit(w->avoided, from[k])) continue;
                if (w->cut.count && why_is_cut(w, from[k], at)) continue;
                w->next[from[k]] = at + 1;
                if (path_ids_push(&w->seen, from[k]))
                    return err_set(w->e, -ENOMEM, "no memory for a search");
                if (!why_chain_is_clean(w, from[k])) continue;
                unsigned cost = why_cost(w, from[k]);
                if (cost >= best_cost) continue;
                best_cost = cost;
                best = from[k];
            }
        }
        if (best != LOWTIDE_NONE) return why_compose(w, best);
    }
    return held_by_c == LOWTIDE_NONE ? -ENOENT : why_compose(w, held_by_c);
}

/* What the path just found passes is not passed again, but for what every path must pass. The
 * ground is shared, so there the reference into what follows is cut. */
static int why_block(why_t *w) {
    const model_t *m = w->m;
    for (size_t i = 0; i + 1 < w->nodes.count; i++) {
        uint32_t at = w->nodes.at[i], next = w->nodes.at[i + 1];
        if (at >= m->g.n) { /* held by C code itself: once is enough */
            if (path_ids_push(&w->cut, at) || path_ids_push(&w->cut, next)) return -ENOMEM;
        } else if (model_dominates(m, at, w->id)) {
            continue;
        } else if (!why_is_ground(m, at)) {
            graph_set(w->avoided, at);
        } else if (!why_is_ground(m, next)) {
            if (path_ids_push(&w->cut, at) || path_ids_push(&w->cut, next)) return -ENOMEM;
        }
    }
    return 0;
}

static void why_avoid(why_t *w, const model_avoid_t *avoid) {
    const model_t *m = w->m;
    for (uint32_t i = 0; avoid && i < avoid->id_count; i++) {
        if (avoid->ids[i] < m->g.n) graph_set(w->avoided, avoid->ids[i]);
    }
    for (uint32_t id = 0; avoid && avoid->type_count && id < m->g.n; id++) {
        for (uint32_t k = 0; k < avoid->type_count; k++) {
            if (model_type_of(m, id) == avoid->types[k]) graph_set(w->avoided, id);
        }
    }
    w->avoided[w->id >> 6] &= ~(UINT64_C(1) << (w->id & 63));
}

static bool why_same(const model_path_t *path, const path_ids_t *nodes) {
    return path->length == nodes->count &&
           memcmp(path->nodes, nodes->at, nodes->count * sizeof *nodes->at) == 0;
}

/* Different ways to one task are said alike: by its name. */
static bool why_said(const model_paths_t *out, const model_path_t *path) {
    for (uint32_t i = 0; i < out->count; i++) {
        if (strcmp(out->paths[i].text, path->text) == 0) return true;
    }
    return false;
}

static int why_collect(why_t *w, uint32_t max, model_paths_t *out) {
    while (!out->more && w->round < WHY_ROUNDS_MAX) {
        int status = why_search(w);
        if (status == -ENOENT) return 0;
        if (status) return status;
        for (uint32_t i = 0; i < out->count; i++) {
            if (why_same(&out->paths[i], &w->nodes)) return 0;
        }
        if (out->count == max) {
            out->more = true;
            return 0;
        }
        if ((status = path_finish(w->m, &w->nodes, &out->paths[out->count], w->e))) return status;
        if (why_said(out, &out->paths[out->count]))
            model_path_free(&out->paths[out->count]);
        else
            out->count++;
        if (w->nodes.at[0] >= w->m->g.n) return 0; /* C code comes last */
        if (why_block(w)) return err_set(w->e, -ENOMEM, "no memory for a path");
    }
    return 0;
}

int model_why(const model_t *m, uint32_t id, const model_avoid_t *avoid, uint32_t max,
              model_paths_t *out, err_t *e) {
    size_t n = m->g.n, bits = graph_words(n) * sizeof(uint64_t);
    *out = (model_paths_t){0};
    if (id >= n) return err_set(e, -EINVAL, "there is no object %u", id);
    why_t w = {.m = m, .id = id, .round = WHY_BLOCKED, .e = e};
    w.avoided = mem_map(bits);
    w.next = mem_map(n * sizeof *w.next);
    w.chain = mem_map(n);
    out->paths = arena_alloc(&out->memory, (max ? max : 1) * sizeof *out->paths);
    int status = -ENOMEM;
    if (w.avoided && w.next && w.chain && out->paths) {
        why_avoid(&w, avoid);
        status = why_collect(&w, max, out);
    } else {
        err_set(e, status, "no memory for a search among %u objects", m->g.n);
    }
    mem_unmap(w.avoided, bits);
    mem_unmap(w.next, n * sizeof *w.next);
    mem_unmap(w.chain, n);
    path_ids_free(&w.seen);
    path_ids_free(&w.cut);
    path_ids_free(&w.nodes);
    if (status) model_paths_free(out);
    return status;
}

void model_paths_free(model_paths_t *paths) {
    for (uint32_t i = 0; i < paths->count; i++) model_path_free(&paths->paths[i]);
    arena_free(&paths->memory);
    *paths = (model_paths_t){0};
}
