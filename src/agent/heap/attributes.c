#include "agent/heap/attributes.h"

#include "agent/heap/py_text.h"

enum { WORD = sizeof(rt_addr_t) };

/* Where a type keeps the dict of its instances when not managed. */
static rt_addr_t attributes_dict_slot(const walk_t *k, const kind_t *t, rt_addr_t o) {
    int64_t offset = t->dictoffset;
    if (offset < 0) {
        int64_t n = rt_i64(o, k->lay->var_size);
        int64_t size = t->basicsize + (n < 0 ? -n : n) * t->itemsize;
        offset += (size + WORD - 1) / WORD * WORD;
    }
    return o + (rt_addr_t)offset;
}

void attributes_find(const walk_t *k, const kind_t *t, rt_addr_t o, rt_addr_t *dict,
                     rt_addr_t *values) {
    *dict = *values = 0;
    rt_addr_t v;
    switch (t->dict) {
    case DICT_NONE:
        return;
    case DICT_AT_OFFSET:
        *dict = rt_ptr(attributes_dict_slot(k, t, o), 0);
        return;
    case DICT_BESIDE:
        *dict = rt_ptr(o, -3 * WORD);
        *values = rt_ptr(o, -4 * WORD);
        return;
    case DICT_TAGGED:
        v = rt_ptr(o, k->lay->managed_dict_slot);
        if (v & 1)
            *values = v + 1;
        else
            *dict = v;
        return;
    case DICT_MANAGED:
        *dict = rt_ptr(o, k->lay->managed_dict_slot);
        if (!t->keys) return;
        v = o + (rt_addr_t)t->basicsize;
        if (rt_u8(v, k->lay->dict_values_valid))
            *values = v + (rt_addr_t)k->lay->dict_values_values;
        return;
    }
}

rt_addr_t attribute_get(walk_t *k, rt_addr_t object, const char *name) {
    kind_t *t = kind_of(k, rt_type(k->rt, object));
    rt_addr_t dict, values;
    if (!t) return 0;
    attributes_find(k, t, object, &dict, &values);
    if (dict) return py_dict_get(k->rt, dict, name);
    if (!values) return 0;
    py_table_t keys;
    py_keys_open(k->rt, t->keys, &keys);
    for (uint32_t i = 0; i < t->inline_count; i++)
        if (py_str_equals(k->rt, py_table_key(&keys, i), name))
            return rt_ptr(values, (int32_t)i * WORD);
    return 0;
}
