/* What the walk knows of a type: how to find its instances' references, size and value. Made when the first instance is met.
 *
 * A type's instances are laid out as its *C base* says (the nearest base made in C: dict, Exception, object …), and behind that
 * come what each class statement added: slots, a __dict__, inline values.
 *
 *     fixed labels:   CLASS │ fields of the C base, members, slots │ __dict__ │ inline attributes
 *     repeat:         by family: items, keys and values, what tp_traverse told …
 */
#ifndef LOWTIDE_HEAP_KINDS_H
#define LOWTIDE_HEAP_KINDS_H

#include "agent/heap/walk.h"

typedef enum kind_family {
    FAMILY_PLAIN,    /* its fields are all */
    FAMILY_TRAVERSE, /* its fields, and what tp_traverse tells beyond them */
    FAMILY_DICT,
    FAMILY_LIST,
    FAMILY_TUPLE,
    FAMILY_SET,
    FAMILY_TYPE,
    FAMILY_CODE,
    FAMILY_GENERATOR,
    FAMILY_FRAME,
    FAMILY_NDARRAY
} kind_family_t;

typedef enum kind_size {
    SIZE_BASIC, /* tp_basicsize + |ob_size| · tp_itemsize */
    SIZE_DICT,
    SIZE_LIST,
    SIZE_SET,
    SIZE_STR,
    SIZE_INT,
    SIZE_TYPE,
    SIZE_KNOWN, /* t->measure */
    SIZE_CALL,  /* the C function behind __sizeof__ */
    SIZE_NDARRAY
} kind_size_t;

typedef enum kind_value {
    VALUE_NONE,
    VALUE_STR,
    VALUE_BYTES,
    VALUE_BYTEARRAY,
    VALUE_INT,
    VALUE_BOOL,
    VALUE_FLOAT,
    VALUE_MODULE,
    VALUE_TYPE,
    VALUE_FUNCTION,
    VALUE_CFUNCTION,
    VALUE_CODE
} kind_value_t;

typedef enum kind_dict {
    DICT_NONE,
    DICT_AT_OFFSET, /* tp_dictoffset, from the end when negative */
    DICT_BESIDE,    /* 3.11: values and dict have a slot each in front of the object */
    DICT_TAGGED,    /* 3.12: one slot for either */
    DICT_MANAGED,   /* 3.13+: a slot for the dict; values behind the object */
} kind_dict_t;

typedef int (*kind_visit_fn)(void *object, void *arg);
typedef int (*kind_traverse_fn)(void *object, kind_visit_fn visit, void *arg);
typedef void *(*kind_sizeof_fn)(void *object, void *none);
typedef uint64_t (*kind_measure_fn)(walk_t *k, const struct kind *t, rt_addr_t object);
/* Adds to k->buffer what an object owns beyond its size. */
typedef void (*kind_buffer_fn)(walk_t *k, rt_addr_t object);

enum { KIND_VARIANTS = 9 };

typedef struct kind {
    rt_addr_t type;
    rt_addr_t c_base;
    uint64_t flags; /* tp_flags */
    int64_t basicsize, itemsize, dictoffset;
    kind_family_t family;
    kind_size_t size_rule;
    kind_value_t value_rule;
    kind_dict_t dict;
    bool heap, has_gc;
    uint8_t naive_bytes;   /* datetime, time: without a time zone they end before it; else 0 */
    bool has_links;        /* functools.lru_cache */
    bool has_order;        /* OrderedDict: its nodes are the last fixed label */
    bool asks_gc;          /* tp_is_gc says which instances have a GC head */
    uint32_t hidden_items; /* a structseq's fields beyond its length */
    uint32_t pre_header;   /* bytes in front, but for type objects' GC head */
    uint32_t inline_bytes; /* of the inline values that getsizeof leaves out or adds */
    rt_addr_t keys;        /* shared keys of inline values, or 0 */
    uint32_t inline_count;
    uint32_t field_count;
    uint32_t base_field_count; /* those of the C base, which come first */
    bool base_has_dict;        /* the C base has the __dict__ already */
    uint32_t fixed_count;      /* CLASS and all that follows it */
    kind_field_t *fields;
    kind_traverse_fn traverse;
    kind_sizeof_fn size_of;
    kind_measure_fn measure;
    kind_buffer_fn buffer;
    enum heap_handle_kind handle;
    uint32_t name, module; /* strings */
    uint32_t shape[KIND_VARIANTS];
} kind_t;

/* The kind of a type; NULL when there is no type at that address. May fault where memory is not readable. */
kind_t *kind_make(walk_t *k, rt_addr_t type);
static inline kind_t *kind_of(walk_t *k, rt_addr_t type) {
    kind_t *t = k->kind_cache[type >> 4 & (WALK_KIND_CACHE - 1)];
    return __builtin_expect(t && t->type == type, 1) ? t : kind_make(k, type);
}

/* Adds a fixed reference to a kind that is being made, unless its offset is known already. */
void kind_add_field(kind_t *t, int32_t offset, rec_label_t label);

/* The shape of this kind's objects in a variant that the family gives a meaning; `repeat` labels as given. */
uint32_t kind_shape_make(walk_t *k, kind_t *t, unsigned variant, unsigned flags,
                         unsigned repeat_count, const rec_label_t *repeat);

/* Module and qualname of a type as strings of the recording. */
void kind_names(walk_t *k, rt_addr_t type, uint32_t *module, uint32_t *name);
size_t kind_full_name(const walk_t *k, rt_addr_t type, char *to, size_t room);
rt_addr_t kind_type_dict(const walk_t *k, rt_addr_t type);

#endif
