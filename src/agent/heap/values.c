#include "agent/heap/values.h"

#include "agent/heap/attributes.h"
#include "agent/heap/py_text.h"

#include <errno.h>

enum { VALUE_PREFIX_BYTES = 64, VALUE_NAME_BYTES = 256, VALUE_TEXT_BYTES = 768 };
enum { VALUE_QUALNAME_BYTES = WALK_TEXT_BYTES - WALK_PATH_BYTES - 32 };

void value_mark_name(walk_t *k, uint32_t id) {
    if (id == REC_NULL) return;
    size_t at = id / 64;
    if (at >= k->names.count) {
        if (u64_vec_reserve(&k->names, at + 1 - k->names.count)) {
            walk_fail(k, -ENOMEM);
            return;
        }
        k->names.count = at + 1;
    }
    k->names.at[at] |= UINT64_C(1) << id % 64;
}

static bool value_is_name(const walk_t *k) {
    size_t at = k->id / 64;
    return at < k->names.count && k->names.at[at] >> k->id % 64 & 1;
}

static void value_find_keys(walk_t *k, rt_addr_t dict) {
    py_table_t table;
    int fresh;
    if (!dict) return;
    py_dict_open(k->rt, dict, &table);
    for (size_t i = 0; i < table.count; i++)
        if (py_table_key(&table, i) && !map_put(&k->name_keys, py_table_key(&table, i), &fresh))
            walk_fail(k, -ENOMEM);
}

static void value_find_in_type(void *arg, const char *name, int64_t index, rt_addr_t type,
                               bool borrowed) {
    (void)name, (void)index, (void)borrowed;
    value_find_keys(arg, kind_type_dict(arg, type));
}

static void value_find_in(walk_t *k, rt_addr_t object) {
    kind_t *t = kind_of(k, rt_type(k->rt, object));
    rt_addr_t dict = 0, values;
    if (!t) return;
    if (t->family == FAMILY_TYPE)
        dict = kind_type_dict(k, object);
    else if (t->c_base == k->rt->types.module)
        dict = rt_ptr(object, k->lay->module_dict);
    else
        attributes_find(k, t, object, &dict, &values);
    value_find_keys(k, dict);
}

void value_find_names(walk_t *k) {
    const rt_t *rt = k->rt;
    rt_static_types(rt, k->main_interp, value_find_in_type, k);
    for (rt_addr_t i = rt_interp_first(rt); i; i = rt_interp_next(rt, i))
        for (int n = 0; n < RT_GC_LISTS; n++) {
            rt_addr_t head = rt_gc_list(rt, i, n);
            for (rt_addr_t g = rt_gc_next(rt, head); g && g != head; g = rt_gc_next(rt, g))
                value_find_in(k, rt_from_gc(rt, g));
        }
}

/* In UTF-8, which may be longer. */
static bool value_may_be_cut(const walk_t *k, rt_addr_t str) {
    return rt_i64(str, k->lay->str_length) > VALUE_PREFIX_BYTES / 4;
}

static void value_find_path(walk_t *k, rt_addr_t module) {
    int fresh;
    kind_t *t = module ? kind_of(k, rt_type(k->rt, module)) : NULL;
    if (!t || t->c_base != k->rt->types.module) return;
    rt_addr_t file = py_dict_get(k->rt, rt_ptr(module, k->lay->module_dict), "__file__");
    if (!py_is_str(k->rt, file) || !value_may_be_cut(k, file)) return;
    if (!map_put(&k->paths, file, &fresh)) walk_fail(k, -ENOMEM);
}

void value_find_paths(walk_t *k) {
    for (rt_addr_t i = rt_interp_first(k->rt); i; i = rt_interp_next(k->rt, i)) {
        py_table_t modules = {.count = 0};
        rt_addr_t all = rt_ptr(i, k->lay->interp_modules);
        if (py_type_has(k->rt, all, RT_TPFLAGS_DICT_SUBCLASS)) py_dict_open(k->rt, all, &modules);
        for (size_t n = 0; n < modules.count; n++) value_find_path(k, py_table_value(&modules, n));
    }
}

static void value_str(walk_t *k, rt_addr_t str) {
    bool name = value_is_name(k) || (k->name_keys.count && map_get(&k->name_keys, str));
    if (!name && !k->options->values) return;
    size_t room = name ? VALUE_NAME_BYTES : VALUE_PREFIX_BYTES;
    if (value_may_be_cut(k, str) && k->paths.count && map_get(&k->paths, str))
        room = WALK_PATH_BYTES;
    size_t n = py_str_utf8(k->rt, str, k->text, room);
    rec_value_text(k->w, LOWTIDE_VALUE_STR, (uint64_t)rt_i64(str, k->lay->str_length), k->text, n);
}

static void value_bytes(walk_t *k, rt_addr_t bytes, rt_addr_t data) {
    uint64_t length = (uint64_t)rt_i64(bytes, k->lay->var_size);
    size_t n = length < VALUE_PREFIX_BYTES ? (size_t)length : VALUE_PREFIX_BYTES;
    rec_value_text(k->w, LOWTIDE_VALUE_BYTES, length, (const char *)data, data ? n : 0);
}

static void value_int(walk_t *k, rt_addr_t number) {
    int64_t v;
    uint64_t bits;
    if (py_int_value(k->rt, number, &v, &bits))
        rec_value_int(k->w, LOWTIDE_VALUE_INT, v);
    else
        rec_value_big_int(k->w, bits);
}

static void value_float(walk_t *k, rt_addr_t number) {
    double v;
    memcpy(&v, (const char *)number + k->lay->float_value, sizeof v);
    rec_value_float(k->w, v);
}

static void value_name(walk_t *k, const char *text, size_t n) {
    if (n) rec_value_text(k->w, LOWTIDE_VALUE_NAME, n, text, n);
}

static void value_name_of_str(walk_t *k, rt_addr_t str) {
    char text[VALUE_NAME_BYTES];
    if (py_is_str(k->rt, str)) value_name(k, text, py_str_utf8(k->rt, str, text, sizeof text));
}

static size_t value_number(int64_t v, char *to) {
    char digits[24];
    size_t n = 0, m = 0;
    uint64_t u = v < 0 ? 0 : (uint64_t)v;
    do digits[n++] = (char)('0' + u % 10);
    while (u /= 10);
    while (n) to[m++] = digits[--n];
    return m;
}

size_t value_code_text(walk_t *k, rt_addr_t code, int32_t line) {
    const layout_t *l = k->lay;
    rt_addr_t name = rt_ptr(code, l->code_qualname), file = rt_ptr(code, l->code_filename);
    size_t n = 0;
    if (py_is_str(k->rt, name)) n += py_str_utf8(k->rt, name, k->text, VALUE_QUALNAME_BYTES);
    k->text[n++] = '\x1f';
    if (py_is_str(k->rt, file)) n += py_str_utf8(k->rt, file, k->text + n, WALK_PATH_BYTES);
    k->text[n++] = '\x1f';
    return n + value_number(line, k->text + n);
}

static void value_code(walk_t *k, rt_addr_t code) {
    value_name(k, k->text, value_code_text(k, code, rt_i32(code, k->lay->code_firstlineno)));
}

static void value_type(walk_t *k, rt_addr_t type) {
    char text[VALUE_TEXT_BYTES];
    value_name(k, text, kind_full_name(k, type, text, sizeof text));
}

static void value_cfunction(walk_t *k, rt_addr_t function) {
    rt_addr_t def = rt_ptr(function, k->lay->cfunction_def);
    const char *name = def ? (const char *)rt_ptr(def, 0) : NULL; /* ml_name comes first */
    if (name) value_name(k, name, strnlen(name, VALUE_NAME_BYTES));
}

static void value_module(walk_t *k, rt_addr_t module) {
    rt_addr_t name = rt_ptr(module, k->lay->module_name);
    if (!py_is_str(k->rt, name))
        name = py_dict_get(k->rt, rt_ptr(module, k->lay->module_dict), "__name__");
    value_name_of_str(k, name);
}

void value_write(walk_t *k, const kind_t *t, rt_addr_t object) {
    switch (t->value_rule) {
    case VALUE_NONE:
        return;
    case VALUE_STR:
        value_str(k, object);
        return;
    case VALUE_MODULE:
        value_module(k, object);
        return;
    case VALUE_TYPE:
        value_type(k, object);
        return;
    case VALUE_FUNCTION:
        value_name_of_str(k, rt_ptr(object, k->lay->function_qualname));
        return;
    case VALUE_CFUNCTION:
        value_cfunction(k, object);
        return;
    case VALUE_CODE:
        value_code(k, object);
        return;
    default:
        break;
    }
    if (!k->options->values) return;
    switch (t->value_rule) {
    case VALUE_BYTES:
        value_bytes(k, object, object + (rt_addr_t)k->lay->bytes_data);
        break;
    case VALUE_BYTEARRAY:
        value_bytes(k, object, rt_ptr(object, k->lay->bytearray_start));
        break;
    case VALUE_INT:
        value_int(k, object);
        break;
    case VALUE_BOOL:
        rec_value_int(k->w, LOWTIDE_VALUE_BOOL, object == k->rt->py_true);
        break;
    default:
        value_float(k, object);
        break;
    }
}
