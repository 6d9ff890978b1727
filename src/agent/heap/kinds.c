#include "agent/heap/kinds.h"

#include "agent/heap/buffers.h"
#include "agent/heap/handles.h"
#include "agent/heap/kind_bases.h"
#include "agent/heap/ndarray.h"
#include "agent/heap/py_text.h"
#include "agent/heap/sizes.h"
#include "agent/heap/special.h"

#include <errno.h>

#define TPFLAGS_READY (1ull << 12)

enum { MEMBER_OBJECT = 6, MEMBER_OBJECT_EX = 16 };

rt_addr_t kind_type_dict(const walk_t *k, rt_addr_t type) {
    return rt_type_dict(k->rt, k->main_interp, type);
}

static rt_addr_t kind_base(const walk_t *k, rt_addr_t type) {
    return rt_ptr(type, k->lay->type_base);
}

static bool kind_is_type(const walk_t *k, rt_addr_t type) {
    if (!type || type & 7 || type >> 47) return false;
    uint64_t flags;
    int64_t basicsize;
    rt_addr_t meta;
    const layout_t *l = k->lay;
    if (rt_peek(type + (rt_addr_t)l->type_flags, &flags, 8) || !(flags & TPFLAGS_READY) ||
        rt_peek(type + (rt_addr_t)l->type_basicsize, &basicsize, 8) || basicsize < 16 ||
        basicsize > 1 << 24 || rt_peek(type + (rt_addr_t)l->object_type, &meta, 8) || meta & 7 ||
        rt_peek(meta + (rt_addr_t)l->type_flags, &flags, 8))
        return false;
    return flags & RT_TPFLAGS_TYPE_SUBCLASS && flags & TPFLAGS_READY;
}

/* A class made by a class statement: all its contribution to the layout is slots, a dict, a list of weak references. */
static bool kind_is_class_statement(const walk_t *k, rt_addr_t type) {
    if (!(rt_type_flags(k->rt, type) & RT_TPFLAGS_HEAPTYPE)) return false;
    rt_addr_t traverse = rt_ptr(type, k->lay->type_traverse);
    if (!(rt_type_flags(k->rt, type) & RT_TPFLAGS_HAVE_GC)) traverse = 0;
    if (!traverse) {
        /* Without a traverse it adds nothing that the collector would look at; type_new leaves tp_basicsize as the base's. */
        rt_addr_t base = kind_base(k, type);
        return base && rt_i64(base, k->lay->type_basicsize) == rt_i64(type, k->lay->type_basicsize);
    }
    return traverse == k->subtype_traverse;
}

static bool kind_has_field(const kind_t *t, int32_t offset) {
    for (uint32_t i = 0; i < t->field_count; i++)
        if (t->fields[i].offset == offset) return true;
    return false;
}

void kind_add_field(kind_t *t, int32_t offset, rec_label_t label) {
    if (t->field_count == KIND_FIELDS_MAX || kind_has_field(t, offset)) return;
    t->fields[t->field_count++] = (kind_field_t){.offset = offset, .label = label};
}

static void kind_add_members(walk_t *k, kind_t *t, rt_addr_t type) {
    const layout_t *l = k->lay;
    rt_addr_t m = rt_ptr(type, l->type_members);
    for (int i = 0; m && i < KIND_FIELDS_MAX; i++, m += (rt_addr_t)l->member_def_size) {
        rt_addr_t name = rt_ptr(m, l->member_def_name);
        if (!name) break;
        int what = rt_i32(m, l->member_def_type);
        int64_t offset = rt_i64(m, l->member_def_offset);
        if (what != MEMBER_OBJECT && what != MEMBER_OBJECT_EX) continue;
        if (offset < l->object_size || offset + 8 > t->basicsize) continue;
        /* The dict is told apart; the list of weak references is borrowed, and of neither need a base's place be right. */
        if (strcmp((const char *)name, "__dict__") == 0 ||
            strcmp((const char *)name, "__weakref__") == 0)
            continue;
        if (offset == t->dictoffset) continue;
        kind_add_field(t, (int32_t)offset,
                       walk_label(k, LOWTIDE_ATTRIBUTE, (const char *)name, false));
    }
}

static void kind_add_base_fields(walk_t *k, kind_t *t, const base_row_t *row) {
    for (const base_field_t *f = row->fields; f->name; f++) {
        int32_t offset;
        memcpy(&offset, (const char *)k->lay + f->offset, sizeof offset);
        if (!rt_has(offset) || offset == t->dictoffset) continue;
        kind_add_field(t, offset, walk_label(k, f->kind, f->name, f->borrowed));
        if (f->offset == offsetof(layout_t, module_dict) ||
            f->offset == offsetof(layout_t, function_globals))
            t->fields[t->field_count - 1].namespace = true;
    }
}

static void kind_read_dict(walk_t *k, kind_t *t) {
    if (t->flags & RT_TPFLAGS_MANAGED_DICT) {
        t->dict = k->rt->minor == 11   ? DICT_BESIDE
                  : k->rt->minor == 12 ? DICT_TAGGED
                                       : DICT_MANAGED;
        rt_addr_t keys = t->heap ? rt_ptr(t->type, k->lay->heap_type_cached_keys) : 0;
        bool inlined = k->rt->minor < 13 || t->flags & RT_TPFLAGS_INLINE_VALUES;
        if (!keys || !inlined) return;
        t->keys = keys;
        t->inline_count = (uint32_t)rt_i64(keys, k->lay->dict_keys_nentries);
        t->inline_bytes = size_inline_values(k, keys);
    } else if (t->dictoffset) {
        t->dict = DICT_AT_OFFSET;
    }
}

/* A structseq's length counts only what it shows as a sequence; its type's dict knows the rest. */
static uint32_t kind_hidden_items(walk_t *k, const kind_t *t) {
    static const char *const names[] = {"n_fields", "n_sequence_fields"};
    int64_t n[2] = {0, 0};
    uint64_t bits;
    if (t->family != FAMILY_TUPLE || t->c_base == k->rt->types.tuple) return 0;
    for (int i = 0; i < 2; i++) {
        rt_addr_t v = py_dict_get(k->rt, kind_type_dict(k, t->c_base), names[i]);
        if (!py_type_has(k->rt, v, RT_TPFLAGS_LONG_SUBCLASS) ||
            !py_int_value(k->rt, v, n + i, &bits))
            return 0;
    }
    return n[0] > n[1] && n[0] < 1000 ? (uint32_t)(n[0] - n[1]) : 0;
}

static kind_value_t kind_value_rule(const walk_t *k, const kind_t *t) {
    const rt_t *rt = k->rt;
    if (t->type == rt->types.boolean) return VALUE_BOOL;
    if (t->flags & RT_TPFLAGS_LONG_SUBCLASS) return VALUE_INT;
    if (t->flags & RT_TPFLAGS_STR_SUBCLASS) return VALUE_STR;
    if (t->flags & RT_TPFLAGS_BYTES_SUBCLASS) return VALUE_BYTES;
    if (t->flags & RT_TPFLAGS_TYPE_SUBCLASS) return VALUE_TYPE;
    if (t->c_base == rt->types.real) return VALUE_FLOAT;
    if (t->c_base == rt->types.bytearray) return VALUE_BYTEARRAY;
    if (t->c_base == rt->types.module) return VALUE_MODULE;
    if (t->c_base == rt->types.function) return VALUE_FUNCTION;
    if (t->c_base == rt->types.cfunction || t->c_base == rt->types.cmethod) return VALUE_CFUNCTION;
    return t->c_base == rt->types.code ? VALUE_CODE : VALUE_NONE;
}

static bool kind_is_ndarray(const walk_t *k, const kind_t *t) {
    rt_addr_t name = rt_ptr(t->c_base, k->lay->type_name);
    return name && !(rt_type_flags(k->rt, t->c_base) & RT_TPFLAGS_HEAPTYPE) &&
           strcmp((const char *)name, "numpy.ndarray") == 0 &&
           rt_i64(t->c_base, k->lay->type_basicsize) >= 80;
}

static kind_family_t kind_family_of(walk_t *k, kind_t *t) {
    const base_row_t *row = base_find(k->rt, t->c_base);
    if (t->flags & RT_TPFLAGS_TYPE_SUBCLASS) return FAMILY_TYPE;
    if (!row) {
        /* A C type that is made over one we know keeps its layout in front. */
        for (rt_addr_t b = kind_base(k, t->c_base); b && !row; b = kind_base(k, b))
            row = base_find(k->rt, b);
        if (row) kind_add_base_fields(k, t, row);
        if (row && row->family != FAMILY_PLAIN && row->family != FAMILY_CODE) return row->family;
        /* A type that is told as a dict is one: frozendict. */
        if (rt_ptr(t->c_base, k->lay->type_traverse) ==
            rt_ptr(k->rt->types.dict, k->lay->type_traverse))
            return FAMILY_DICT;
        if (kind_is_ndarray(k, t)) return ndarray_add_fields(k, t), FAMILY_NDARRAY;
        return FAMILY_TRAVERSE;
    }
    kind_add_base_fields(k, t, row);
    return row->family;
}

static void kind_read_layout(walk_t *k, kind_t *t) {
    const layout_t *l = k->lay;
    rt_addr_t *chain = k->base_room;
    int n = 0;
    t->c_base = t->type;
    for (rt_addr_t b = t->type; b && n < KIND_BASES_MAX; b = kind_base(k, b)) {
        t->c_base = b;
        if (!kind_is_class_statement(k, b)) break;
        chain[n++] = b;
    }
    t->family = kind_family_of(k, t);
    for (rt_addr_t b = t->c_base; b && t->family != FAMILY_TYPE; b = kind_base(k, b))
        if (!base_find(k->rt, b)) kind_add_members(k, t, b);
    for (rt_addr_t b = t->c_base; b; b = kind_base(k, b)) {
        special_add(k, t, b);
        if (!t->buffer) t->buffer = buffer_find(k, b);
    }
    t->base_field_count = t->field_count;
    t->base_has_dict = rt_i64(t->c_base, l->type_dictoffset) != 0 ||
                       rt_type_flags(k->rt, t->c_base) & RT_TPFLAGS_MANAGED_DICT;
    while (n-- > 0) kind_add_members(k, t, chain[n]);
    rt_addr_t traverse = rt_ptr(t->c_base, l->type_traverse);
    if (rt_type_flags(k->rt, t->c_base) & RT_TPFLAGS_HAVE_GC)
        memcpy(&t->traverse, &traverse, sizeof t->traverse);
}

static kind_t *kind_new(walk_t *k, rt_addr_t type) {
    const layout_t *l = k->lay;
    kind_field_t *fields = k->field_room;
    kind_t *t = arena_alloc(&k->arena, sizeof *t);
    if (!t) return NULL;
    t->type = type;
    t->flags = rt_type_flags(k->rt, type);
    t->heap = t->flags & RT_TPFLAGS_HEAPTYPE;
    t->has_gc = t->flags & RT_TPFLAGS_HAVE_GC;
    t->asks_gc = t->flags & RT_TPFLAGS_TYPE_SUBCLASS || rt_ptr(type, l->type_is_gc);
    t->basicsize = rt_i64(type, l->type_basicsize);
    t->itemsize = rt_i64(type, l->type_itemsize);
    t->dictoffset = rt_i64(type, l->type_dictoffset);
    t->fields = fields;
    kind_read_dict(k, t);
    kind_read_layout(k, t);
    t->fields = arena_alloc(&k->arena, (t->field_count + 1) * sizeof *fields);
    if (!t->fields) return NULL;
    memcpy(t->fields, fields, t->field_count * sizeof *fields);
    t->fixed_count = 1 + t->field_count + (t->dict != DICT_NONE) + t->inline_count + t->has_order;
    if (t->fixed_count > WALK_LABELS_MAX) return NULL;
    t->hidden_items = kind_hidden_items(k, t);
    t->value_rule = kind_value_rule(k, t);
    t->handle = handle_find(k, t);
    size_choose(k, t);
    kind_names(k, type, &t->module, &t->name);
    for (int i = 0; i < KIND_VARIANTS; i++) t->shape[i] = LOWTIDE_NONE;
    return t;
}

kind_t *kind_make(walk_t *k, rt_addr_t type) {
    int fresh;
    uint32_t *at = map_get(&k->kind_map, type);
    kind_t *t;
    if (at) {
        t = k->kinds.at[*at];
    } else {
        if (!kind_is_type(k, type)) return NULL;
        t = kind_new(k, type);
        if (!t || kind_vec_push(&k->kinds, t)) return walk_fail(k, -ENOMEM), NULL;
        at = map_put(&k->kind_map, type, &fresh);
        if (!at) return walk_fail(k, -ENOMEM), NULL;
        *at = (uint32_t)k->kinds.count - 1;
    }
    k->kind_cache[type >> 4 & (WALK_KIND_CACHE - 1)] = t;
    return t;
}

static uint32_t kind_labels(walk_t *k, const kind_t *t, rec_label_t *to) {
    uint32_t n = 0;
    to[n++] = walk_label(k, LOWTIDE_CLASS, NULL, !t->heap);
    for (uint32_t i = 0; i < t->field_count; i++) to[n++] = t->fields[i].label;
    if (t->dict != DICT_NONE) to[n++] = walk_label(k, LOWTIDE_ATTRIBUTE, "__dict__", false);
    py_table_t keys;
    if (t->inline_count) py_keys_open(k->rt, t->keys, &keys);
    for (uint32_t i = 0; i < t->inline_count; i++) {
        char text[256];
        rt_addr_t key = py_table_key(&keys, i);
        size_t bytes = py_is_str(k->rt, key) ? py_str_utf8(k->rt, key, text, sizeof text) : 0;
        to[n++] = (rec_label_t){LOWTIDE_ATTRIBUTE, 0, rec_string(k->w, text, bytes)};
    }
    if (t->has_order) to[n++] = walk_label(k, LOWTIDE_FIELD, "order", false);
    return n;
}

uint32_t kind_shape_make(walk_t *k, kind_t *t, unsigned variant, unsigned flags,
                         unsigned repeat_count, const rec_label_t *repeat) {
    rec_shape_t s = {.kind = LOWTIDE_SHAPE_OBJECT,
                     .type = walk_mention(k, t->type),
                     .name = t->name,
                     .module = t->module,
                     .repeat_count = repeat_count};
    s.flags = flags | (t->heap ? LOWTIDE_SHAPE_HEAP_TYPE : 0) |
              (t->has_gc ? LOWTIDE_SHAPE_HAS_GC : 0) |
              (t->flags & RT_TPFLAGS_TYPE_SUBCLASS ? LOWTIDE_SHAPE_IS_TYPE : 0) |
              (t->c_base == k->rt->types.module ? LOWTIDE_SHAPE_IS_MODULE : 0);
    s.fixed_count = kind_labels(k, t, k->labels);
    s.fixed = k->labels;
    for (unsigned i = 0; i < repeat_count; i++) s.repeat[i] = repeat[i];
    return t->shape[variant] = rec_shape_add(k->w, &s);
}
