/* Reading Python's strings, numbers and dicts by layout, without Python. */
#ifndef LOWTIDE_HEAP_PY_TEXT_H
#define LOWTIDE_HEAP_PY_TEXT_H

#include "agent/runtime/runtime.h"

#include <stdbool.h>
#include <stddef.h>

bool py_is_str(const rt_t *rt, rt_addr_t object); /* false for 0 */
/* UTF-8 of a str, cut before the code point that does not fit; returns its bytes. Not zero-terminated. */
size_t py_str_utf8(const rt_t *rt, rt_addr_t str, char *to, size_t room);
bool py_str_equals(const rt_t *rt, rt_addr_t str, const char *ascii);
/* Bytes of the code points' storage: 1, 2 or 4 each. */
unsigned py_str_width(const rt_t *rt, rt_addr_t str);
const unsigned char *py_str_data(const rt_t *rt, rt_addr_t str); /* NULL: none */

/* The 30-bit digits of an int: how many, and whether it is negative. */
size_t py_int_digits(const rt_t *rt, rt_addr_t number, bool *negative);
/* The value where it fits 64 bits; else false and *bits. */
bool py_int_value(const rt_t *rt, rt_addr_t number, int64_t *value, uint64_t *bits);

/* A dict's table, combined or split. */
typedef struct py_table {
    rt_addr_t keys;    /* PyDictKeysObject */
    rt_addr_t entries; /* first entry */
    size_t count;      /* entries in use, dummies among them */
    size_t stride, key_at, value_at;
    rt_addr_t values; /* array of a split table, or 0 */
    bool embedded;    /* the values belong to the instance */
} py_table_t;

void py_keys_open(const rt_t *rt, rt_addr_t keys, py_table_t *out);
void py_dict_open(const rt_t *rt, rt_addr_t dict, py_table_t *out);

static inline rt_addr_t py_table_key(const py_table_t *t, size_t i) {
    return rt_ptr(t->entries + i * t->stride, (int32_t)t->key_at);
}
static inline rt_addr_t py_table_value(const py_table_t *t, size_t i) {
    return t->values ? rt_ptr(t->values, (int32_t)(i * sizeof(rt_addr_t)))
                     : rt_ptr(t->entries + i * t->stride, (int32_t)t->value_at);
}
/* The value of a str key, or 0. Looks at every entry: for small dicts and rare questions. */
rt_addr_t py_dict_get(const rt_t *rt, rt_addr_t dict, const char *key);
/* Bytes of a keys object. */
size_t py_keys_bytes(const rt_t *rt, rt_addr_t keys);

/* A type's flags say so. */
bool py_type_has(const rt_t *rt, rt_addr_t object, uint64_t flag);

#endif
