#include "agent/heap/roots.h"

#include "agent/heap/attributes.h"
#include "agent/heap/edges.h"
#include "agent/heap/py_text.h"
#include "agent/heap/values.h"

#include <errno.h>
#include <stdlib.h>

enum { ROOT_TEXT_BYTES = 768 };

/* ── What C structures hold ── */

static void roots_collect(void *arg, const char *name, int64_t index, rt_addr_t object,
                          bool borrowed) {
    walk_t *k = arg;
    /* The main interpreter's static types are walked as types, and tell these themselves. */
    bool of_static_type = index >= 0 && strncmp(name, "static type ", 12) == 0;
    if (of_static_type && (borrowed || k->address == k->main_interp)) return;
    /* Looked up once and kept without a reference: builtins and object own them. */
    if (strcmp(name, "objreduce") == 0 ||
        (k->rt->minor >= 14 && strcmp(name, "common constant") == 0))
        borrowed = true;
    root_t root = {name, object, index >= 0, borrowed};
    if (root_vec_push(&k->roots, root)) walk_fail(k, -ENOMEM);
}

/* An array of references becomes a pseudo-object of its own, so that no shape has thousands of labels. */
static uint32_t roots_holder(walk_t *k, const char *name, bool borrowed) {
    holder_t *h = arena_alloc(&k->arena, sizeof *h);
    if (!h) return walk_fail(k, -ENOMEM), REC_NULL;
    *h = (holder_t){.name = name, .borrowed = borrowed};
    for (size_t i = 0; i < k->roots.count; i++) {
        root_t *r = k->roots.at + i;
        h->count += r->in_array && r->borrowed == borrowed && strcmp(r->name, name) == 0;
    }
    h->objects = arena_alloc(&k->arena, (h->count + 1) * sizeof *h->objects);
    if (!h->objects) return walk_fail(k, -ENOMEM), REC_NULL;
    size_t n = 0;
    for (size_t i = 0; i < k->roots.count; i++) {
        root_t *r = k->roots.at + i;
        if (!r->in_array || r->borrowed != borrowed || strcmp(r->name, name) != 0) continue;
        h->objects[n++] = r->object;
        r->in_array = false;
        r->name = NULL;
    }
    if (holder_vec_push(&k->holders, h)) return walk_fail(k, -ENOMEM), REC_NULL;
    return walk_queue_push(k, (k->holders.count - 1) * 8 | WALK_HOLDER);
}

static unsigned roots_tag(const char *name) {
    if (strcmp(name, RT_ROOT_INTERNED) == 0) return WALK_INTERNED;
    bool namespace = strcmp(name, "sysdict") == 0 || strcmp(name, "builtins") == 0;
    return namespace ? WALK_NAMESPACE : WALK_OBJECT;
}

/* Edges and labels for what has been collected; `n` labels are in k->labels already. */
static uint32_t roots_edges(walk_t *k, uint32_t n) {
    for (size_t i = 0; i < k->roots.count && n < WALK_LABELS_MAX; i++) {
        root_t r = k->roots.at[i];
        if (!r.name) continue;
        if (r.in_array) {
            k->labels[n++] = walk_label(k, LOWTIDE_ROOT, r.name, false);
            walk_edge_id(k, roots_holder(k, r.name, r.borrowed));
        } else {
            k->labels[n++] = walk_label(k, LOWTIDE_ROOT, r.name, r.borrowed);
            walk_edge_id(k, walk_mention_dict(k, r.object, roots_tag(r.name)));
        }
    }
    k->roots.count = 0;
    return n;
}

static void roots_emit(walk_t *k, uint8_t kind, const char *name, uint32_t labels,
                       const rec_label_t *repeat) {
    rec_shape_t s = {.kind = kind,
                     .type = LOWTIDE_NONE,
                     .name = walk_text(k, name),
                     .module = LOWTIDE_NONE,
                     .fixed = k->labels,
                     .fixed_count = labels,
                     .repeat_count = repeat != NULL};
    if (repeat) s.repeat[0] = *repeat;
    walk_emit(k, rec_shape_add(k->w, &s), labels, repeat != NULL, 0, 0, 0);
}

static void roots_write_holder(walk_t *k) {
    const holder_t *h = k->holders.at[k->address / 8];
    k->address = 0;
    for (size_t i = 0; i < h->count; i++) walk_edge(k, h->objects[i]);
    rec_label_t repeat = {LOWTIDE_INDEX, h->borrowed, LOWTIDE_NONE};
    roots_emit(k, LOWTIDE_SHAPE_OTHER, h->name, 0, &repeat);
}

static void roots_write_runtime(walk_t *k) {
    uint32_t n = 0;
    for (rt_addr_t i = rt_interp_first(k->rt); i && n < WALK_LABELS_MAX / 2;
         i = rt_interp_next(k->rt, i)) {
        k->labels[n++] = walk_label(
            k, LOWTIDE_ROOT, i == k->main_interp ? "main interpreter" : "interpreter", false);
        walk_edge_id(k, walk_queue_push(k, i | WALK_INTERPRETER));
    }
    rt_runtime_roots(k->rt, roots_collect, k);
    rt_static_types(k->rt, k->main_interp, roots_collect, k);
    rt_static_objects(k->rt, roots_collect, k);
    n = roots_edges(k, n);
    roots_emit(k, LOWTIDE_SHAPE_RUNTIME, "runtime", n, NULL);
}

static void roots_write_interpreter(walk_t *k) {
    rec_label_t repeat = walk_label(k, LOWTIDE_ROOT, "thread", false);
    rt_interp_roots(k->rt, k->address, roots_collect, k);
    uint32_t n = roots_edges(k, 0);
    rt_thread_t t;
    for (rt_thread_first(k->rt, k->address, &t); t.address; rt_thread_next(k->rt, &t)) {
        if (k->options->hide_tid && t.native_id == k->options->hide_tid) continue;
        walk_edge_id(k, walk_queue_push(k, t.address | WALK_THREAD));
    }
    roots_emit(k, LOWTIDE_SHAPE_INTERPRETER, "interpreter", n, &repeat);
}

/* ── Threads and frames ── */

static bool roots_find_thread(walk_t *k, rt_addr_t address, rt_thread_t *t) {
    for (rt_addr_t i = rt_interp_first(k->rt); i; i = rt_interp_next(k->rt, i))
        for (rt_thread_first(k->rt, i, t); t->address; rt_thread_next(k->rt, t))
            if (t->address == address) return true;
    return false;
}

/* threading's own name of a thread, from threading._active, without running its code. */
static size_t roots_thread_name(walk_t *k, const rt_thread_t *t, char *to, size_t room) {
    const rt_t *rt = k->rt;
    rt_addr_t modules = rt_ptr(t->interp, k->lay->interp_modules);
    rt_addr_t module = py_dict_get(rt, modules, "threading");
    if (py_type_has(rt, module, RT_TPFLAGS_HEAPTYPE) || !module) return 0;
    rt_addr_t active = py_dict_get(rt, rt_ptr(module, k->lay->module_dict), "_active");
    if (!py_type_has(rt, active, RT_TPFLAGS_DICT_SUBCLASS)) return 0;
    py_table_t table;
    py_dict_open(rt, active, &table);
    for (size_t i = 0; i < table.count; i++) {
        rt_addr_t key = py_table_key(&table, i), thread = py_table_value(&table, i);
        int64_t ident = 0;
        uint64_t bits;
        if (!thread || !py_type_has(rt, key, RT_TPFLAGS_LONG_SUBCLASS)) continue;
        if (!py_int_value(rt, key, &ident, &bits) || (uint64_t)ident != t->ident) continue;
        rt_addr_t name = attribute_get(k, thread, "_name");
        return py_is_str(rt, name) ? py_str_utf8(rt, name, to, room) : 0;
    }
    return 0;
}

static size_t roots_number(uint64_t v, char *to) {
    char digits[24];
    size_t n = 0, m = 0;
    do digits[n++] = (char)('0' + v % 10);
    while (v /= 10);
    while (n) to[m++] = digits[--n];
    return m;
}

static void roots_write_thread(walk_t *k) {
    rt_thread_t t;
    char name[ROOT_TEXT_BYTES];
    size_t length = 0;
    rec_label_t repeat = walk_label(k, LOWTIDE_ROOT, "frame", false);
    uint32_t n = 0;
    if (roots_find_thread(k, k->address, &t)) {
        rt_thread_roots(k->rt, &t, roots_collect, k);
        n = roots_edges(k, 0);
        rt_frame_t f;
        for (rt_frame_read(k->rt, t.frame, &f); f.address; rt_frame_next(k->rt, &f))
            walk_edge_id(k, walk_queue_push(k, f.address | WALK_FRAME));
        length = roots_thread_name(k, &t, name, sizeof name);
        if (!length && t.is_main) memcpy(name, "MainThread", length = 10);
        if (!length) length = roots_number(t.native_id, name);
    }
    roots_emit(k, LOWTIDE_SHAPE_THREAD, "thread", n, &repeat);
    if (length) rec_value_text(k->w, LOWTIDE_VALUE_NAME, length, name, length);
}

static void roots_write_frame(walk_t *k) {
    rt_frame_t f;
    rt_frame_read(k->rt, k->address, &f);
    edges_form_t form = edges_thread_frame(k, &f);
    walk_emit(k, form.shape, form.fixed, form.repeat, 0, 0, 0);
    size_t n = value_code_text(k, f.code, rt_frame_line(k->rt, &f));
    rec_value_text(k->w, LOWTIDE_VALUE_NAME, n, k->text, n);
}

void roots_write(walk_t *k, unsigned tag) {
    if (k->id == 0)
        roots_write_runtime(k);
    else if (tag == WALK_INTERPRETER)
        roots_write_interpreter(k);
    else if (tag == WALK_THREAD)
        roots_write_thread(k);
    else if (tag == WALK_FRAME)
        roots_write_frame(k);
    else
        roots_write_holder(k);
}

/* ── Before the walk ── */

/* Every class made by a class statement has the same tp_traverse; importlib's own classes were made so. */
static rt_addr_t roots_subtype_traverse(walk_t *k) {
    rt_addr_t importlib = rt_ptr(k->main_interp, k->lay->interp_importlib);
    if (!importlib) return 0;
    rt_addr_t spec = py_dict_get(k->rt, rt_ptr(importlib, k->lay->module_dict), "ModuleSpec");
    if (!py_type_has(k->rt, spec, RT_TPFLAGS_TYPE_SUBCLASS)) return 0;
    return rt_ptr(spec, k->lay->type_traverse);
}

static void roots_read_frozen(walk_t *k, rt_addr_t interp) {
    rt_addr_t head = rt_gc_list(k->rt, interp, RT_GC_FROZEN);
    int fresh;
    for (rt_addr_t g = rt_gc_next(k->rt, head); g && g != head; g = rt_gc_next(k->rt, g))
        if (!map_put(&k->frozen, rt_from_gc(k->rt, g), &fresh)) {
            walk_fail(k, -ENOMEM);
            return;
        }
}

void roots_prepare(walk_t *k) {
    for (rt_addr_t i = rt_interp_first(k->rt); i; i = rt_interp_next(k->rt, i))
        if (!k->main_interp || rt_interp_id(k->rt, i) == 0) k->main_interp = i;
    if (!k->main_interp) return;
    k->subtype_traverse = roots_subtype_traverse(k);
    for (rt_addr_t i = rt_interp_first(k->rt); i; i = rt_interp_next(k->rt, i))
        roots_read_frozen(k, i);
    if (k->options->values)
        value_find_paths(k);
    else
        value_find_names(k);
}
