#include "agent/heap/edges.h"

#include "agent/heap/py_text.h"

#include <errno.h>

enum { WORD = sizeof(rt_addr_t), FRAME_NAME_BYTES = 128 };

/* A code object's constants and names, what is cached of it on demand, and its compiled traces. */
edges_form_t edges_code(walk_t *k, kind_t *t) {
    const layout_t *l = k->lay;
    edges_fixed(k, t);
    if (rt_has(l->code_cached)) {
        const int32_t fields[] = {l->code_cached_code, l->code_cached_varnames,
                                  l->code_cached_cellvars, l->code_cached_freevars};
        rt_addr_t cached = rt_ptr(k->address, l->code_cached);
        for (size_t i = 0; cached && i < sizeof fields / sizeof *fields; i++)
            if (rt_has(fields[i]) && rt_ptr(cached, fields[i]))
                walk_edge(k, rt_ptr(cached, fields[i]));
    }
    if (rt_has(l->code_executors) && rt_has(l->executors_items)) {
        rt_addr_t executors = rt_ptr(k->address, l->code_executors);
        int32_t n = executors ? rt_i32(executors, l->executors_size) : 0;
        for (int32_t i = 0; i < n; i++)
            walk_edge(k, rt_ptr(executors, l->executors_items + i * WORD));
    }
    uint32_t shape = t->shape[0];
    if (shape == LOWTIDE_NONE) {
        rec_label_t repeat = walk_label(k, LOWTIDE_FIELD, "cached", false);
        shape = kind_shape_make(k, t, 0, 0, 1, &repeat);
    }
    return (edges_form_t){shape, t->fixed_count, 1};
}

static rec_label_t edges_local_label(walk_t *k, rt_addr_t code, int32_t n, bool borrowed) {
    char text[FRAME_NAME_BYTES];
    rt_addr_t name = rt_code_local_name(k->rt, code, n);
    size_t bytes = py_is_str(k->rt, name) ? py_str_utf8(k->rt, name, text, sizeof text) : 0;
    return (rec_label_t){LOWTIDE_LOCAL, borrowed, rec_string(k->w, text, bytes)};
}

/* Which slots are borrowed is part of the shape: the hash of their places tells such shapes apart. */
static uint64_t edges_frame_key(walk_t *k, const rt_frame_t *f, const edges_frame_t *how) {
    uint64_t key = f->code ^ (uint64_t)how->variant << 56;
    for (int32_t i = 0; i < f->nlocalsplus; i++)
        if (rt_frame_slot(k->rt, f, i).borrowed)
            key = (key ^ (uint64_t)(i + 1)) * UINT64_C(0x9E3779B97F4A7C15);
    return key;
}

static uint32_t edges_frame_shape(walk_t *k, const rt_frame_t *f, const edges_frame_t *how) {
    int fresh;
    uint32_t *shape = map_put(&k->code_shapes, edges_frame_key(k, f, how), &fresh);
    if (!shape) return walk_fail(k, -ENOMEM), k->unreadable_shape;
    if (!fresh) return *shape;
    rec_shape_t s = {.kind = how->kind,
                     .flags = how->flags,
                     .type = how->type,
                     .name = how->name,
                     .module = how->module,
                     .fixed = k->labels,
                     .fixed_count = how->label_count,
                     .repeat_count = 1,
                     .repeat = {{LOWTIDE_STACK, how->borrowed, LOWTIDE_NONE}}};
    for (int32_t i = 0; i < f->nlocalsplus && s.fixed_count < WALK_LABELS_MAX; i++)
        k->labels[s.fixed_count++] =
            edges_local_label(k, f->code, i, how->borrowed || rt_frame_slot(k->rt, f, i).borrowed);
    return *shape = rec_shape_add(k->w, &s);
}

edges_form_t edges_locals(walk_t *k, const rt_frame_t *f, const edges_frame_t *how) {
    uint32_t fixed = how->label_count;
    for (int32_t i = 0; i < f->nlocalsplus && fixed < WALK_LABELS_MAX; i++, fixed++)
        walk_edge(k, rt_frame_slot(k->rt, f, i).object);
    /* A borrowed value on the stack is owned by a local, which has been told. */
    for (int32_t i = 0; i < f->stack_count; i++) {
        rt_slot_t slot = rt_frame_slot(k->rt, f, f->nlocalsplus + i);
        if (slot.object && !slot.borrowed) walk_edge(k, slot.object);
    }
    return (edges_form_t){edges_frame_shape(k, f, how), fixed, 1};
}

static void edges_label(walk_t *k, uint32_t *n, rec_label_t label, rt_addr_t object) {
    k->labels[(*n)++] = label;
    walk_edge(k, object);
}

/* What a frame refers to in front of its locals. */
static void edges_frame_specials(walk_t *k, const rt_frame_t *f, bool borrowed, uint32_t *n) {
    edges_label(k, n, walk_label(k, LOWTIDE_FIELD, "code", borrowed || f->code_borrowed), f->code);
    edges_label(k, n, walk_label(k, LOWTIDE_FIELD, "function", borrowed || f->function_borrowed),
                f->function);
    k->labels[(*n)++] = walk_label(k, LOWTIDE_FIELD, "globals", true);
    walk_edge_namespace(k, f->globals);
    edges_label(k, n, walk_label(k, LOWTIDE_FIELD, "locals", borrowed), f->locals);
    edges_label(k, n, walk_label(k, LOWTIDE_FIELD, "frame object", borrowed), f->frame_object);
}

static unsigned edges_frame_variant(const rt_frame_t *f, unsigned base) {
    return base | (f->code_borrowed ? 1u : 0) | (f->function_borrowed ? 2u : 0);
}

enum { VARIANT_THREAD = 0, VARIANT_GENERATOR = 16, VARIANT_FRAME_OBJECT = 64 };

static edges_frame_t edges_how(walk_t *k, const kind_t *t, unsigned variant) {
    return (edges_frame_t){.kind = LOWTIDE_SHAPE_OBJECT,
                           .variant = variant,
                           .flags = (t->has_gc ? LOWTIDE_SHAPE_HAS_GC : 0) |
                                    (t->heap ? LOWTIDE_SHAPE_HEAP_TYPE : 0),
                           .type = walk_mention(k, t->type),
                           .name = t->name,
                           .module = t->module};
}

/* A shape of this kind without a frame's locals. */
static edges_form_t edges_without_frame(walk_t *k, kind_t *t, uint32_t n) {
    if (t->shape[0] == LOWTIDE_NONE) {
        rec_shape_t s = {.kind = LOWTIDE_SHAPE_OBJECT,
                         .flags = t->has_gc ? LOWTIDE_SHAPE_HAS_GC : 0,
                         .type = walk_mention(k, t->type),
                         .name = t->name,
                         .module = t->module,
                         .fixed = k->labels,
                         .fixed_count = n};
        t->shape[0] = rec_shape_add(k->w, &s);
    }
    return (edges_form_t){t->shape[0], n, 0};
}

edges_form_t edges_generator(walk_t *k, kind_t *t) {
    const layout_t *l = k->lay;
    rt_addr_t o = k->address;
    uint32_t n = 0;
    edges_label(k, &n, walk_label(k, LOWTIDE_CLASS, NULL, true), t->type);
    edges_label(k, &n, walk_label(k, LOWTIDE_ATTRIBUTE, "__name__", false), rt_ptr(o, l->gen_name));
    edges_label(k, &n, walk_label(k, LOWTIDE_ATTRIBUTE, "__qualname__", false),
                rt_ptr(o, l->gen_qualname));
    edges_label(k, &n, walk_label(k, LOWTIDE_FIELD, "exception", false),
                rt_ptr(o, l->gen_exc_value));
    /* Never set in a plain generator. */
    edges_label(k, &n, walk_label(k, LOWTIDE_FIELD, "origin or finalizer", false),
                t->type == k->rt->types.generator ? 0 : rt_ptr(o, l->gen_origin_or_finalizer));
    /* 3.11 keeps the code object beside the frame's. */
    edges_label(k, &n, walk_label(k, LOWTIDE_FIELD, "gi_code", false),
                rt_has(l->gen_code) ? rt_ptr(o, l->gen_code) : 0);
    rt_frame_t f;
    /* The frame of a running one stands on its thread's chain and is told there. */
    if (!rt_generator_frame(k->rt, o, &f) || rt_generator_running(k->rt, o))
        return edges_without_frame(k, t, n);
    edges_frame_specials(k, &f, false, &n);
    unsigned variant = VARIANT_GENERATOR;
    if (t->type == k->rt->types.coroutine) variant += 4;
    if (t->type == k->rt->types.async_generator) variant += 8;
    edges_frame_t how = edges_how(k, t, edges_frame_variant(&f, variant));
    how.label_count = n;
    return edges_locals(k, &f, &how);
}

edges_form_t edges_frame_object(walk_t *k, kind_t *t) {
    const layout_t *l = k->lay;
    const struct {
        const char *name;
        int32_t offset;
        uint8_t kind;
    } fields[] = {{"f_back", l->frame_back, LOWTIDE_ATTRIBUTE},
                  {"f_trace", l->frame_trace, LOWTIDE_ATTRIBUTE},
                  {"extra locals", l->frame_extra_locals, LOWTIDE_FIELD},
                  {"locals cache", l->frame_locals_cache, LOWTIDE_FIELD},
                  {"overwritten locals", l->frame_overwritten_fast_locals, LOWTIDE_FIELD}};
    rt_addr_t o = k->address;
    uint32_t n = 0;
    edges_label(k, &n, walk_label(k, LOWTIDE_CLASS, NULL, true), t->type);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        edges_label(k, &n, walk_label(k, fields[i].kind, fields[i].name, false),
                    rt_has(fields[i].offset) ? rt_ptr(o, fields[i].offset) : 0);
    rt_frame_t f;
    bool owned;
    if (!rt_frame_object_frame(k->rt, o, &f, &owned) || !owned) return edges_without_frame(k, t, n);
    f.frame_object = 0; /* itself, and not counted */
    edges_frame_specials(k, &f, false, &n);
    edges_frame_t how = edges_how(k, t, edges_frame_variant(&f, VARIANT_FRAME_OBJECT));
    how.label_count = n;
    return edges_locals(k, &f, &how);
}

edges_form_t edges_thread_frame(walk_t *k, const rt_frame_t *f) {
    uint32_t n = 0;
    edges_frame_specials(k, f, false, &n);
    edges_label(k, &n, walk_label(k, LOWTIDE_FIELD, "generator", true),
                f->owner == RT_FRAME_GENERATOR ? rt_frame_generator(k->rt, f) : 0);
    edges_frame_t how = {.kind = LOWTIDE_SHAPE_FRAME,
                         .variant = edges_frame_variant(f, VARIANT_THREAD),
                         .type = LOWTIDE_NONE,
                         .name = walk_text(k, "frame"),
                         .module = LOWTIDE_NONE,
                         .label_count = n};
    return edges_locals(k, f, &how);
}
