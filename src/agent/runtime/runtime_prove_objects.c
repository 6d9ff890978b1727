#include "agent/runtime/runtime_proof.h"

#include <stdio.h>

/* Types: name, size and flags of those we know */

typedef struct known_type {
    rt_addr_t address;
    const char *name;
    int64_t basicsize; /* < 0: not compared */
    uint64_t flags;    /* that must be set */
} known_type_t;

static bool prove_type(proof_t *p, const known_type_t *k) {
    char name[64] = {0};
    rt_addr_t type = 0, text = 0, bases = 0, mro = 0;
    int64_t size = 0;
    uint64_t flags = 0;
    if (!k->address) return true;
    if (!proof_is(p, k->address, p->rt->types.type, "object_type")) return false;
    if (!PROOF_GET(p, k->address, type_name, &text) ||
        !PROOF_GET(p, k->address, type_basicsize, &size))
        return false;
    if (proof_peek(p, text, name, strlen(k->name) + 1) || strcmp(name, k->name))
        return proof_fail(p, "type_name", k->name);
    if (k->basicsize >= 0 && size != k->basicsize) {
        char why[96];
        snprintf(why, sizeof why, "the table says %lld, the type %lld", (long long)k->basicsize,
                 (long long)size);
        char what[48];
        snprintf(what, sizeof what, "size of %s", k->name);
        return proof_fail(p, what, why);
    }
    if (!PROOF_GET(p, k->address, type_flags, &flags) ||
        !proof_expect(p, (flags & k->flags) == k->flags, "type_flags", k->name))
        return false;
    return PROOF_GET(p, k->address, type_bases, &bases) &&
           PROOF_GET(p, k->address, type_mro, &mro) &&
           proof_is(p, bases, p->rt->types.tuple, "type_bases") &&
           proof_is(p, mro, p->rt->types.tuple, "type_mro") &&
           PROOF_GET(p, k->address, object_type, &type);
}

/* Types say at which offset their instances keep a dict and weak references. */
static bool prove_type_offsets(proof_t *p) {
    const layout_t *l = p->l;
    const rt_t *rt = p->rt;
    rt_addr_t base = 0, is_gc = 0, traverse = 0;
    const struct {
        rt_addr_t type;
        int32_t dict, weaklist;
        const char *field;
    } offsets[] = {
        {rt->types.type, l->type_dict, l->type_weaklist, "type_dict"},
        {rt->types.function, l->function_dict, l->function_weakreflist, "function_dict"},
        {rt->types.module, l->module_dict, LAYOUT_ABSENT, "module_dict"},
        {rt->types.code, LAYOUT_ABSENT, l->code_weakreflist, "code_weakreflist"},
        {rt->types.generator, LAYOUT_ABSENT, l->gen_weakreflist, "gen_weakreflist"},
        {rt->types.base_exception, l->exception_dict, LAYOUT_ABSENT, "exception_dict"},
    };
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        int64_t dict = 0, weaklist = 0;
        if (!offsets[i].type) continue;
        if (!PROOF_GET(p, offsets[i].type, type_dictoffset, &dict) ||
            !PROOF_GET(p, offsets[i].type, type_weaklistoffset, &weaklist))
            return false;
        bool fits = (!rt_has(offsets[i].dict) || dict == offsets[i].dict) &&
                    (!rt_has(offsets[i].weaklist) || weaklist == offsets[i].weaklist);
        if (!proof_expect(p, fits, offsets[i].field, "the type says otherwise")) return false;
    }
    if (!PROOF_GET(p, rt->types.boolean, type_base, &base) ||
        !proof_expect(p, base == rt->types.integer, "type_base", "of bool"))
        return false;
    return PROOF_GET(p, rt->types.type, type_is_gc, &is_gc) &&
           PROOF_GET(p, rt->types.dict, type_traverse, &traverse) &&
           proof_expect(p, is_gc && traverse && is_gc != traverse, "type_traverse", "is missing");
}

bool proof_types(proof_t *p) {
    const layout_t *l = p->l;
    const rt_t *rt = p->rt;
    const known_type_t known[] = {
        {rt->types.type, "type", l->heap_type_size, RT_TPFLAGS_TYPE_SUBCLASS | RT_TPFLAGS_HAVE_GC},
        {rt->types.object, "object", l->object_size, 0},
        {rt->types.integer, "int", l->int_digits, RT_TPFLAGS_LONG_SUBCLASS},
        {rt->types.real, "float", l->float_value + 8, 0},
        {rt->types.str, "str", l->str_size, RT_TPFLAGS_STR_SUBCLASS},
        {rt->types.bytes, "bytes", l->bytes_data + 1, RT_TPFLAGS_BYTES_SUBCLASS},
        {rt->types.tuple, "tuple", l->tuple_items, RT_TPFLAGS_TUPLE_SUBCLASS | RT_TPFLAGS_HAVE_GC},
        {rt->types.list, "list", l->list_size, RT_TPFLAGS_LIST_SUBCLASS | RT_TPFLAGS_HAVE_GC},
        {rt->types.dict, "dict", l->dict_size, RT_TPFLAGS_DICT_SUBCLASS | RT_TPFLAGS_HAVE_GC},
        {rt->types.set, "set", l->set_size, RT_TPFLAGS_HAVE_GC},
        {rt->types.frozenset, "frozenset", l->set_size, RT_TPFLAGS_HAVE_GC},
        {rt->types.module, "module", l->module_size, RT_TPFLAGS_HAVE_GC},
        {rt->types.function, "function", l->function_size, RT_TPFLAGS_HAVE_GC},
        {rt->types.code, "code", l->code_adaptive, 0},
        {rt->types.cell, "cell", l->cell_ref + 8, RT_TPFLAGS_HAVE_GC},
        {rt->types.frame, "frame", l->frame_data + l->iframe_localsplus, RT_TPFLAGS_HAVE_GC},
        {rt->types.generator, "generator", l->gen_iframe + l->iframe_localsplus,
         RT_TPFLAGS_HAVE_GC},
        {rt->types.coroutine, "coroutine", l->gen_iframe + l->iframe_localsplus,
         RT_TPFLAGS_HAVE_GC},
        {rt->types.async_generator, "async_generator", l->gen_iframe + l->iframe_localsplus,
         RT_TPFLAGS_HAVE_GC},
        {rt->types.weak_reference, "weakref.ReferenceType", l->weakref_size, RT_TPFLAGS_HAVE_GC},
        {rt->types.method, "method", l->method_size, RT_TPFLAGS_HAVE_GC},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!prove_type(p, &known[i])) return false;
    return prove_type_offsets(p);
}

/* A dict, by its tables */

typedef struct dict_view {
    rt_addr_t entries;
    int64_t n;
    int32_t size, key, value;
    rt_addr_t values; /* split table; 0: combined */
} dict_view_t;

static bool view_dict(proof_t *p, rt_addr_t dict, dict_view_t *v, const char *field) {
    const layout_t *l = p->l;
    rt_addr_t keys = 0;
    uint8_t index_bytes = 0, size = 0, kind = 0;
    int64_t used = 0;
    if (!proof_is(p, dict, p->rt->types.dict, field) || !PROOF_GET(p, dict, dict_used, &used) ||
        !PROOF_GET(p, dict, dict_keys, &keys) || !PROOF_GET(p, dict, dict_values, &v->values))
        return false;
    if (!PROOF_GET(p, keys, dict_keys_log2_index_bytes, &index_bytes) ||
        !PROOF_GET(p, keys, dict_keys_log2_size, &size) ||
        !PROOF_GET(p, keys, dict_keys_kind, &kind) ||
        !PROOF_GET(p, keys, dict_keys_nentries, &v->n))
        return false;
    if (!proof_expect(p, index_bytes < 40 && size < 40 && index_bytes >= size,
                      "dict_keys_log2_index_bytes", "out of range"))
        return false;
    if (!proof_expect(p, v->n >= used && v->n >= 0 && v->n <= 1ll << size, "dict_keys_nentries",
                      "out of range"))
        return false;
    if (!proof_expect(p,
                      used >= 0 && (kind == l->dict_keys_general || kind == l->dict_keys_unicode ||
                                    kind == l->dict_keys_split),
                      "dict_keys_kind", "out of range"))
        return false;
    bool general = kind == l->dict_keys_general;
    v->size = general ? l->dict_entry_size : l->dict_unicode_entry_size;
    v->key = general ? l->dict_entry_key : l->dict_unicode_entry_key;
    v->value = general ? l->dict_entry_value : l->dict_unicode_entry_value;
    v->entries = keys + (rt_addr_t)l->dict_keys_indices + ((rt_addr_t)1 << index_bytes);
    return true;
}

/* Is this the ASCII str `text` (or does it begin with it)? */
static bool str_is(proof_t *p, rt_addr_t object, const char *text, bool prefix) {
    char buffer[64] = {0};
    int64_t length = 0;
    size_t n = strlen(text);
    if (!proof_is(p, object, p->rt->types.str, "str") || !PROOF_GET(p, object, str_length, &length))
        return false;
    if (length < (int64_t)n || (!prefix && length != (int64_t)n)) return false;
    return proof_get(p, object, p->l->str_ascii_size, buffer, n, "str_ascii_size") &&
           !memcmp(buffer, text, n);
}

/* The value of a str key; 0 and a failure when it is not there. */
rt_addr_t proof_dict_find(proof_t *p, rt_addr_t dict, const char *key, const char *field) {
    dict_view_t v;
    if (!view_dict(p, dict, &v, field)) return 0;
    for (int64_t i = 0; i < v.n && !p->status; i++) {
        rt_addr_t entry = v.entries + (rt_addr_t)(i * v.size), k = 0, value = 0;
        if (!proof_get(p, entry, v.key, &k, sizeof k, "dict_entry_key") ||
            !proof_get(p, entry, v.value, &value, sizeof value, "dict_entry_value"))
            return 0;
        if (!k || !value) continue;
        if (!proof_is_object(p, k, "dict_entry_key") ||
            !proof_is_object(p, value, "dict_entry_value"))
            return 0;
        rt_addr_t type = 0;
        if (PROOF_GET(p, k, object_type, &type) && type == p->rt->types.str &&
            str_is(p, k, key, false))
            return value;
    }
    proof_fail(p, field, key);
    return 0;
}

static bool prove_int(proof_t *p, rt_addr_t object, uint64_t want) {
    uint32_t digits[3] = {0};
    uint64_t tag = 0;
    if (!proof_is(p, object, p->rt->types.integer, "sys.maxsize") ||
        !PROOF_GET(p, object, int_digits, &digits))
        return false;
    int32_t count = rt_has(p->l->int_tag) ? p->l->int_tag : p->l->var_size;
    if (!proof_get(p, object, count, &tag, sizeof tag, "int_tag")) return false;
    if (rt_has(p->l->int_tag)) tag >>= 3;
    uint64_t value = digits[0] | (uint64_t)digits[1] << 30 | (uint64_t)digits[2] << 60;
    return proof_expect(p, tag == 3 && value == want, "int_digits", "sys.maxsize reads otherwise");
}

static bool prove_bits(proof_t *p, rt_addr_t object, int32_t field, uint32_t want,
                       const char *name) {
    uint32_t word[2]; /* of 64 bits, the field in the lower 32 */
    int32_t at = (int32_t)(((uint32_t)field & 0xffffff) / 32 * 4),
            in_word = (int32_t)(((uint32_t)field & 0xff00001f));
    return proof_get(p, object, at, word, sizeof word, name) &&
           proof_expect(p, rt_bits((rt_addr_t)word, in_word) == want, name,
                        "of sys.version reads otherwise");
}

static bool prove_sys_values(proof_t *p, rt_addr_t sysdict) {
    const rt_t *rt = p->rt;
    char version[16];
    rt_addr_t value = proof_dict_find(p, sysdict, "maxsize", "interp_sysdict");
    if (!value || !prove_int(p, value, INT64_MAX)) return false;
    value = proof_dict_find(p, sysdict, "version", "interp_sysdict");
    snprintf(version, sizeof version, "3.%d.%u", rt->minor, rt->version >> 8 & 255);
    if (!value || !proof_expect(p, str_is(p, value, version, true), "str_ascii_size",
                                "sys.version reads otherwise"))
        return false;
    return prove_bits(p, value, p->l->str_ascii, 1, "str_ascii") &&
           prove_bits(p, value, p->l->str_compact, 1, "str_compact") &&
           prove_bits(p, value, p->l->str_kind, 1, "str_kind");
}

/* sys.stdlib_module_names, where nobody has put something else in its place. */
static bool prove_set(proof_t *p, rt_addr_t set) {
    const layout_t *l = p->l;
    rt_addr_t type = 0, table = 0, key = 0;
    int64_t mask = 0, used = 0, fill = 0, found = 0;
    if (!PROOF_GET(p, set, object_type, &type) || type != p->rt->types.frozenset) return !p->status;
    if (!PROOF_GET(p, set, set_mask, &mask) || !PROOF_GET(p, set, set_used, &used) ||
        !PROOF_GET(p, set, set_fill, &fill) || !PROOF_GET(p, set, set_table, &table))
        return false;
    bool fits = mask > 0 && mask < 1 << 16 && !(mask & (mask + 1)) && used > 0 && used <= fill &&
                fill <= mask + 1;
    if (!proof_expect(p, fits, "set_mask", "out of range")) return false;
    for (int64_t i = 0; i <= mask; i++) {
        if (!proof_get(p, table + (rt_addr_t)(i * l->set_entry_size), l->set_entry_key, &key, 8,
                       "set_entry_key"))
            return false;
        if (!key) continue;
        found++;
        if (!proof_is(p, key, p->rt->types.str, "set_entry_key")) return false;
    }
    return proof_expect(p, found == used, "set_used", "counts otherwise");
}

/* A class written in Python: importlib's finders in sys.meta_path. */
static bool prove_class(proof_t *p, rt_addr_t type) {
    rt_addr_t v = 0, str = p->rt->types.str;
    return PROOF_GET(p, type, heap_type_name, &v) && proof_is(p, v, str, "heap_type_name") &&
           PROOF_GET(p, type, heap_type_qualname, &v) &&
           proof_is(p, v, str, "heap_type_qualname") && PROOF_GET(p, type, type_dict, &v) &&
           proof_is(p, v, p->rt->types.dict, "type_dict") && PROOF_GET(p, type, type_base, &v) &&
           proof_is_object(p, v, "type_base");
}

static bool prove_list(proof_t *p, rt_addr_t list) {
    rt_addr_t type = 0, items = 0, item = 0;
    int64_t size = 0, allocated = 0;
    uint64_t flags = 0;
    if (!PROOF_GET(p, list, object_type, &type) || type != p->rt->types.list) return !p->status;
    if (!PROOF_GET(p, list, var_size, &size) || !PROOF_GET(p, list, list_items, &items) ||
        !PROOF_GET(p, list, list_allocated, &allocated))
        return false;
    if (!proof_expect(p, size >= 0 && size <= allocated && allocated < 1 << 24, "list_allocated",
                      "out of range"))
        return false;
    for (int64_t i = 0; i < size && i < 16; i++) {
        if (!proof_get(p, items + 8 * (rt_addr_t)i, 0, &item, 8, "list_items") ||
            !proof_is_object(p, item, "list_items") || !PROOF_GET(p, item, object_type, &type))
            return false;
        if (type == p->rt->types.type && PROOF_GET(p, item, type_flags, &flags) &&
            flags & RT_TPFLAGS_HEAPTYPE && !prove_class(p, item))
            return false;
    }
    return true;
}

bool proof_objects(proof_t *p, rt_addr_t sys, rt_addr_t sysdict) {
    rt_addr_t name = 0, value;
    if (!PROOF_GET(p, sys, module_name, &name) ||
        !proof_is_or_null(p, name, p->rt->types.str, "module_name"))
        return false;
    if (!prove_sys_values(p, sysdict)) return false;
    value = proof_dict_find(p, sysdict, "stdlib_module_names", "interp_sysdict");
    if (!value || !prove_set(p, value)) return false;
    value = proof_dict_find(p, sysdict, "meta_path", "interp_sysdict");
    return value && prove_list(p, value);
}

/* One object inside _PyRuntime, of a type and, for those with a count, of a size. */
static bool prove_static(proof_t *p, int32_t offset, int32_t stride, int i, rt_addr_t type,
                         int32_t size_at, int64_t want, const char *field) {
    int64_t size = 0;
    if (!rt_has(offset) || !rt_has(stride)) return proof_fail(p, field, "the table lacks it");
    rt_addr_t object = p->rt->runtime + (rt_addr_t)offset + (rt_addr_t)((int64_t)stride * i);
    return proof_is(p, object, type, field) &&
           proof_get(p, object, size_at, &size, sizeof size, field) &&
           proof_expect(p, want < 0 || size == want, field, "is of another size");
}

bool proof_static_objects(proof_t *p) {
    const layout_t *l = p->l;
    const rt_t *rt = p->rt;
    int last = l->runtime_small_ints_count - 1;
    return proof_expect(p, last > 100 && last < 1 << 12, "runtime_small_ints_count",
                        "out of range") &&
           prove_static(p, l->runtime_small_ints, l->runtime_small_ints_stride, 0,
                        rt->types.integer, l->var_size, -1, "runtime_small_ints") &&
           prove_static(p, l->runtime_small_ints, l->runtime_small_ints_stride, last,
                        rt->types.integer, l->var_size, -1, "runtime_small_ints_stride") &&
           prove_static(p, l->runtime_bytes_empty, 0, 0, rt->types.bytes, l->var_size, 0,
                        "runtime_bytes_empty") &&
           prove_static(p, l->runtime_bytes_characters, l->runtime_bytes_characters_stride, 255,
                        rt->types.bytes, l->var_size, 1, "runtime_bytes_characters") &&
           prove_static(p, l->runtime_strings_ascii, l->runtime_strings_ascii_stride, 127,
                        rt->types.str, l->str_length, 1, "runtime_strings_ascii") &&
           prove_static(p, l->runtime_strings_latin1, l->runtime_strings_latin1_stride, 127,
                        rt->types.str, l->str_length, 1, "runtime_strings_latin1") &&
           prove_static(p, l->runtime_tuple_empty, 0, 0, rt->types.tuple, l->var_size, 0,
                        "runtime_tuple_empty");
}
