/* The heap divided among modules, packages, threads or tasks: each object belongs to the nearest
 * of them that dominates it.
 */
#include "explain/names.h"
#include "explain/path.h"
#include "explain/task.h"

#include "base/map.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct groups {
    const model_t *m;
    int by;
    uint32_t *owner; /* by place: index into groups */
    map_t index;     /* what makes a group: id of the object, or hash of the package's name */
    model_groups_t *out;
    uint32_t room;
    err_t *e;
} groups_t;

static int groups_no_memory(groups_t *g) {
    return err_set(g->e, -ENOMEM, "no memory for the groups of the heap");
}

static int groups_add(groups_t *g, const char *name, size_t bytes, uint32_t id) {
    if (g->out->count == g->room) {
        uint32_t room = g->room ? g->room * 2 : 64;
        model_group_t *groups = arena_alloc(&g->out->memory, room * sizeof *groups);
        if (!groups) return groups_no_memory(g);
        if (g->out->count) memcpy(groups, g->out->groups, g->out->count * sizeof *groups);
        g->out->groups = groups;
        g->room = room;
    }
    char *text = arena_text(&g->out->memory, name, bytes);
    if (!text) return groups_no_memory(g);
    g->out->groups[g->out->count++] = (model_group_t){.name = text, .id = id};
    return 0;
}

static int groups_task_name(groups_t *g, uint32_t id, strbuf_t *name) {
    strbuf_puts(name, "task ");
    return task_put_name(g->m, id, name, g->e);
}

static int groups_name(groups_t *g, uint32_t id, strbuf_t *name) {
    lowtide_object o;
    const lowtide_shape *shape = model_shape_of(g->m, id);
    if (g->by == MODEL_BY_TASK) return groups_task_name(g, id, name);
    int status = model_read(g->m, id, &o, g->e);
    if (status) return status;
    if (g->by == MODEL_BY_THREAD) {
        strbuf_puts(name, lowtide_string(g->m->rec, shape->name));
        if (o.value.kind == LOWTIDE_VALUE_NAME) strbuf_putc(name, ' ');
    }
    if (o.value.kind != LOWTIDE_VALUE_NAME) {
        if (name->count == 0) strbuf_puts(name, "(unnamed)");
        return 0;
    }
    const char *end =
        g->by == MODEL_BY_PACKAGE ? memchr(o.value.text, '.', o.value.text_bytes) : NULL;
    strbuf_put(name, o.value.text, end ? (size_t)(end - o.value.text) : o.value.text_bytes);
    return 0;
}

static uint64_t groups_hash(const char *text, size_t bytes) {
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (size_t i = 0; i < bytes; i++) h = (h ^ (unsigned char)text[i]) * UINT64_C(0x100000001B3);
    return h >> 1 | UINT64_C(1) << 62;
}

static int groups_of(groups_t *g, uint32_t id, uint32_t *group) {
    strbuf_t name = {0};
    int fresh, status = groups_name(g, id, &name);
    if (!status) {
        uint64_t key = g->by == MODEL_BY_PACKAGE ? groups_hash(strbuf_text(&name), name.count) : id;
        uint32_t *at = map_put(&g->index, key, &fresh);
        if (at && fresh) {
            *at = g->out->count;
            status = groups_add(g, strbuf_text(&name), name.count,
                                g->by == MODEL_BY_PACKAGE ? LOWTIDE_NONE : id);
        }
        if (at) *group = *at;
        if (!at || name.failed) status = groups_no_memory(g);
    }
    strbuf_free(&name);
    return status;
}

/* The module, thread or task that an object of this shape is or stands for; LOWTIDE_NONE where it
 * is none. */
static uint32_t groups_key(const groups_t *g, uint32_t id) {
    const model_t *m = g->m;
    const lowtide_shape *shape = model_shape_of(m, id);
    switch (g->by) {
    case MODEL_BY_MODULE:
    case MODEL_BY_PACKAGE:
        if (shape->flags & LOWTIDE_SHAPE_IS_MODULE) return id;
        if (!(shape->flags & LOWTIDE_SHAPE_IS_NAMESPACE) || m->g.via[id] == LOWTIDE_NONE)
            return LOWTIDE_NONE;
        return model_shape_of(m, m->g.via[id])->flags & LOWTIDE_SHAPE_IS_MODULE ? m->g.via[id]
                                                                                : LOWTIDE_NONE;
    case MODEL_BY_THREAD:
        return shape->kind == LOWTIDE_SHAPE_THREAD ? id : LOWTIDE_NONE;
    default:
        return task_is(m, id) ? id : LOWTIDE_NONE;
    }
}

static int groups_assign(groups_t *g) {
    const dom_tree_t *t = &g->m->tree;
    int status = groups_add(g, "(shared)", 8, LOWTIDE_NONE);
    for (uint32_t p = 1; p < t->count && !status; p++) {
        uint32_t id = t->id[p], key = id < g->m->g.n ? groups_key(g, id) : LOWTIDE_NONE;
        if (id >= g->m->g.n) {
            g->owner[p] = 0;
            if (id == model_node(g->m, MODEL_NODE_GARBAGE))
                status = groups_add(g, "(garbage)", 9, LOWTIDE_NONE);
            if (id == model_node(g->m, MODEL_NODE_GARBAGE)) g->owner[p] = g->out->count - 1;
            continue;
        }
        g->owner[p] = g->owner[t->idom[p]];
        if (key != LOWTIDE_NONE) status = groups_of(g, key, &g->owner[p]);
        if (status) break;
        model_group_t *group = &g->out->groups[g->owner[p]];
        group->objects++;
        group->bytes += t->sum[p + 1] - t->sum[p];
    }
    return status;
}

static int groups_by_class(groups_t *g) {
    int status = 0;
    for (uint32_t i = 0; i < g->m->type_count && !status; i++) {
        const model_type_t *type = &g->m->types[i];
        status = groups_add(g, type->name, strlen(type->name), type->type_id);
        if (status) break;
        g->out->groups[i].objects = type->count;
        g->out->groups[i].bytes = type->retained_bytes;
    }
    return status;
}

static int groups_compare(const void *a, const void *b) {
    const model_group_t *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return strcmp(x->name, y->name);
}

int model_group_by(const model_t *m, int by, model_groups_t *out, err_t *e) {
    groups_t g = {.m = m, .by = by, .out = out, .e = e};
    size_t bytes = (size_t)m->tree.count * sizeof *g.owner;
    int status;
    *out = (model_groups_t){0};
    if (by == MODEL_BY_CLASS) {
        status = groups_by_class(&g);
    } else {
        g.owner = mem_map(bytes);
        status = g.owner ? groups_assign(&g) : groups_no_memory(&g);
        mem_unmap(g.owner, bytes);
    }
    map_free(&g.index);
    if (status) {
        model_groups_free(out);
        return status;
    }
    uint32_t used = 0;
    for (uint32_t i = 0; i < out->count; i++) {
        if (out->groups[i].objects) out->groups[used++] = out->groups[i];
    }
    out->count = used;
    if (used) qsort(out->groups, used, sizeof *out->groups, groups_compare);
    return 0;
}

void model_groups_free(model_groups_t *g) {
    arena_free(&g->memory);
    *g = (model_groups_t){0};
}
