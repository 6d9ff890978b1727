#include "explain/label.h"

#include <string.h>

static uint8_t label_cost_of_attribute(const char *name) {
    if (strcmp(name, "__dict__") == 0) return 1;
    return name[0] == '_' && name[1] == '_' ? 4 : 2;
}

/* Modules first, then threads; what an interpreter holds beside them (its own dict of builtins,
 * caches) only where nothing else leads there. */
static uint8_t label_cost_of_root(const lowtide_shape *shape, const char *name) {
    if (shape->kind == LOWTIDE_SHAPE_THREAD) return strcmp(name, "frame") == 0 ? 1 : 8;
    if (shape->kind != LOWTIDE_SHAPE_INTERPRETER)
        return shape->kind == LOWTIDE_SHAPE_RUNTIME ? 1 : 12;
    return strcmp(name, "modules") == 0 ? 1 : strcmp(name, "thread") == 0 ? 4 : 12;
}

static uint8_t label_cost_of(const lowtide_recording *rec, const lowtide_shape *shape,
                             const lowtide_label *label) {
    const char *name = lowtide_string(rec, label->name);
    if (label->borrowed) return 0;
    if (shape->kind == LOWTIDE_SHAPE_OTHER) return 12;
    switch (label->kind) {
    case LOWTIDE_CLASS:
        return 6;
    case LOWTIDE_ATTRIBUTE:
        return label_cost_of_attribute(name);
    case LOWTIDE_INDEX:
        return 2;
    case LOWTIDE_KEY:
        return 5;
    case LOWTIDE_VALUE:
        return shape->flags & LOWTIDE_SHAPE_IS_NAMESPACE ? 1 : 2;
    case LOWTIDE_ELEMENT:
        return 4;
    case LOWTIDE_LOCAL:
        return 5;
    case LOWTIDE_STACK:
        return 6;
    case LOWTIDE_CELL:
        return 4;
    case LOWTIDE_FIELD:
        if (strcmp(name, "__dict__") == 0 || strcmp(name, "tp_dict") == 0) return 1;
        return shape->kind == LOWTIDE_SHAPE_OBJECT ? 4 : 8;
    case LOWTIDE_ROOT:
        return label_cost_of_root(shape, name);
    default:
        return 5;
    }
}

const label_costs_t *label_costs_of(const lowtide_recording *rec, arena_t *arena) {
    uint32_t count = lowtide_shapes(rec);
    label_costs_t *costs = arena_alloc(arena, (size_t)(count ? count : 1) * sizeof *costs);
    if (!costs) return NULL;
    for (uint32_t s = 0; s < count; s++) {
        const lowtide_shape *shape = lowtide_shape_at(rec, s);
        uint8_t *fixed = arena_alloc(arena, shape->fixed_count ? shape->fixed_count : 1);
        if (!fixed) return NULL;
        for (uint32_t k = 0; k < shape->fixed_count; k++)
            fixed[k] = label_cost_of(rec, shape, &shape->fixed[k]);
        costs[s].fixed = fixed;
        costs[s].frame = shape->kind == LOWTIDE_SHAPE_FRAME;
        costs[s].fixed_count = shape->fixed_count;
        costs[s].repeat_count = (uint8_t)shape->repeat_count;
        for (uint32_t k = 0; k < shape->repeat_count; k++) {
            costs[s].repeat[k] = label_cost_of(rec, shape, &shape->repeat[k]);
        }
    }
    return costs;
}
