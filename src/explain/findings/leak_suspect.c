/* leak-suspect: a container in which much of the heap has gathered.
 *
 * In the manner of Eclipse MAT: from an object that keeps a good share of the heap, down while a child keeps most of it, to
 * where it scatters into many small things. One array of a gigabyte is big, but nothing gathers in it. */
#include "explain/findings/findings.h"
#include "explain/names.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>

enum {
    SUSPECT_SHARE = 10,
    SUSPECT_MIN_BYTES = 8 << 20,
    SUSPECT_MIN_CHILDREN = 100,
    SUSPECT_ALIKE_SHARE = 5
};

typedef struct suspect {
    findings_t *f;
    uint64_t floor;
    path_ids_t stack, found; /* places */
    uint64_t *by_type;       /* retained bytes of an accumulation point's children */
} suspect_t;

static uint64_t suspect_retained(const model_t *m, uint32_t place) {
    return m->tree.sum[place + m->tree.size[place]] - m->tree.sum[place];
}

/* Looks at what a place dominates directly; namespace dicts are looked through. What is big enough to be looked into goes on
 * the stack. */
typedef struct suspect_view {
    uint64_t children, big_bytes, biggest;
    uint32_t type;
    uint64_t type_bytes, type_count;
} suspect_view_t;

static int suspect_look(suspect_t *s, uint32_t place, suspect_view_t *view) {
    const model_t *m = s->f->m;
    const dom_tree_t *t = &m->tree;
    path_ids_t through = {0};
    int status = path_ids_push(&through, place);
    *view = (suspect_view_t){.type = UINT32_MAX};
    memset(s->by_type, 0, m->type_count * 2 * sizeof *s->by_type);
    while (through.count > 0 && !status) {
        uint32_t p = through.at[--through.count], end = p + t->size[p];
        for (uint32_t c = p + 1; c < end && !status; c += t->size[c]) {
            uint32_t id = t->id[c];
            uint64_t retained = suspect_retained(m, c);
            /* Those have findings of their own. */
            if (id == model_node(m, MODEL_NODE_GARBAGE) || id == model_node(m, MODEL_NODE_C))
                continue;
            bool inner = id < m->g.n && model_shape_of(m, id)->flags & LOWTIDE_SHAPE_IS_NAMESPACE;
            if (retained >= s->floor) {
                status = path_ids_push(&s->stack, c);
                view->big_bytes += retained;
            } else if (inner) {
                status = path_ids_push(&through, c);
                continue;
            }
            if (retained > view->biggest) view->biggest = retained;
            view->children++;
            if (id >= m->g.n) continue;
            uint32_t type = model_type_of(m, id);
            s->by_type[2 * type] += retained;
            s->by_type[2 * type + 1]++;
            if (s->by_type[2 * type] <= view->type_bytes) continue;
            view->type = type;
            view->type_bytes = s->by_type[2 * type];
        }
    }
    if (view->type != UINT32_MAX) view->type_count = s->by_type[2 * view->type + 1];
    path_ids_free(&through);
    return status;
}

static bool suspect_is_container(const model_t *m, uint32_t id) {
    return model_shape_of(m, id)->repeat_count > 0 && !findings_is_structure(m, id);
}

static const char *suspect_fix(const char *type) {
    if (strstr(type, "dict") || strstr(type, "Dict")) {
        return "bound %s: delete entries that are done with, or keep them in a cache with a limit "
               "(lowtide.Cache, "
               "functools.lru_cache(maxsize=…)); where others own the values, in a "
               "weakref.WeakValueDictionary";
    }
    if (strcmp(type, "list") == 0 || strstr(type, "deque")) {
        return "bound %s: take out what has been handled, or keep the last ones alone in a "
               "collections.deque(maxlen=…)";
    }
    if (strstr(type, "set"))
        return "bound %s: discard what is done with; where others own the objects, use a "
               "weakref.WeakSet";
    return "bound what %s keeps: drop its references to what is done with";
}

static int suspect_report(suspect_t *s, uint32_t place, const suspect_view_t *view) {
    findings_t *f = s->f;
    const model_t *m = f->m;
    uint32_t id = m->tree.id[place];
    uint64_t bytes = suspect_retained(m, place);
    char number[32], size[32];
    model_finding_t *x = findings_add(f, "leak-suspect");
    if (!x) return findings_no_memory(f);
    x->bytes = bytes;
    x->objects = m->tree.size[place];
    x->type = (char *)model_type_name(m, id);
    int status = path_text(m, id, PATH_EXACT, &f->out->memory, &x->path, &x->expression, f->e);
    if (status) return status;
    bool local = strncmp(x->path, "thread ", 7) == 0;
    unsigned share = (unsigned)(bytes * 100 / (findings_heap(m) ? findings_heap(m) : 1));
    const char *what = view->type == UINT32_MAX ? "" : m->types[view->type].name;
    x->title = findings_text(f, "%s (%s) has gathered %s %s: %s, %u %% of the heap", x->path,
                             x->type, findings_count(view->type_count, number), what,
                             findings_bytes(bytes, size), share);
    const char *name = strrchr(x->path, '>'); /* of a local: behind its thread and function */
    x->fix =
        local && name
            ? findings_text(f, "del%s once it has been used, or work through the data in parts",
                            name + 1)
            : findings_text(f, suspect_fix(x->type), x->path);
    x->confidence = local                                                       ? "low"
                    : view->type_bytes > bytes / 2 && view->type_count >= 10000 ? "high"
                                                                                : "medium";
    return x->title && x->fix ? 0 : findings_no_memory(f);
}

static int suspect_search(suspect_t *s) {
    const model_t *m = s->f->m;
    int status = path_ids_push(&s->stack, 0) ? findings_no_memory(s->f) : 0;
    while (s->stack.count > 0 && !status) {
        uint32_t place = s->stack.at[--s->stack.count], id = m->tree.id[place];
        suspect_view_t view;
        if (suspect_look(s, place, &view)) return findings_no_memory(s->f);
        if (findings_is_structure(m, id)) continue;
        uint64_t retained = suspect_retained(m, place),
                 own = m->tree.sum[place + 1] - m->tree.sum[place];
        /* Where big children keep most of it, one of them is the point; and few children are no gathering. */
        if (view.big_bytes > retained / 2) continue;
        bool many = view.children >= SUSPECT_MIN_CHILDREN && view.biggest < retained / 4;
        bool wide = suspect_is_container(m, id) && own >= s->floor;
        if (!many && !wide) continue;
        if (path_ids_push(&s->found, place)) return findings_no_memory(s->f);
        status = suspect_report(s, place, &view);
    }
    return status;
}

/* Bytes of a type's group that do not lie in a suspect that has been found already. */
static uint64_t suspect_elsewhere(const suspect_t *s, uint32_t type, path_ids_t *ids) {
    const model_t *m = s->f->m;
    const dom_tree_t *t = &m->tree;
    uint64_t bytes = 0;
    ids->count = 0;
    for (uint32_t p = 0; p < t->count;) {
        bool covered = false;
        uint32_t id = t->id[p];
        for (size_t i = 0; i < s->found.count && !covered; i++) covered = s->found.at[i] == p;
        if (covered || id == model_node(m, MODEL_NODE_GARBAGE) ||
            id == model_node(m, MODEL_NODE_C)) {
            p += t->size[p];
        } else if (id < m->g.n && model_type_of(m, id) == type) {
            if (path_ids_push(ids, id)) return UINT64_MAX;
            bytes += suspect_retained(m, p);
            p += t->size[p];
        } else {
            p++;
        }
    }
    return bytes;
}

/* Instances of one class that several containers share, so that none of those keeps them alone. */
static int suspect_alike(suspect_t *s, uint32_t type, const path_ids_t *ids, uint64_t bytes) {
    findings_t *f = s->f;
    const model_type_t *t = &f->m->types[type];
    model_routes_t routes;
    char number[32], size[32];
    int status = model_routes_of(f->m, ids->at, ids->count, NULL, &routes, f->e);
    if (status) return status;
    const model_route_t *r = routes.routes;
    model_finding_t *x = r && r->count > ids->count / 2 ? findings_add(f, "leak-suspect") : NULL;
    if (x) {
        x->bytes = bytes;
        x->objects = ids->count;
        x->type = (char *)t->name;
        x->path = findings_text(f, "%s", r->through);
        x->title = findings_text(
            f, "%s %s are alive, %s through %s: %s", findings_count(ids->count, number), t->name,
            r->count == ids->count ? "all" : "most", r->through, findings_bytes(bytes, size));
        x->fix = findings_text(
            f,
            "take them out of all that holds them, %s and others (lowtide why F %s shows which), "
            "or let all but one hold them by weakref",
            r->through, t->name);
        x->confidence = "medium";
        if (!x->path || !x->title || !x->fix) status = findings_no_memory(f);
    } else if (r && r->count > ids->count / 2) {
        status = findings_no_memory(f);
    }
    model_routes_free(&routes);
    return status;
}

int finding_leak_suspect(findings_t *f) {
    const model_t *m = f->m;
    size_t bytes = (m->type_count * (size_t)2 + 1) * sizeof(uint64_t);
    uint64_t heap = findings_heap(m);
    suspect_t s = {.f = f, .floor = heap / SUSPECT_SHARE};
    if (s.floor < SUSPECT_MIN_BYTES) s.floor = SUSPECT_MIN_BYTES;
    s.by_type = mem_map(bytes);
    int status = s.by_type ? suspect_search(&s) : findings_no_memory(f);
    path_ids_t ids = {0};
    for (uint32_t i = 0; i < m->type_count && !status; i++) {
        const model_type_t *t = &m->types[i];
        const lowtide_shape *shape = lowtide_shape_at(m->rec, t->shape);
        bool class =
            shape->flags & LOWTIDE_SHAPE_HEAP_TYPE && !(shape->flags & LOWTIDE_SHAPE_IS_TYPE);
        if (!class || t->count < 1000 || t->retained_bytes < s.floor ||
            t->retained_bytes < heap / SUSPECT_ALIKE_SHARE)
            continue;
        uint64_t elsewhere = suspect_elsewhere(&s, i, &ids);
        if (elsewhere == UINT64_MAX)
            status = findings_no_memory(f);
        else if (elsewhere >= s.floor && elsewhere > t->retained_bytes / 2)
            status = suspect_alike(&s, i, &ids, elsewhere);
    }
    path_ids_free(&ids);
    path_ids_free(&s.stack);
    path_ids_free(&s.found);
    mem_unmap(s.by_type, bytes);
    return status;
}
