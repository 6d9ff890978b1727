/* The dominator list: who keeps how much, biggest first.
 *
 * From the root downward, the biggest line is opened again and again: what its object dominates
 * directly is either big enough to be a line of its own or is put together with its siblings of
 * the same type. A line whose single child keeps nearly all of it says nothing that the child does
 * not, so the child takes its place. Roots, modules' namespaces and the like are opened without
 * being lines. */
#include "explain/names.h"
#include "explain/path.h"

#include "base/map.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { TOP_DEPTH_MAX = 10, TOP_HOPS_MAX = 64, TOP_HOLDERS_MAX = 3, TOP_SEARCHES_MAX = 12 };

typedef struct top_line {
    path_ids_t members; /* places; siblings of one type */
    uint32_t parent;    /* index into lines */
    uint32_t depth, type;
    uint32_t hops;    /* lines that this one took the place of, one after the other */
    uint32_t biggest; /* place */
    uint64_t shallow, retained, objects;
    bool open; /* still to be opened */
    bool shown;
    bool ground_above; /* what dominates it is no holder itself */
    bool scattered;    /* a group whose members have nothing in common but their type */
} top_line_t;
VEC_DEFINE(top_vec, top_line_t);

typedef struct top_bucket {
    uint64_t retained, big_retained;
    uint32_t line; /* plus 1, once it has one */
} top_bucket_t;

typedef struct top {
    const model_t *m;
    top_vec_t lines;
    top_bucket_t *buckets; /* by type */
    path_ids_t children;   /* places, of the line being opened */
    uint64_t min_bytes;
    uint32_t shown;
    err_t *e;
} top_t;

static int top_no_memory(top_t *t) {
    return err_set(t->e, -ENOMEM, "no memory for the list of dominators");
}

static uint64_t top_retained(const model_t *m, uint32_t place) {
    return m->tree.sum[place + m->tree.size[place]] - m->tree.sum[place];
}

/* No holder by itself: roots, interpreters, sys.modules. What it dominates is shown as if nothing
 * stood above it. */
static bool top_is_ground(const model_t *m, uint32_t id) {
    if (id >= m->g.n || id == m->names->modules.dict) return true;
    uint8_t kind = model_shape_of(m, id)->kind;
    return kind == LOWTIDE_SHAPE_RUNTIME || kind == LOWTIDE_SHAPE_INTERPRETER;
}

/* Part of its owner: the dict behind an instance's, module's or type's attributes. */
static bool top_is_inner(const model_t *m, uint32_t id) {
    return id < m->g.n && model_shape_of(m, id)->flags & LOWTIDE_SHAPE_IS_NAMESPACE;
}

/* All that the line's members dominate directly; what is ground or inner is looked through. */
static int top_gather(top_t *t, const top_line_t *line) {
    const dom_tree_t *tree = &t->m->tree;
    path_ids_t *c = &t->children;
    path_ids_t through = {0};
    int status = 0;
    c->count = 0;
    for (size_t i = 0; i < line->members.count && !status; i++) {
        status = path_ids_push(&through, line->members.at[i]);
        while (through.count > 0 && !status) {
            uint32_t p = through.at[--through.count], end = p + tree->size[p];
            for (uint32_t child = p + 1; child < end && !status; child += tree->size[child]) {
                uint32_t id = tree->id[child];
                if (id == model_node(t->m, MODEL_NODE_GARBAGE)) continue;
                bool look_through = top_is_ground(t->m, id) || top_is_inner(t->m, id);
                status = path_ids_push(look_through ? &through : c, child);
            }
        }
    }
    path_ids_free(&through);
    return status;
}

static int top_add(top_t *t, uint32_t place, const top_line_t *above, uint32_t *line) {
    const model_t *m = t->m;
    top_line_t l = *above;
    l.members = (path_ids_t){0};
    l.biggest = place;
    l.open = true;
    l.type = model_type_of(m, m->tree.id[place]);
    l.ground_above = above->parent == UINT32_MAX;
    if (top_vec_push(&t->lines, l)) return -ENOMEM;
    *line = (uint32_t)t->lines.count - 1;
    return 0;
}

static int top_put(top_t *t, uint32_t line, uint32_t place) {
    top_line_t *l = &t->lines.at[line];
    uint64_t retained = top_retained(t->m, place);
    l->retained += retained;
    l->objects += t->m->tree.size[place];
    l->shallow += t->m->tree.sum[place + 1] - t->m->tree.sum[place];
    if (retained > top_retained(t->m, l->biggest)) l->biggest = place;
    return path_ids_push(&l->members, place);
}

/* Called once its members are known, which is before its children's. */
static void top_judge(top_t *t, top_line_t *l) {
    l->scattered = l->members.count > 1 && (l->ground_above || t->lines.at[l->parent].scattered);
}

/* Makes lines of the children: the big ones singly, the rest by type. `above` has what they all
 * have. */
static int top_divide(top_t *t, const top_line_t *above, uint64_t big) {
    const model_t *m = t->m;
    int status = 0;
    for (size_t i = 0; i < t->children.count; i++) {
        uint32_t p = t->children.at[i];
        top_bucket_t *b = &t->buckets[model_type_of(m, m->tree.id[p])];
        uint64_t retained = top_retained(m, p);
        b->retained += retained;
        if (retained >= big) b->big_retained += retained;
    }
    for (size_t i = 0; i < t->children.count && !status; i++) {
        uint32_t p = t->children.at[i], line;
        top_bucket_t *b = &t->buckets[model_type_of(m, m->tree.id[p])];
        if (top_retained(m, p) >= big) {
            status = top_add(t, p, above, &line);
            if (!status) status = top_put(t, line, p);
            continue;
        }
        if (b->retained - b->big_retained < t->min_bytes) continue;
        if (!b->line) {
            status = top_add(t, p, above, &line);
            b->line = line + 1;
        }
        if (!status) status = top_put(t, b->line - 1, p);
    }
    for (size_t i = 0; i < t->children.count; i++) {
        t->buckets[model_type_of(m, m->tree.id[t->children.at[i]])] = (top_bucket_t){0};
    }
    return status;
}

/* Opens a line: decides whether it is shown and puts its children among the lines. */
static int top_open(top_t *t, uint32_t index) {
    top_line_t *line = &t->lines.at[index];
    uint64_t retained = line->retained, biggest = 0;
    top_line_t above = {.parent = line->parent, .depth = line->depth, .hops = line->hops + 1};
    line->open = false;
    top_judge(t, line);
    if (top_gather(t, line)) return -ENOMEM;
    for (size_t i = 0; i < t->children.count; i++) {
        uint64_t r = top_retained(t->m, t->children.at[i]);
        if (r > biggest) biggest = r;
    }
    /* More than 19 twentieths in one child: the child says it all. But a long list has no end to
     * go to. */
    bool replaced = line->members.count == 1 && biggest > retained - retained / 20;
    bool endless = replaced && line->hops >= TOP_HOPS_MAX;
    if (!replaced || endless) {
        line->shown = true;
        t->shown++;
        above = (top_line_t){.parent = index, .depth = line->depth + 1};
    }
    if (endless || above.depth > TOP_DEPTH_MAX) return 0;
    uint64_t big = retained / 20 > t->min_bytes ? retained / 20 : t->min_bytes;
    return top_divide(t, &above, big ? big : 1);
}

static int top_run(top_t *t, uint32_t max) {
    const model_t *m = t->m;
    top_line_t root = {0};
    int status = path_ids_push(&root.members, 0);
    if (!status) status = top_gather(t, &root);
    path_ids_free(&root.members);
    uint64_t big =
        m->totals.shallow_bytes / 200 > t->min_bytes ? m->totals.shallow_bytes / 200 : t->min_bytes;
    const top_line_t above = {.parent = UINT32_MAX};
    if (!status) status = top_divide(t, &above, big ? big : 1);
    while (!status && t->shown < max) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < t->lines.count; i++) {
            const top_line_t *l = &t->lines.at[i];
            if (!l->open || l->retained < t->min_bytes) continue;
            if (best == UINT32_MAX || l->retained > t->lines.at[best].retained) best = i;
        }
        if (best == UINT32_MAX) break;
        status = top_open(t, best);
    }
    return status ? top_no_memory(t) : 0;
}

/* Objects that no single holder keeps: the ways to them that have nothing in common. */
static int top_holders(top_t *t, uint32_t id, model_dominators_t *out, model_dominator_t *line) {
    model_paths_t paths;
    int status = model_why(t->m, id, NULL, TOP_HOLDERS_MAX, &paths, t->e);
    if (status) return status;
    if (paths.count > 1) {
        line->holders = arena_alloc(&out->memory, paths.count * sizeof *line->holders);
        for (uint32_t i = 0; i < paths.count && line->holders && !status; i++) {
            char *text = arena_text(&out->memory, paths.paths[i].text, strlen(paths.paths[i].text));
            if (!text)
                status = top_no_memory(t);
            else
                line->holders[line->holders_count++] = text;
        }
        if (!line->holders) status = top_no_memory(t);
    }
    model_paths_free(&paths);
    return status;
}

/* The types from the root down stand for the paths, which are many: "(many holders) > function >
 * code". */
static int top_say_scattered(top_t *t, const top_line_t *l, model_dominators_t *out,
                             model_dominator_t *line) {
    uint32_t types[TOP_DEPTH_MAX + 2], count = 0;
    strbuf_t text = {0};
    for (;; l = &t->lines.at[l->parent]) {
        types[count++] = l->type;
        if (l->ground_above || count == TOP_DEPTH_MAX + 2) break;
    }
    strbuf_puts(&text, "(many holders)");
    while (count > 0) strbuf_printf(&text, " > %s", t->m->types[types[--count]].name);
    line->path = text.failed ? NULL : arena_text(&out->memory, strbuf_text(&text), text.count);
    strbuf_free(&text);
    return line->path ? 0 : top_no_memory(t);
}

static int top_order_compare(const void *a, const void *b) {
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* A place in the tree is one in dominator order. */
static int top_orders(top_t *t, const top_line_t *l, model_dominators_t *out,
                      const uint32_t **orders) {
    size_t bytes = l->members.count * sizeof *l->members.at;
    uint32_t *copy = arena_alloc(&out->memory, bytes);
    if (!copy) return top_no_memory(t);
    memcpy(copy, l->members.at, bytes);
    qsort(copy, l->members.count, sizeof *copy, top_order_compare);
    *orders = copy;
    return 0;
}

static int top_say(top_t *t, const top_line_t *l, uint32_t *searches, model_dominators_t *out,
                   model_dominator_t *line) {
    const model_t *m = t->m;
    uint32_t id = m->tree.id[l->biggest];
    bool single = l->members.count == 1;
    *line = (model_dominator_t){.type = m->types[l->type].name,
                                .id = id,
                                .parent = l->parent,
                                .depth = l->depth,
                                .members = l->members.count,
                                .shallow_bytes = l->shallow,
                                .retained_bytes = l->retained,
                                .retained_objects = l->objects};
    int status = top_orders(t, l, out, &line->orders);
    if (status) return status;
    if (l->scattered) return top_say_scattered(t, l, out, line);
    status = path_text(m, id, single ? PATH_EXACT : PATH_SHAPE, &out->memory, &line->path,
                       &line->expression, t->e);
    if (status || !single || !l->ground_above || *searches == 0) return status;
    --*searches;
    return top_holders(t, id, out, line);
}

typedef struct top_rank {
    uint64_t retained;
    uint32_t depth, line;
} top_rank_t;

static int top_compare(const void *a, const void *b) {
    const top_rank_t *x = a, *y = b;
    if (x->retained != y->retained) return x->retained < y->retained ? 1 : -1;
    return x->depth < y->depth ? -1 : x->depth > y->depth;
}

static int top_finish(top_t *t, model_dominators_t *out) {
    uint32_t searches = TOP_SEARCHES_MAX, count = 0;
    out->lines = arena_alloc(&out->memory, (t->shown + (size_t)1) * sizeof *out->lines);
    top_rank_t *rank = arena_alloc(&out->memory, (t->shown + (size_t)1) * sizeof *rank);
    uint32_t *place = arena_alloc(&out->memory, (t->lines.count + 1) * sizeof *place);
    if (!out->lines || !place || !rank) return top_no_memory(t);
    for (uint32_t i = 0; i < t->lines.count; i++) {
        const top_line_t *l = &t->lines.at[i];
        if (l->shown) rank[count++] = (top_rank_t){l->retained, l->depth, i};
    }
    qsort(rank, count, sizeof *rank, top_compare);
    for (uint32_t i = 0; i < count; i++) place[rank[i].line] = i;
    for (; out->count < count; out->count++) {
        model_dominator_t *line = &out->lines[out->count];
        int status = top_say(t, &t->lines.at[rank[out->count].line], &searches, out, line);
        if (status) return status;
        if (line->parent != UINT32_MAX) line->parent = place[line->parent];
    }
    return 0;
}

int model_dominators(const model_t *m, uint32_t max, uint64_t min_bytes, model_dominators_t *out,
                     err_t *e) {
    top_t t = {.m = m, .min_bytes = min_bytes, .e = e};
    size_t bytes = (m->type_count + (size_t)1) * sizeof *t.buckets;
    *out = (model_dominators_t){0};
    t.buckets = mem_map(bytes);
    int status = t.buckets ? top_run(&t, max) : top_no_memory(&t);
    if (!status) status = top_finish(&t, out);
    for (size_t i = 0; i < t.lines.count; i++) path_ids_free(&t.lines.at[i].members);
    top_vec_free(&t.lines);
    path_ids_free(&t.children);
    mem_unmap(t.buckets, bytes);
    if (status) model_dominators_free(out);
    return status;
}

void model_dominators_free(model_dominators_t *d) {
    arena_free(&d->memory);
    *d = (model_dominators_t){0};
}
