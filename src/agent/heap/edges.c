#include "agent/heap/edges.h"

#include "agent/heap/attributes.h"
#include "agent/heap/ndarray.h"
#include "agent/heap/py_text.h"
#include "agent/heap/special.h"
#include "agent/heap/values.h"

enum { WORD = sizeof(rt_addr_t) };

void edges_fixed(walk_t *k, const kind_t *t) {
    rt_addr_t o = k->address, dict, values;
    walk_edge(k, t->type);
    for (uint32_t i = 0; i < t->field_count; i++) {
        const kind_field_t *f = t->fields + i;
        rt_addr_t v = f->guard && !rt_u8(o, f->guard) ? 0 : rt_ptr(o, f->offset);
        if (f->namespace)
            walk_edge_namespace(k, v);
        else
            walk_edge(k, v);
    }
    if (t->dict != DICT_NONE) {
        attributes_find(k, t, o, &dict, &values);
        walk_edge_namespace(k, dict);
        for (uint32_t i = 0; i < t->inline_count; i++)
            walk_edge(k, values ? rt_ptr(values, (int32_t)i * WORD) : 0);
    }
    if (t->has_order) walk_edge_id(k, special_order(k, o));
}

static edges_form_t edges_form(walk_t *k, kind_t *t, unsigned variant, unsigned flags,
                               unsigned repeat_count, const rec_label_t *repeat) {
    uint32_t shape = t->shape[variant];
    if (shape == LOWTIDE_NONE) shape = kind_shape_make(k, t, variant, flags, repeat_count, repeat);
    return (edges_form_t){shape, t->fixed_count, repeat_count};
}

/* The shape with one unnamed repeated label. */
static edges_form_t edges_form_of(walk_t *k, kind_t *t, uint8_t label) {
    rec_label_t repeat = {label, 0, LOWTIDE_NONE};
    return edges_form(k, t, 0, 0, 1, &repeat);
}

enum { DICT_SPLIT = 1, DICT_EMBEDDED = 2, DICT_IS_NAMESPACE = 4 };

edges_form_t edges_dict(walk_t *k, kind_t *t, unsigned tag) {
    py_table_t table;
    py_dict_open(k->rt, k->address, &table);
    unsigned variant = (table.values ? DICT_SPLIT : 0) | (table.embedded ? DICT_EMBEDDED : 0) |
                       (tag == WALK_NAMESPACE ? DICT_IS_NAMESPACE : 0) |
                       (tag == WALK_INTERNED ? DICT_SPLIT | DICT_EMBEDDED : 0);
    for (size_t i = 0; i < table.count; i++) {
        rt_addr_t value = py_table_value(&table, i);
        if (!value) continue;
        uint32_t key = walk_mention(k, py_table_key(&table, i));
        if (variant & DICT_IS_NAMESPACE) value_mark_name(k, key);
        walk_edge_id(k, key);
        walk_edge(k, value);
    }
    /* Keys of a split table belong to the type's shared keys, embedded values to the instance. */
    rec_label_t repeat[2] = {{LOWTIDE_KEY, variant & DICT_SPLIT, LOWTIDE_NONE},
                             {LOWTIDE_VALUE, (variant & DICT_EMBEDDED) != 0, LOWTIDE_NONE}};
    return edges_form(k, t, variant, variant & DICT_IS_NAMESPACE ? LOWTIDE_SHAPE_IS_NAMESPACE : 0,
                      2, repeat);
}

static edges_form_t edges_list(walk_t *k, kind_t *t) {
    int64_t n = rt_i64(k->address, k->lay->var_size);
    rt_addr_t items = rt_ptr(k->address, k->lay->list_items);
    for (int64_t i = 0; items && i < n; i++) walk_edge(k, rt_ptr(items + (rt_addr_t)i * WORD, 0));
    return edges_form_of(k, t, LOWTIDE_INDEX);
}

static edges_form_t edges_tuple(walk_t *k, kind_t *t) {
    int64_t n = rt_i64(k->address, k->lay->var_size) + t->hidden_items;
    rt_addr_t items = k->address + (rt_addr_t)k->lay->tuple_items;
    for (int64_t i = 0; i < n; i++) walk_edge(k, rt_ptr(items + (rt_addr_t)i * WORD, 0));
    return edges_form_of(k, t, LOWTIDE_INDEX);
}

static edges_form_t edges_set(walk_t *k, kind_t *t) {
    const layout_t *l = k->lay;
    rt_addr_t entry = rt_ptr(k->address, l->set_table);
    int64_t n = rt_i64(k->address, l->set_mask) + 1, left = rt_i64(k->address, l->set_fill);
    for (int64_t i = 0; left > 0 && i < n; i++, entry += (rt_addr_t)l->set_entry_size) {
        rt_addr_t key = rt_ptr(entry, l->set_entry_key);
        if (!key) continue;
        left--;
        /* A removed entry holds a dummy that is no element; its hash is −1. */
        if (rt_i64(entry, l->set_entry_key + WORD) != -1) walk_edge(k, key);
    }
    return edges_form_of(k, t, LOWTIDE_ELEMENT);
}

edges_form_t edges_gather(walk_t *k, kind_t *t, unsigned tag) {
    switch (t->family) {
    case FAMILY_GENERATOR:
        return edges_generator(k, t);
    case FAMILY_FRAME:
        return edges_frame_object(k, t);
    case FAMILY_TYPE:
        return edges_type(k, t);
    case FAMILY_CODE:
        return edges_code(k, t);
    default:
        break;
    }
    edges_fixed(k, t);
    switch (t->family) {
    case FAMILY_DICT:
        return edges_dict(k, t, tag);
    case FAMILY_LIST:
        return edges_list(k, t);
    case FAMILY_TUPLE:
        return edges_tuple(k, t);
    case FAMILY_SET:
        return edges_set(k, t);
    case FAMILY_TRAVERSE:
        return edges_traverse(k, t);
    case FAMILY_NDARRAY:
        ndarray_edges(k, k->address);
        return edges_form_of(k, t, LOWTIDE_INDEX);
    default:
        return edges_form(k, t, 0, 0, 0, NULL);
    }
}
