#include "explain/model_data.h"

#include "base/map.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static char *types_join(arena_t *arena, const char *a, const char *b, const char *c) {
    size_t x = strlen(a), y = strlen(b), z = strlen(c);
    char *text = arena_alloc(arena, x + y + z + 1);
    if (!text) return NULL;
    memcpy(text, a, x);
    memcpy(text + x, b, y);
    memcpy(text + x + y, c, z + 1);
    return text;
}

const char *types_name(arena_t *arena, const lowtide_recording *rec, const lowtide_shape *shape) {
    const char *name = lowtide_string(rec, shape->name),
               *module = lowtide_string(rec, shape->module);
    if (shape->kind != LOWTIDE_SHAPE_OBJECT) return types_join(arena, "<", name, ">");
    if (!module[0] || strcmp(module, "builtins") == 0) return types_join(arena, name, "", "");
    return types_join(arena, module, ".", name);
}

/* All shapes of one type object, or of one pseudo-object's name, are one type. */
static uint64_t types_key(const lowtide_shape *shape) {
    if (shape->type != LOWTIDE_NONE) return shape->type;
    return UINT64_C(1) << 62 | (uint64_t)shape->kind << 32 | shape->name;
}

static int types_collect(model_t *m, map_t *index) {
    uint32_t shapes = lowtide_shapes(m->rec);
    m->types = arena_alloc(&m->arena, (shapes + (size_t)1) * sizeof *m->types);
    m->type_of_shape = arena_alloc(&m->arena, (shapes + (size_t)1) * sizeof *m->type_of_shape);
    if (!m->types || !m->type_of_shape) return -ENOMEM;
    for (uint32_t s = 0; s < shapes; s++) {
        const lowtide_shape *shape = lowtide_shape_at(m->rec, s);
        int fresh;
        uint32_t *type = map_put(index, types_key(shape), &fresh);
        if (!type) return -ENOMEM;
        if (fresh) {
            *type = m->type_count++;
            model_type_t *t = &m->types[*type];
            *t = (model_type_t){.type_id = shape->type,
                                .shape = s,
                                .module = lowtide_string(m->rec, shape->module)};
            if (!(t->name = types_name(&m->arena, m->rec, shape))) return -ENOMEM;
        }
        m->type_of_shape[s] = *type;
    }
    return 0;
}

/* Retained bytes of a type: those of its instances that no other instance dominates. In dominator
 * order a subtree is one run, so an instance is covered when it lies before the end of the last
 * uncovered one. */
static void types_sum(model_t *m, uint32_t *covered) {
    const dom_tree_t *t = &m->tree;
    for (uint32_t p = 0; p < t->count; p++) {
        uint32_t id = t->id[p];
        if (id >= m->g.n) continue;
        uint32_t index = m->type_of_shape[m->g.shape[id]];
        model_type_t *type = &m->types[index];
        type->count++;
        type->shallow_bytes += t->sum[p + 1] - t->sum[p];
        if (p < covered[index]) continue;
        covered[index] = p + t->size[p];
        type->retained_bytes += t->sum[p + t->size[p]] - t->sum[p];
    }
}

static int types_compare(const void *a, const void *b) {
    const model_type_t *x = a, *y = b;
    if (x->retained_bytes != y->retained_bytes)
        return x->retained_bytes < y->retained_bytes ? 1 : -1;
    return strcmp(x->name, y->name);
}

static void types_sort(model_t *m, uint32_t *moved) {
    uint32_t shapes = lowtide_shapes(m->rec);
    qsort(m->types, m->type_count, sizeof *m->types, types_compare);
    /* The shape that a type names still has the old index. */
    for (uint32_t i = 0; i < m->type_count; i++) moved[m->type_of_shape[m->types[i].shape]] = i;
    for (uint32_t s = 0; s < shapes; s++) m->type_of_shape[s] = moved[m->type_of_shape[s]];
    while (m->type_count > 0 && m->types[m->type_count - 1].count == 0) m->type_count--;
}

int types_build(model_t *m, err_t *e) {
    map_t index = {0};
    int status = types_collect(m, &index);
    map_free(&index);
    uint32_t *covered =
        status ? NULL : arena_alloc(&m->arena, (m->type_count + (size_t)1) * 2 * sizeof *covered);
    if (!covered) return err_set(e, -ENOMEM, "no memory for the types of the recording");
    types_sum(m, covered);
    types_sort(m, covered + m->type_count);
    return 0;
}

const model_type_t *model_types(const model_t *m, uint32_t *count) {
    *count = m->type_count;
    return m->types;
}

uint32_t model_type_of(const model_t *m, uint32_t id) {
    return m->type_of_shape[m->g.shape[id]];
}

const char *model_type_name(const model_t *m, uint32_t id) {
    static const char *const virtual_name[] = {"<root>", "<C code>", "<immortal>", "<garbage>"};
    if (id >= m->g.n) return virtual_name[id - m->g.n];
    return m->types[model_type_of(m, id)].name;
}
