/* The cycles of the garbage: its strongly connected parts, alike ones together, with the reference
 * that closes each.
 *
 * Tarjan's algorithm without recursion, over the predecessors (a graph and its reverse have the
 * same parts). The garbage is one run of places, so all arrays are as long as the garbage. */
#include "explain/path.h"

#include "base/map.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CYCLES_SEARCH_MAX = 20000, CYCLES_TYPES_MAX = 12 };

typedef struct cycles_level {
    uint32_t at, next; /* index in the garbage; predecessor to look at next */
} cycles_level_t;

typedef struct cycles_kind {
    uint64_t objects, bytes, count;
    uint32_t example; /* an object of one of them: the one mentioned first */
    uint32_t self;    /* its number before they were sorted */
} cycles_kind_t;
VEC_DEFINE(cycles_kind_vec, cycles_kind_t);

typedef struct cycles {
    const model_t *m;
    uint32_t base, count; /* garbage: places base … base + count − 1 */
    uint32_t *number;     /* by index: order of the visit, from 1 */
    uint32_t
        *low; /* lowest number reached; later: the part's kind plus 1, 0 for what is on no cycle */
    uint64_t *on_stack;
    path_ids_t stack, parts; /* parts: indexes of the objects on cycles, part after part … */
    path_ids_t ends;         /* … and where each part ends */
    cycles_kind_vec_t kinds;
    err_t *e;
} cycles_t;

static int cycles_no_memory(cycles_t *c) {
    return err_set(c->e, -ENOMEM, "no memory for the cycles of %u objects", c->count);
}

static uint32_t cycles_id(const cycles_t *c, uint32_t index) {
    return c->m->tree.id[c->base + index];
}

static bool cycles_has_self(const cycles_t *c, uint32_t index) {
    uint32_t id = cycles_id(c, index);
    const uint32_t *from;
    uint32_t count = model_referrers(c->m, id, &from);
    for (uint32_t k = 0; k < count; k++) {
        if (from[k] == id) return true;
    }
    return false;
}

/* Takes a finished part off the stack; single objects count only when they refer to themselves. */
static int cycles_pop(cycles_t *c, uint32_t index) {
    size_t begin = c->parts.count;
    uint32_t top;
    do {
        top = c->stack.at[--c->stack.count];
        c->on_stack[top >> 6] &= ~(UINT64_C(1) << (top & 63));
        if (path_ids_push(&c->parts, top)) return -ENOMEM;
    } while (top != index);
    if (c->parts.count - begin == 1 && !cycles_has_self(c, index))
        c->parts.count = begin;
    else if (path_ids_push(&c->ends, (uint32_t)c->parts.count))
        return -ENOMEM;
    return 0;
}

static int cycles_visit(cycles_t *c, uint32_t start, cycles_level_t *levels,
                        uint32_t *next_number) {
    uint32_t depth = 0;
    levels[depth++] = (cycles_level_t){start, 0};
    while (depth > 0) {
        cycles_level_t *l = &levels[depth - 1];
        const uint32_t *from;
        uint32_t count = model_referrers(c->m, cycles_id(c, l->at), &from);
        if (!c->number[l->at]) {
            c->number[l->at] = c->low[l->at] = ++*next_number;
            if (path_ids_push(&c->stack, l->at)) return -ENOMEM;
            graph_set(c->on_stack, l->at);
        }
        uint32_t child = UINT32_MAX;
        while (l->next < count && child == UINT32_MAX) {
            uint32_t other = c->m->tree.place[from[l->next++]] - c->base;
            if (!c->number[other])
                child = other;
            else if (graph_bit(c->on_stack, other) && c->number[other] < c->low[l->at])
                c->low[l->at] = c->number[other];
        }
        if (child != UINT32_MAX) {
            levels[depth++] = (cycles_level_t){child, 0};
            continue;
        }
        uint32_t done = l->at;
        if (c->low[done] == c->number[done] && cycles_pop(c, done)) return -ENOMEM;
        depth--;
        if (depth > 0 && c->low[done] < c->low[levels[depth - 1].at])
            c->low[levels[depth - 1].at] = c->low[done];
    }
    return 0;
}

/* Parts are alike when the same types are on them. */
static uint64_t cycles_signature(const cycles_t *c, size_t begin, size_t end) {
    uint32_t types[CYCLES_TYPES_MAX], count = 0;
    for (size_t i = begin; i < end; i++) {
        uint32_t type = model_type_of(c->m, cycles_id(c, c->parts.at[i])), k = 0;
        while (k < count && types[k] != type) k++;
        if (k < count) continue;
        if (count == CYCLES_TYPES_MAX) return UINT64_C(1) << 62;
        for (k = count++; k > 0 && types[k - 1] > type; k--) types[k] = types[k - 1];
        types[k] = type;
    }
    uint64_t h = count;
    for (uint32_t k = 0; k < count; k++)
        h = (h ^ types[k]) * UINT64_C(0x9E3779B97F4A7C15) ^ h >> 29;
    return h >> 2;
}

/* Each part goes to its kind; each object of the garbage to the part that is on it or dominates
 * it. */
static int cycles_sort_out(cycles_t *c) {
    const dom_tree_t *t = &c->m->tree;
    map_t index = {0};
    int status = 0;
    memset(c->low, 0, c->count * sizeof *c->low);
    for (size_t part = 0, begin = 0; part < c->ends.count && !status; begin = c->ends.at[part++]) {
        int fresh;
        uint32_t *kind = map_put(&index, cycles_signature(c, begin, c->ends.at[part]), &fresh);
        if (kind && fresh) {
            *kind = (uint32_t)c->kinds.count;
            if (cycles_kind_vec_push(&c->kinds,
                                     (cycles_kind_t){.example = LOWTIDE_NONE, .self = *kind}))
                kind = NULL;
        }
        if (!kind) {
            status = -ENOMEM;
            break;
        }
        cycles_kind_t *k = &c->kinds.at[*kind];
        k->count++;
        for (size_t i = begin; i < c->ends.at[part]; i++) {
            uint32_t id = cycles_id(c, c->parts.at[i]);
            c->low[c->parts.at[i]] = *kind + 1;
            if (id < k->example) k->example = id;
        }
    }
    map_free(&index);
    for (uint32_t i = 0; i < c->count && !status; i++) {
        uint32_t p = c->base + i, above = t->idom[p];
        if (!c->low[i] && above >= c->base) c->low[i] = c->low[above - c->base];
        if (!c->low[i]) continue;
        c->kinds.at[c->low[i] - 1].objects++;
        c->kinds.at[c->low[i] - 1].bytes += t->sum[p + 1] - t->sum[p];
    }
    return status;
}

static int cycles_find(cycles_t *c) {
    size_t words = (size_t)c->count * sizeof(uint32_t) + 1,
           room = (size_t)c->count * sizeof(cycles_level_t) + 1;
    cycles_level_t *levels = mem_map(room);
    c->number = mem_map(words);
    c->low = mem_map(words);
    c->on_stack = mem_map(graph_words(c->count) * sizeof(uint64_t));
    int status = levels && c->number && c->low && c->on_stack ? 0 : -ENOMEM;
    uint32_t next_number = 0;
    for (uint32_t i = 0; i < c->count && !status; i++) {
        if (!c->number[i]) status = cycles_visit(c, i, levels, &next_number);
    }
    mem_unmap(levels, room);
    return status ? status : cycles_sort_out(c);
}

/* The shortest way from an object back to itself, as nodes: the object, …, the object. Empty when
 * it is too long. */
static int cycles_ring(cycles_t *c, uint32_t id, path_ids_t *ring) {
    path_ids_t queue = {0},
               before = {0}; /* before: index in the queue of the object that was come from */
    map_t seen = {0};
    bool back = false;
    int fresh, status = path_ids_push(&queue, id) || path_ids_push(&before, 0) ? -ENOMEM : 0;
    ring->count = 0;
    for (size_t at = 0; at < queue.count && !status && !back && queue.count < CYCLES_SEARCH_MAX;
         at++) {
        const uint32_t *from;
        uint32_t count = model_referrers(c->m, queue.at[at], &from);
        for (uint32_t k = 0; k < count && !status && !back; k++) {
            uint32_t index = c->m->tree.place[from[k]] - c->base;
            back = from[k] == id;
            if (!map_put(&seen, index, &fresh)) status = -ENOMEM;
            if (status || (!fresh && !back)) continue;
            status = path_ids_push(&queue, from[k]) || path_ids_push(&before, (uint32_t)at)
                         ? -ENOMEM
                         : 0;
        }
    }
    /* Backward from the object along referrers, so from the end of the queue it reads in the right
     * direction. */
    for (size_t at = queue.count - 1; back && !status;) {
        status = path_ids_push(ring, queue.at[at]);
        if (at == 0) break;
        at = before.at[at];
    }
    path_ids_free(&queue);
    path_ids_free(&before);
    map_free(&seen);
    return status;
}

/* A ring reads best from an instance of a class that somebody wrote, or else from a function. */
static unsigned cycles_rank(const cycles_t *c, uint32_t id) {
    const lowtide_shape *s = model_shape_of(c->m, id);
    const char *type = model_type_name(c->m, id);
    if (s->flags & LOWTIDE_SHAPE_HEAP_TYPE && !(s->flags & LOWTIDE_SHAPE_IS_TYPE)) return 3;
    if (s->flags & LOWTIDE_SHAPE_IS_TYPE || strcmp(type, "function") == 0) return 2;
    return strcmp(type, "tuple") != 0 && strcmp(type, "cell") != 0;
}

static void cycles_turn(const cycles_t *c, path_ids_t *ring) {
    size_t length = ring->count - 1, best = 0;
    for (size_t i = 1; i < length; i++) {
        if (cycles_rank(c, ring->at[i]) > cycles_rank(c, ring->at[best])) best = i;
    }
    for (; best > 0; best--) {
        uint32_t first = ring->at[0];
        memmove(ring->at, ring->at + 1, (length - 1) * sizeof *ring->at);
        ring->at[length - 1] = first;
    }
    ring->at[length] = ring->at[0];
}

static int cycles_text(cycles_t *c, const uint32_t *nodes, size_t count, arena_t *arena,
                       char **out) {
    strbuf_t text = {0};
    int status = path_say_from(c->m, nodes, count, &text, c->e);
    if (!status) {
        *out = text.failed ? NULL : arena_text(arena, strbuf_text(&text), text.count);
        if (!*out) status = cycles_no_memory(c);
    }
    strbuf_free(&text);
    return status;
}

static int cycles_say(cycles_t *c, const cycles_kind_t *kind, arena_t *arena, model_cycle_t *out) {
    path_ids_t ring = {0};
    *out = (model_cycle_t){.objects = kind->objects, .bytes = kind->bytes, .count = kind->count};
    out->from = out->to = kind->example;
    int status = cycles_ring(c, kind->example, &ring);
    if (status) status = cycles_no_memory(c);
    if (!status && ring.count > 1) {
        cycles_turn(c, &ring);
        size_t last = ring.count - 2;
        /* The dict behind the attributes is not what refers, its owner is; nor is a list or dict that an object has. */
        while (last > 0 && cycles_rank(c, ring.at[last]) < 2) last--;
        out->from = ring.at[last];
        out->to = ring.at[ring.count - 1];
        status = cycles_text(c, ring.at, ring.count, arena, &out->text);
        if (!status) status = cycles_text(c, ring.at + last, ring.count - last, arena, &out->edge);
    } else if (!status) {
        out->text = out->edge = arena_text(arena, "", 0);
        if (!out->text) status = cycles_no_memory(c);
    }
    out->from_type = model_type_name(c->m, out->from);
    out->to_type = model_type_name(c->m, out->to);
    path_ids_free(&ring);
    return status;
}

/* The runs of places whose objects are all of one kind; `at` NULL: only how many. */
static size_t cycles_runs(const cycles_t *c, uint32_t kind, model_span_t *at) {
    size_t count = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->low[i] != kind + 1) continue;
        uint32_t begin = i;
        while (i + 1 < c->count && c->low[i + 1] == kind + 1) i++;
        if (at) at[count] = (model_span_t){c->base + begin, c->base + i + 1};
        count++;
    }
    return count;
}

static int cycles_spans(cycles_t *c, const cycles_kind_t *kind, arena_t *arena,
                        model_cycle_t *out) {
    out->span_count = cycles_runs(c, kind->self, NULL);
    out->spans = arena_alloc(arena, (out->span_count + 1) * sizeof *out->spans);
    if (!out->spans) return cycles_no_memory(c);
    cycles_runs(c, kind->self, out->spans);
    return 0;
}

static int cycles_compare(const void *a, const void *b) {
    const cycles_kind_t *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->example < y->example ? -1 : x->example > y->example;
}

int model_cycles(const model_t *m, uint32_t max, model_cycles_t *out, err_t *e) {
    uint32_t node = m->tree.place[model_node(m, MODEL_NODE_GARBAGE)];
    cycles_t c = {.m = m, .base = node + 1, .count = m->tree.size[node] - 1, .e = e};
    *out = (model_cycles_t){0};
    if (c.count == 0) return 0;
    int status = cycles_find(&c);
    if (status) cycles_no_memory(&c);
    if (!status) {
        if (c.kinds.count) qsort(c.kinds.at, c.kinds.count, sizeof *c.kinds.at, cycles_compare);
        uint32_t used = c.kinds.count < max ? (uint32_t)c.kinds.count : max;
        out->cycles = arena_alloc(&out->memory, (used + (size_t)1) * sizeof *out->cycles);
        if (!out->cycles) status = cycles_no_memory(&c);
        for (; out->count < used && !status; out->count++) {
            const cycles_kind_t *kind = &c.kinds.at[out->count];
            status = cycles_say(&c, kind, &out->memory, &out->cycles[out->count]);
            if (!status) status = cycles_spans(&c, kind, &out->memory, &out->cycles[out->count]);
        }
    }
    mem_unmap(c.number, (size_t)c.count * sizeof(uint32_t) + 1);
    mem_unmap(c.low, (size_t)c.count * sizeof(uint32_t) + 1);
    mem_unmap(c.on_stack, graph_words(c.count) * sizeof(uint64_t));
    path_ids_free(&c.stack);
    path_ids_free(&c.parts);
    path_ids_free(&c.ends);
    cycles_kind_vec_free(&c.kinds);
    if (status) model_cycles_free(out);
    return status;
}

void model_cycles_free(model_cycles_t *c) {
    arena_free(&c->memory);
    *c = (model_cycles_t){0};
}
