#include "agent/heap/edges.h"

#include "agent/heap/py_text.h"

enum { TYPE_STATIC_OBJECT = 0, TYPE_HEAP_OBJECT = 1 };

typedef struct type_field {
    uint8_t kind;
    bool borrowed;
    const char *name;
    rt_addr_t value;
} type_field_t;

static uint32_t edges_type_shape(walk_t *k, kind_t *t, unsigned variant, const type_field_t *fields,
                                 uint32_t n) {
    /* What a metaclass adds to its types stands behind the type's own fields. */
    uint32_t added = t->field_count, count = 0;
    k->labels[count++] = walk_label(k, LOWTIDE_CLASS, NULL, !t->heap);
    for (uint32_t i = 0; i < n; i++)
        k->labels[count++] = walk_label(k, fields[i].kind, fields[i].name, fields[i].borrowed);
    for (uint32_t i = 0; i < added; i++) k->labels[count++] = t->fields[i].label;
    rec_shape_t s = {.kind = LOWTIDE_SHAPE_OBJECT,
                     .flags = LOWTIDE_SHAPE_IS_TYPE | LOWTIDE_SHAPE_HAS_GC |
                              (t->heap ? LOWTIDE_SHAPE_HEAP_TYPE : 0),
                     .type = walk_mention(k, t->type),
                     .name = t->name,
                     .module = t->module,
                     .fixed = k->labels,
                     .fixed_count = count,
                     .repeat_count = 1,
                     .repeat = {t->c_base == k->rt->types.type
                                    ? walk_label(k, LOWTIDE_FIELD, "cached key", false)
                                    : walk_label(k, LOWTIDE_REFERENCE, NULL, false)}};
    return t->shape[variant] = rec_shape_add(k->w, &s);
}

/* A type object, static or heap. Not by tp_traverse, which aborts for static ones (3.11) and leaves much out. */
edges_form_t edges_type(walk_t *k, kind_t *t) {
    const layout_t *l = k->lay;
    rt_addr_t o = k->address;
    bool heap = rt_type_flags(k->rt, o) & RT_TPFLAGS_HEAPTYPE;
    type_field_t fields[] = {
        {LOWTIDE_ATTRIBUTE, false, "__dict__", kind_type_dict(k, o)},
        {LOWTIDE_ATTRIBUTE, !heap, "__base__", rt_ptr(o, l->type_base)},
        {LOWTIDE_ATTRIBUTE, false, "__bases__", rt_ptr(o, l->type_bases)},
        {LOWTIDE_ATTRIBUTE, false, "__mro__", rt_ptr(o, l->type_mro)},
        {LOWTIDE_FIELD, false, "cache", rt_ptr(o, l->type_cache)},
        {LOWTIDE_FIELD, false, "subclasses", rt_type_subclasses(k->rt, k->main_interp, o)},
        {LOWTIDE_ATTRIBUTE, false, "__name__", heap ? rt_ptr(o, l->heap_type_name) : 0},
        {LOWTIDE_ATTRIBUTE, false, "__qualname__", heap ? rt_ptr(o, l->heap_type_qualname) : 0},
        {LOWTIDE_FIELD, false, "slots", heap ? rt_ptr(o, l->heap_type_slots) : 0},
        {LOWTIDE_FIELD, false, "module", heap ? rt_ptr(o, l->heap_type_module) : 0}};
    uint32_t n = sizeof fields / sizeof *fields;
    walk_edge(k, t->type);
    walk_edge_namespace(k, fields[0].value);
    for (uint32_t i = 1; i < n; i++) walk_edge(k, fields[i].value);
    for (uint32_t i = 0; i < t->field_count; i++) walk_edge(k, rt_ptr(o, t->fields[i].offset));
    rt_addr_t keys = heap ? rt_ptr(o, l->heap_type_cached_keys) : 0;
    if (keys) {
        py_table_t table;
        py_keys_open(k->rt, keys, &table);
        for (size_t i = 0; i < table.count; i++) walk_edge(k, py_table_key(&table, i));
    }
    if (heap && t->c_base != k->rt->types.type && t->traverse) edges_metatype(k, t);
    unsigned variant = heap ? TYPE_HEAP_OBJECT : TYPE_STATIC_OBJECT;
    uint32_t shape = t->shape[variant];
    if (shape == LOWTIDE_NONE) shape = edges_type_shape(k, t, variant, fields, n);
    return (edges_form_t){shape, 1 + n + t->field_count, 1};
}
