#include "agent/heap/py_text.h"

bool py_type_has(const rt_t *rt, rt_addr_t object, uint64_t flag) {
    return object && rt_type_flags(rt, rt_type(rt, object)) & flag;
}

bool py_is_str(const rt_t *rt, rt_addr_t object) {
    return py_type_has(rt, object, RT_TPFLAGS_STR_SUBCLASS);
}

unsigned py_str_width(const rt_t *rt, rt_addr_t str) {
    return rt_bits(str, rt->layout->str_kind);
}

const unsigned char *py_str_data(const rt_t *rt, rt_addr_t str) {
    const layout_t *l = rt->layout;
    if (!rt_bits(str, l->str_compact)) return (const unsigned char *)rt_ptr(str, l->str_data);
    return (const unsigned char *)str +
           (rt_bits(str, l->str_ascii) ? l->str_ascii_size : l->str_compact_size);
}

static uint32_t py_code_point(const unsigned char *data, unsigned width, size_t i) {
    uint16_t two;
    uint32_t four;
    switch (width) {
    case 1:
        return data[i];
    case 2:
        memcpy(&two, data + 2 * i, 2);
        return two;
    default:
        memcpy(&four, data + 4 * i, 4);
        return four;
    }
}

static size_t py_put_utf8(uint32_t c, char to[4]) {
    if (c < 0x80) return to[0] = (char)c, 1;
    if (c < 0x800) {
        to[0] = (char)(0xC0 | c >> 6);
        to[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    /* A lone surrogate has no UTF-8. */
    if (c >= 0xD800 && c < 0xE000) c = 0xFFFD;
    if (c < 0x10000) {
        to[0] = (char)(0xE0 | c >> 12);
        to[1] = (char)(0x80 | (c >> 6 & 63));
        to[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    to[0] = (char)(0xF0 | (c >> 18 & 7));
    to[1] = (char)(0x80 | (c >> 12 & 63));
    to[2] = (char)(0x80 | (c >> 6 & 63));
    to[3] = (char)(0x80 | (c & 63));
    return 4;
}

size_t py_str_utf8(const rt_t *rt, rt_addr_t str, char *to, size_t room) {
    const layout_t *l = rt->layout;
    size_t length = (size_t)rt_i64(str, l->str_length), n = 0;
    const unsigned char *data = py_str_data(rt, str);
    if (!data) return 0;
    if (rt_bits(str, l->str_ascii)) {
        n = length < room ? length : room;
        memcpy(to, data, n);
        return n;
    }
    unsigned width = py_str_width(rt, str);
    for (size_t i = 0; i < length; i++) {
        char c[4];
        size_t m = py_put_utf8(py_code_point(data, width, i), c);
        if (n + m > room) break;
        memcpy(to + n, c, m);
        n += m;
    }
    return n;
}

bool py_str_equals(const rt_t *rt, rt_addr_t str, const char *ascii) {
    const layout_t *l = rt->layout;
    size_t n = strlen(ascii);
    if (!py_is_str(rt, str) || (size_t)rt_i64(str, l->str_length) != n) return false;
    return rt_bits(str, l->str_ascii) && memcmp(py_str_data(rt, str), ascii, n) == 0;
}

size_t py_int_digits(const rt_t *rt, rt_addr_t number, bool *negative) {
    const layout_t *l = rt->layout;
    if (rt_has(l->int_tag)) {
        uint64_t tag = rt_ptr(number, l->int_tag);
        *negative = (tag & 3) == 2;
        return tag >> 3;
    }
    int64_t n = rt_i64(number, l->var_size);
    *negative = n < 0;
    return (size_t)(n < 0 ? -n : n);
}

bool py_int_value(const rt_t *rt, rt_addr_t number, int64_t *value, uint64_t *bits) {
    bool negative;
    size_t n = py_int_digits(rt, number, &negative);
    const uint32_t *digits = (const uint32_t *)(number + (rt_addr_t)rt->layout->int_digits);
    if (n == 0) return *value = 0, true;
    uint64_t top = 64 - (uint64_t)__builtin_clzll((uint64_t)digits[n - 1] | 1);
    *bits = (n - 1) * 30 + top;
    if (*bits > 63) return false;
    uint64_t v = 0;
    for (size_t i = n; i-- > 0;) v = v << 30 | digits[i];
    *value = negative ? -(int64_t)v : (int64_t)v;
    return true;
}

void py_keys_open(const rt_t *rt, rt_addr_t keys, py_table_t *out) {
    const layout_t *l = rt->layout;
    bool general = rt_u8(keys, l->dict_keys_kind) == l->dict_keys_general;
    *out = (py_table_t){
        .keys = keys,
        .entries = keys + (rt_addr_t)l->dict_keys_indices +
                   ((rt_addr_t)1 << rt_u8(keys, l->dict_keys_log2_index_bytes)),
        .count = (size_t)rt_i64(keys, l->dict_keys_nentries),
        .stride = (size_t)(general ? l->dict_entry_size : l->dict_unicode_entry_size),
        .key_at = (size_t)(general ? l->dict_entry_key : l->dict_unicode_entry_key),
        .value_at = (size_t)(general ? l->dict_entry_value : l->dict_unicode_entry_value),
    };
}

void py_dict_open(const rt_t *rt, rt_addr_t dict, py_table_t *out) {
    const layout_t *l = rt->layout;
    py_keys_open(rt, rt_ptr(dict, l->dict_keys), out);
    rt_addr_t values = rt_ptr(dict, l->dict_values);
    if (!values) return;
    out->values = values + (rt_addr_t)l->dict_values_values;
    out->embedded = rt_has(l->dict_values_embedded) && rt_u8(values, l->dict_values_embedded);
}

rt_addr_t py_dict_get(const rt_t *rt, rt_addr_t dict, const char *key) {
    if (!dict) return 0;
    py_table_t t;
    py_dict_open(rt, dict, &t);
    for (size_t i = 0; i < t.count; i++)
        if (py_str_equals(rt, py_table_key(&t, i), key)) return py_table_value(&t, i);
    return 0;
}

size_t py_keys_bytes(const rt_t *rt, rt_addr_t keys) {
    py_table_t t;
    py_keys_open(rt, keys, &t);
    size_t usable = ((size_t)1 << rt_u8(keys, rt->layout->dict_keys_log2_size)) * 2 / 3;
    return t.entries - keys + usable * t.stride;
}
