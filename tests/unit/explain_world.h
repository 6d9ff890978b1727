/* A small Python process made up for tests: objects with references, written as a recording and
 * opened from memory.
 *
 *     world_t w;
 *     world_begin(&w);                             runtime, interpreter, sys.modules, __main__, type objects
 *     uint32_t cache = world_dict(&w);
 *     world_name(&w, w.main, "cache", cache);      __main__.cache
 *     model_t *m = world_model(&w);
 *     world_end(&w);
 */
#ifndef LOWTIDE_TESTS_EXPLAIN_WORLD_H
#define LOWTIDE_TESTS_EXPLAIN_WORLD_H

#define _GNU_SOURCE

#include "base/mem.h"
#include "explain/model.h"
#include "format/rec_table.h"
#include "format/rec_writer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { WORLD_TEXT = 120 };

typedef struct world_object {
    uint32_t shape;
    uint32_t *edges;
    uint32_t edge_count, edge_room;
    uint64_t size;
    uint64_t untouched; /* of it */
    uint32_t extra;     /* references from C code */
    int immortal;
    int value_kind;
    int64_t integer;
    char text[WORLD_TEXT];
} world_object_t;

typedef struct world_shape {
    int kind;
    uint32_t flags, type;
    char name[40], module[40];
    uint32_t fixed_count, repeat_count;
    rec_label_t fixed[8], repeat[2]; /* name: place in labels + 1 */
    char labels[8][24];
} world_shape_t;

typedef struct world {
    world_object_t *objects;
    uint32_t count, room;
    world_shape_t shapes[64];
    uint32_t shape_count;
    uint32_t runtime, interpreter, modules, main, main_dict;
    uint32_t s_runtime, s_interpreter, s_thread, s_frame, s_type, s_module, s_namespace, s_dict,
        s_list, s_tuple, s_str, s_int;
    int untouched; /* the recording has that table */
    void *bytes;
    size_t size;
    lowtide_recording *rec;
} world_t;

static inline uint32_t world_object(world_t *w, uint32_t shape) {
    if (w->count == w->room) {
        w->room = w->room ? w->room * 2 : 256;
        w->objects = realloc(w->objects, w->room * sizeof *w->objects);
        assert_non_null(w->objects);
    }
    w->objects[w->count] = (world_object_t){.shape = shape, .size = 16};
    return w->count++;
}

static inline void world_edge(world_t *w, uint32_t from, uint32_t to) {
    world_object_t *o = &w->objects[from];
    if (o->edge_count == o->edge_room) {
        o->edge_room = o->edge_room ? o->edge_room * 2 : 4;
        o->edges = realloc(o->edges, o->edge_room * sizeof *o->edges);
        assert_non_null(o->edges);
    }
    o->edges[o->edge_count++] = to;
}

static inline uint32_t world_shape(world_t *w, int kind, uint32_t flags, const char *name,
                                   const char *module) {
    world_shape_t *s = &w->shapes[w->shape_count];
    *s = (world_shape_t){.kind = kind, .flags = flags, .type = LOWTIDE_NONE};
    snprintf(s->name, sizeof s->name, "%s", name);
    snprintf(s->module, sizeof s->module, "%s", module);
    return w->shape_count++;
}

static inline void world_fixed(world_t *w, uint32_t shape, int kind, int borrowed,
                               const char *name) {
    world_shape_t *s = &w->shapes[shape];
    uint32_t k = s->fixed_count++;
    s->fixed[k] = (rec_label_t){(uint8_t)kind, (uint8_t)borrowed, name ? k + 1 : 0};
    if (name) snprintf(s->labels[k], sizeof s->labels[k], "%s", name);
}

static inline void world_repeat(world_t *w, uint32_t shape, int kind) {
    world_shape_t *s = &w->shapes[shape];
    s->repeat[s->repeat_count++] = (rec_label_t){(uint8_t)kind, 0, 0};
}

static inline uint32_t world_text(world_t *w, uint32_t shape, int value_kind, const char *text) {
    uint32_t id = world_object(w, shape);
    w->objects[id].value_kind = value_kind;
    snprintf(w->objects[id].text, WORLD_TEXT, "%s", text);
    return id;
}

/* A type object and the shape of its instances: CLASS first. Heap types are owned by their
 * instances. */
static inline uint32_t world_class(world_t *w, const char *module, const char *name, int heap) {
    char full[WORLD_TEXT];
    snprintf(full, sizeof full, "%s%s%s", module, module[0] ? "." : "", name);
    uint32_t shape =
        world_shape(w, LOWTIDE_SHAPE_OBJECT, heap ? LOWTIDE_SHAPE_HEAP_TYPE : 0, name, module);
    uint32_t type = world_text(w, w->s_type, LOWTIDE_VALUE_NAME, full);
    w->objects[type].immortal = !heap;
    w->shapes[shape].type = type;
    world_fixed(w, shape, LOWTIDE_CLASS, !heap, NULL);
    return shape;
}

static inline uint32_t world_instance(world_t *w, uint32_t shape) {
    uint32_t id = world_object(w, shape);
    world_edge(w, id, w->shapes[shape].type);
    return id;
}

static inline uint32_t world_str(world_t *w, const char *text) {
    uint32_t id = world_instance(w, w->s_str);
    w->objects[id].value_kind = LOWTIDE_VALUE_STR;
    snprintf(w->objects[id].text, WORLD_TEXT, "%s", text);
    return id;
}

static inline uint32_t world_int(world_t *w, int64_t v) {
    uint32_t id = world_instance(w, w->s_int);
    w->objects[id].value_kind = LOWTIDE_VALUE_INT;
    w->objects[id].integer = v;
    return id;
}

static inline uint32_t world_dict(world_t *w) {
    return world_instance(w, w->s_dict);
}
static inline uint32_t world_list(world_t *w) {
    return world_instance(w, w->s_list);
}

static inline void world_item(world_t *w, uint32_t dict, uint32_t key, uint32_t value) {
    world_edge(w, dict, key);
    world_edge(w, dict, value);
}

static inline void world_set(world_t *w, uint32_t dict, const char *key, uint32_t value) {
    world_item(w, dict, world_str(w, key), value);
}

static inline uint32_t world_module(world_t *w, const char *name) {
    uint32_t dict = world_instance(w, w->s_namespace), module = world_instance(w, w->s_module);
    w->objects[module].value_kind = LOWTIDE_VALUE_NAME;
    snprintf(w->objects[module].text, WORLD_TEXT, "%s", name);
    world_edge(w, module, dict);
    world_set(w, w->modules, name, module);
    return module;
}

/* A name in a module. */
static inline void world_name(world_t *w, uint32_t module, const char *name, uint32_t value) {
    world_set(w, w->objects[module].edges[1], name, value);
}

/* A frame of a thread of its own, with one local for each name given, to which edges are to be
 * added. */
static inline uint32_t world_thread(world_t *w, const char *thread, const char *function,
                                    const char *local) {
    uint32_t t = world_text(w, w->s_thread, LOWTIDE_VALUE_NAME, thread);
    uint32_t shape = world_shape(w, LOWTIDE_SHAPE_FRAME, 0, "frame", "");
    char text[WORLD_TEXT];
    snprintf(text, sizeof text,
             "%s\x1f/src/app.py\x1f"
             "7",
             function);
    uint32_t f = world_text(w, shape, LOWTIDE_VALUE_NAME, text);
    world_fixed(w, shape, LOWTIDE_LOCAL, 0, local);
    world_edge(w, w->interpreter, t);
    world_edge(w, t, f);
    return f;
}

static inline void world_begin(world_t *w) {
    memset(w, 0, sizeof *w);
    w->s_runtime = world_shape(w, LOWTIDE_SHAPE_RUNTIME, 0, "runtime", "");
    w->s_interpreter = world_shape(w, LOWTIDE_SHAPE_INTERPRETER, 0, "interpreter", "");
    w->s_thread = world_shape(w, LOWTIDE_SHAPE_THREAD, 0, "thread", "");
    w->s_type = world_shape(w, LOWTIDE_SHAPE_OBJECT, LOWTIDE_SHAPE_IS_TYPE, "type", "builtins");
    world_repeat(w, w->s_runtime, LOWTIDE_ROOT);
    world_fixed(w, w->s_interpreter, LOWTIDE_ROOT, 0, "modules");
    world_repeat(w, w->s_interpreter, LOWTIDE_ROOT);
    world_repeat(w, w->s_thread, LOWTIDE_ROOT);
    world_fixed(w, w->s_type, LOWTIDE_FIELD, 0, "tp_dict");
    w->runtime = world_object(w, w->s_runtime);
    w->interpreter = world_object(w, w->s_interpreter);
    w->objects[w->runtime].size = w->objects[w->interpreter].size = 0;
    world_edge(w, w->runtime, w->interpreter);
    w->s_dict = world_class(w, "builtins", "dict", 0);
    w->s_list = world_class(w, "builtins", "list", 0);
    w->s_tuple = world_class(w, "builtins", "tuple", 0);
    w->s_str = world_class(w, "builtins", "str", 0);
    w->s_int = world_class(w, "builtins", "int", 0);
    w->s_module = world_class(w, "builtins", "module", 0);
    w->shapes[w->s_module].flags |= LOWTIDE_SHAPE_IS_MODULE;
    world_fixed(w, w->s_module, LOWTIDE_ATTRIBUTE, 0, "__dict__");
    world_repeat(w, w->s_dict, LOWTIDE_KEY);
    world_repeat(w, w->s_dict, LOWTIDE_VALUE);
    world_repeat(w, w->s_list, LOWTIDE_INDEX);
    world_repeat(w, w->s_tuple, LOWTIDE_INDEX);
    w->s_namespace = w->shape_count++;
    w->shapes[w->s_namespace] = w->shapes[w->s_dict];
    w->shapes[w->s_namespace].flags |= LOWTIDE_SHAPE_IS_NAMESPACE;
    w->modules = world_dict(w);
    world_edge(w, w->interpreter, w->modules);
    w->main = world_module(w, "__main__");
    w->main_dict = w->objects[w->main].edges[1];
}

static inline void world_write_shapes(world_t *w, rec_writer_t *out) {
    for (uint32_t s = 0; s < w->shape_count; s++) {
        world_shape_t *from = &w->shapes[s];
        rec_label_t fixed[8];
        for (uint32_t k = 0; k < from->fixed_count; k++) {
            fixed[k] = from->fixed[k];
            const char *label = from->labels[k];
            fixed[k].name = fixed[k].name ? rec_string(out, label, strlen(label)) : LOWTIDE_NONE;
        }
        rec_shape_t shape = {.kind = (uint8_t)from->kind,
                             .flags = from->flags,
                             .type = from->type,
                             .name = rec_string(out, from->name, strlen(from->name)),
                             .module = from->module[0]
                                           ? rec_string(out, from->module, strlen(from->module))
                                           : LOWTIDE_NONE,
                             .fixed_count = from->fixed_count,
                             .fixed = fixed,
                             .repeat_count = from->repeat_count};
        for (uint32_t k = 0; k < from->repeat_count; k++) {
            shape.repeat[k] = (rec_label_t){from->repeat[k].kind, 0, LOWTIDE_NONE};
        }
        assert_int_equal(rec_shape_add(out, &shape), s);
    }
}

/* References that count, and those that C code holds. */
static inline uint64_t *world_refcounts(const world_t *w) {
    uint64_t *counts = calloc(w->count, sizeof *counts);
    assert_non_null(counts);
    for (uint32_t id = 0; id < w->count; id++) {
        const world_object_t *o = &w->objects[id];
        const world_shape_t *s = &w->shapes[o->shape];
        for (uint32_t k = 0; k < o->edge_count; k++) {
            if (o->edges[k] != REC_NULL && !(k < s->fixed_count && s->fixed[k].borrowed))
                counts[o->edges[k]]++;
        }
        counts[id] += o->extra;
    }
    return counts;
}

static inline void world_write_value(const world_object_t *o, rec_writer_t *out) {
    size_t bytes = strlen(o->text), points = 0;
    for (size_t i = 0; i < bytes; i++) points += (o->text[i] & 0xC0) != 0x80;
    if (o->value_kind == LOWTIDE_VALUE_INT || o->value_kind == LOWTIDE_VALUE_BOOL) {
        rec_value_int(out, o->value_kind, o->integer);
    } else if (o->value_kind != LOWTIDE_VALUE_NONE) {
        rec_value_text(out, o->value_kind, points + (uint64_t)o->integer, o->text, bytes);
    }
}

static inline void world_write_untouched(const world_t *w, rec_writer_t *out) {
    static const rec_table_column_t columns[] = {{"object", REC_DELTA}, {"bytes", REC_VARINT}};
    rec_table_begin(out, "untouched", columns, 2);
    for (uint32_t id = 0; id < w->count; id++) {
        if (!w->objects[id].untouched) continue;
        rec_table_number(out, id);
        rec_table_number(out, w->objects[id].untouched);
    }
    /* What no recording says: an object before the last one, and none at all. */
    rec_table_number(out, 0);
    rec_table_number(out, 99);
    rec_table_number(out, w->count);
    rec_table_number(out, 99);
    rec_table_end(out);
}

static inline void world_write(world_t *w) {
    err_t e;
    rec_writer_t *out;
    int fd = memfd_create("world", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(rec_open(&out, fd, 0, 1, &e), 0);
    rec_meta(out, "pid", "4711");
    rec_meta(out, "started", "2026-01-01T00:00:00Z");
    world_write_shapes(w, out);
    uint64_t *counts = world_refcounts(w);
    for (uint32_t id = 0; id < w->count; id++) {
        const world_object_t *o = &w->objects[id];
        const world_shape_t *s = &w->shapes[o->shape];
        rec_object(out, o->shape, s->kind == LOWTIDE_SHAPE_OBJECT ? 0x10000 + 64 * (uint64_t)id : 0,
                   o->size, o->immortal ? 0 : counts[id], 0);
        for (uint32_t k = 0; k < o->edge_count; k++) rec_edge(out, o->edges[k]);
        for (uint32_t k = o->edge_count; k < s->fixed_count; k++) rec_edge(out, REC_NULL);
        world_write_value(o, out);
    }
    free(counts);
    if (w->untouched) world_write_untouched(w, out);
    if (rec_close(out, w->count, 0, &e)) fail_msg("%s", e.text);
    w->size = (size_t)lseek(fd, 0, SEEK_END);
    w->bytes = mmap(NULL, w->size, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_true(w->bytes != MAP_FAILED);
    close(fd);
    lowtide_error error;
    if (lowtide_open_memory(w->bytes, w->size, &w->rec, &error)) fail_msg("%s", error.text);
}

static inline model_t *world_model(world_t *w) {
    err_t e;
    model_t *m;
    world_write(w);
    if (model_build(w->rec, &m, &e)) fail_msg("%s", e.text);
    return m;
}

static inline void world_end(world_t *w) {
    if (w->rec) lowtide_close(w->rec);
    if (w->bytes) munmap(w->bytes, w->size);
    for (uint32_t id = 0; id < w->count; id++) free(w->objects[id].edges);
    free(w->objects);
}

#endif
