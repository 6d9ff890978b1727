#include "agent/heap/sizes.h"

#include "agent/heap/blocks.h"
#include "agent/heap/ndarray.h"
#include "agent/heap/py_text.h"
#include "agent/heap/sizes_core.h"
#include "agent/heap/special.h"

enum { METH_NOARGS_ONLY = 0x0004, WORD = sizeof(void *) };

static size_t size_round_up(size_t n) {
    return (n + WORD - 1) / WORD * WORD;
}

/* Slots of the values array of a split table. */
static size_t size_shared_slots(const walk_t *k, rt_addr_t keys) {
    return (size_t)(rt_i64(keys, k->lay->dict_keys_nentries) +
                    rt_i64(keys, k->lay->dict_keys_usable));
}

/* The insertion order stands in front of the values (3.13 and later: behind), a byte a value; then the values. */
uint32_t size_inline_values(const walk_t *k, rt_addr_t keys) {
    size_t n = size_shared_slots(k, keys);
    if (k->rt->minor < 13) return (uint32_t)(size_round_up(n + 2) + n * WORD);
    return (uint32_t)(size_round_up(n) + (n + 1) * WORD);
}

/* The first `__sizeof__` along the MRO that is not Python code: its type, and the C function. */
static rt_addr_t size_find(walk_t *k, rt_addr_t type, kind_sizeof_fn *out) {
    const layout_t *l = k->lay;
    rt_addr_t mro = rt_ptr(type, l->type_mro);
    int64_t n = mro ? rt_i64(mro, l->var_size) : 0;
    for (int64_t i = 0; i < n && i < 1000; i++) {
        rt_addr_t t = rt_ptr(mro, l->tuple_items + (int32_t)i * WORD);
        rt_addr_t d = py_dict_get(k->rt, kind_type_dict(k, t), "__sizeof__");
        if (!d || rt_type(k->rt, d) != k->rt->types.method_descr) continue;
        rt_addr_t def = rt_ptr(d, l->method_descr_method);
        rt_addr_t function = rt_ptr(def, l->method_def_function);
        if (rt_i32(def, l->method_def_flags) != METH_NOARGS_ONLY ||
            !rt_symbol_in_core(k->rt, function))
            continue;
        memcpy(out, &function, sizeof *out);
        return t;
    }
    return 0;
}

void size_choose(walk_t *k, kind_t *t) {
    const rt_t *rt = k->rt;
    uint64_t pre = RT_TPFLAGS_MANAGED_DICT | (rt->minor >= 12 ? RT_TPFLAGS_MANAGED_WEAKREF : 0);
    t->pre_header =
        (t->has_gc ? (uint32_t)k->lay->gc_head_size : 0) + (t->flags & pre ? 2 * WORD : 0);
    t->size_rule = SIZE_BASIC;
    if (t->family == FAMILY_NDARRAY) {
        t->size_rule = SIZE_NDARRAY;
        return;
    }
    rt_addr_t owner = size_find(k, t->type, &t->size_of);
    const struct {
        rt_addr_t type;
        kind_size_t rule;
    } known[] = {{0, SIZE_BASIC},
                 {rt->types.object, SIZE_BASIC},
                 {rt->types.dict, SIZE_DICT},
                 {rt->types.list, SIZE_LIST},
                 {rt->types.set, SIZE_SET},
                 {rt->types.frozenset, SIZE_SET},
                 {rt->types.str, SIZE_STR},
                 {rt->types.integer, SIZE_INT},
                 {rt->types.type, SIZE_TYPE}};
    t->measure = owner ? size_core_find(k, owner) : NULL;
    t->size_rule = t->measure ? SIZE_KNOWN : SIZE_CALL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].type == owner) t->size_rule = known[i].rule;
}

uint64_t size_basic(const walk_t *k, const kind_t *t, rt_addr_t object) {
    uint64_t size = (uint64_t)t->basicsize;
    if (t->itemsize) {
        int64_t n = rt_i64(object, k->lay->var_size);
        size += (uint64_t)(n < 0 ? -n : n) * (uint64_t)t->itemsize;
    }
    return size;
}

uint64_t size_dict(const walk_t *k, const kind_t *t, rt_addr_t dict) {
    const layout_t *l = k->lay;
    rt_addr_t keys = rt_ptr(dict, l->dict_keys);
    uint64_t size = (uint64_t)t->basicsize;
    rt_addr_t values = rt_ptr(dict, l->dict_values);
    /* Embedded values lie in the instance and are counted there. */
    bool embedded =
        values && rt_has(l->dict_values_embedded) && rt_u8(values, l->dict_values_embedded);
    if (values && !embedded) size += size_shared_slots(k, keys) * WORD;
    if (rt_i64(keys, l->dict_keys_refcnt) == 1) size += py_keys_bytes(k->rt, keys);
    return size;
}

static uint64_t size_set(const walk_t *k, const kind_t *t, rt_addr_t set) {
    const layout_t *l = k->lay;
    uint64_t size = (uint64_t)t->basicsize;
    if (rt_ptr(set, l->set_table) != set + (rt_addr_t)l->set_smalltable)
        size += ((uint64_t)rt_i64(set, l->set_mask) + 1) * (uint64_t)l->set_entry_size;
    return size;
}

uint64_t size_str(const walk_t *k, rt_addr_t str) {
    const layout_t *l = k->lay;
    uint64_t n = (uint64_t)rt_i64(str, l->str_length), width = py_str_width(k->rt, str), size;
    bool ascii = rt_bits(str, l->str_ascii);
    if (rt_bits(str, l->str_compact))
        size = (uint64_t)(ascii ? l->str_ascii_size : l->str_compact_size) + (n + 1) * width;
    else {
        size = (uint64_t)l->str_size;
        if (rt_ptr(str, l->str_data)) size += (n + 1) * width;
    }
    /* A compact ASCII string is its own UTF-8; others keep a copy once asked for it. */
    if (!(ascii && rt_bits(str, l->str_compact))) {
        rt_addr_t utf8 = rt_ptr(str, l->str_utf8);
        if (utf8 && (rt_bits(str, l->str_compact) || utf8 != rt_ptr(str, l->str_data)))
            size += (uint64_t)rt_i64(str, l->str_utf8_length) + 1;
    }
    return size;
}

static uint64_t size_int(const walk_t *k, rt_addr_t number) {
    bool negative;
    uint64_t n = py_int_digits(k->rt, number, &negative);
    return (uint64_t)k->lay->int_digits + 4 * (n ? n : 1); /* one digit even for 0 */
}

static uint64_t size_type(const walk_t *k, rt_addr_t type) {
    const layout_t *l = k->lay;
    if (!(rt_type_flags(k->rt, type) & RT_TPFLAGS_HEAPTYPE)) return (uint64_t)l->type_size;
    rt_addr_t keys = rt_ptr(type, l->heap_type_cached_keys);
    return (uint64_t)l->heap_type_size + (keys ? py_keys_bytes(k->rt, keys) : 0);
}

/* Calls the C function. Its int is dropped again: small ones are shared, others go back to where they came from. */
uint64_t size_call(walk_t *k, const kind_t *t, rt_addr_t object) {
    void *result = t->size_of((void *)object, NULL);
    int64_t size = 0;
    uint64_t bits;
    if (!result) {
        k->rt->PyErr_Clear();
        return size_basic(k, t, object);
    }
    if (!py_int_value(k->rt, (rt_addr_t)result, &size, &bits) || size < 0)
        size = (int64_t)size_basic(k, t, object);
    k->rt->Py_DecRef(result);
    return (uint64_t)size;
}

/* A block of values, where they do not lie in an instance. Before 3.13 its length in front of them is told by the byte in front. */
static void size_note_values(walk_t *k, rt_addr_t values) {
    if (!k->options->known || !values) return;
    blocks_note(k, k->rt->minor < 13 ? values - rt_u8(values, -1) : values, 0);
}

static uint64_t size_inline(walk_t *k, const kind_t *t, rt_addr_t object) {
    if (!t->keys) return 0;
    if (t->dict == DICT_MANAGED) return t->inline_bytes;
    rt_addr_t values = t->dict == DICT_BESIDE ? rt_ptr(object, -4 * WORD)
                                              : rt_ptr(object, k->lay->managed_dict_slot);
    /* 3.12 tells values from a dict by the last bit. */
    if (t->dict == DICT_TAGGED) values = values & 1 ? values + 1 : 0;
    size_note_values(k, values);
    return values ? t->inline_bytes : 0;
}

void size_note_dict(walk_t *k, rt_addr_t dict) {
    rt_addr_t values = rt_ptr(dict, k->lay->dict_values), keys = rt_ptr(dict, k->lay->dict_keys);
    blocks_note(k, keys, 0); /* a table is all written when it is made */
    bool embedded = values && rt_has(k->lay->dict_values_embedded) &&
                    rt_u8(values, k->lay->dict_values_embedded);
    if (!embedded) size_note_values(k, values);
}

uint64_t size_measure(walk_t *k, const kind_t *t, rt_addr_t object) {
    uint64_t size = 0, beside;
    switch (t->size_rule) {
    case SIZE_BASIC:
        size = size_basic(k, t, object) - special_less(t, object);
        blocks_untouched(k, object, size); /* bytes, a tuple */
        break;
    case SIZE_DICT:
        size = size_dict(k, t, object);
        size_note_dict(k, object);
        break;
    case SIZE_LIST:
        beside = (uint64_t)rt_i64(object, k->lay->list_allocated) * WORD;
        size = (uint64_t)t->basicsize + beside;
        blocks_note(k, rt_ptr(object, k->lay->list_items), beside);
        break;
    case SIZE_SET:
        size = size_set(k, t, object);
        beside = size - (uint64_t)t->basicsize;
        blocks_note(k, rt_ptr(object, k->lay->set_table), beside);
        break;
    case SIZE_STR:
        size = size_str(k, object);
        break;
    case SIZE_INT:
        size = size_int(k, object);
        break;
    case SIZE_TYPE:
        size = size_type(k, object);
        if (rt_type_flags(k->rt, object) & RT_TPFLAGS_HEAPTYPE)
            blocks_note(k, rt_ptr(object, k->lay->heap_type_cached_keys), 0);
        break;
    case SIZE_KNOWN:
        size = t->measure(k, t, object);
        break;
    case SIZE_CALL:
        size = size_call(k, t, object);
        break;
    case SIZE_NDARRAY:
        size = ndarray_size(k, t, object);
        break;
    }
    if (t->buffer) t->buffer(k, object);
    /* Since 3.13 getsizeof adds no GC head for the static types, which have none. */
    bool headless = t->asks_gc && k->rt->minor >= 13 && !rt_has_gc_head(k->rt, object, t->type);
    return size + (headless ? 0 : t->pre_header) + size_inline(k, t, object);
}
