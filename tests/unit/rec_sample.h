/* A small recording with everything in it that the format knows: for golden files and tests. */
#ifndef LOWTIDE_TESTS_REC_SAMPLE_H
#define LOWTIDE_TESTS_REC_SAMPLE_H

#include "format/rec_writer.h"

#include <string.h>

#define REC_SAMPLE_CAPTURED_NS UINT64_C(1790000000123456789)
enum { REC_SAMPLE_OBJECTS = 17, REC_SAMPLE_REFERENCES = 31, REC_SAMPLE_REACHED = 15 };

static inline uint32_t sample_string(rec_writer_t *w, const char *text) {
    return rec_string(w, text, strlen(text));
}

typedef struct rec_sample_shapes {
    uint32_t runtime, interpreter, thread, frame, holder, module, namespace, type, instance, str,
        cell, set, other;
} rec_sample_shapes_t;

static inline uint32_t sample_shape(rec_writer_t *w, uint8_t kind, uint32_t flags, const char *name,
                                    const rec_label_t *fixed, uint32_t n, const rec_label_t *repeat,
                                    uint32_t repeats) {
    rec_shape_t shape = {.kind = kind,
                         .flags = flags,
                         .type = LOWTIDE_NONE,
                         .name = sample_string(w, name),
                         .module = kind ? LOWTIDE_NONE : sample_string(w, "builtins"),
                         .fixed_count = n,
                         .fixed = fixed,
                         .repeat_count = repeats};
    for (uint32_t i = 0; i < repeats; i++) shape.repeat[i] = repeat[i];
    return rec_shape_add(w, &shape);
}

static inline rec_sample_shapes_t sample_shapes(rec_writer_t *w) {
    const uint32_t none = LOWTIDE_NONE;
    rec_label_t root[] = {{LOWTIDE_ROOT, 0, sample_string(w, "interpreter")}};
    rec_label_t roots[] = {{LOWTIDE_ROOT, 0, sample_string(w, "modules")},
                           {LOWTIDE_ROOT, 1, sample_string(w, "thread")},
                           {LOWTIDE_ROOT, 0, sample_string(w, "caches")}};
    rec_label_t top[] = {{LOWTIDE_ROOT, 0, sample_string(w, "frame")}};
    rec_label_t locals[] = {{LOWTIDE_LOCAL, 0, sample_string(w, "rows")},
                            {LOWTIDE_LOCAL, 0, sample_string(w, "größe")}};
    rec_label_t stack[] = {{LOWTIDE_STACK, 0, none}};
    rec_label_t field[] = {{LOWTIDE_FIELD, 0, sample_string(w, "pending")}};
    rec_label_t module[] = {{LOWTIDE_CLASS, 1, none},
                            {LOWTIDE_FIELD, 0, sample_string(w, "md_dict")}};
    rec_label_t plain[] = {{LOWTIDE_CLASS, 1, none}};
    rec_label_t pairs[] = {{LOWTIDE_KEY, 0, none}, {LOWTIDE_VALUE, 0, none}};
    rec_label_t instance[] = {{LOWTIDE_CLASS, 0, none},
                              {LOWTIDE_ATTRIBUTE, 0, sample_string(w, "name")},
                              {LOWTIDE_ATTRIBUTE, 0, sample_string(w, "next")}};
    rec_label_t cell[] = {{LOWTIDE_CLASS, 1, none}, {LOWTIDE_CELL, 0, none}};
    rec_label_t element[] = {{LOWTIDE_ELEMENT, 0, none}};
    rec_label_t other[] = {{LOWTIDE_REFERENCE, 0, none}};
    enum {
        GC = LOWTIDE_SHAPE_HAS_GC,
        SPACE = LOWTIDE_SHAPE_IS_NAMESPACE | LOWTIDE_SHAPE_HAS_GC,
        HEAP = LOWTIDE_SHAPE_HEAP_TYPE | LOWTIDE_SHAPE_HAS_GC
    };
    return (rec_sample_shapes_t){
        .runtime = sample_shape(w, LOWTIDE_SHAPE_RUNTIME, 0, "runtime", root, 1, NULL, 0),
        .interpreter =
            sample_shape(w, LOWTIDE_SHAPE_INTERPRETER, 0, "interpreter", roots, 3, NULL, 0),
        .thread = sample_shape(w, LOWTIDE_SHAPE_THREAD, 0, "thread", top, 1, NULL, 0),
        .frame = sample_shape(w, LOWTIDE_SHAPE_FRAME, 0, "frame", locals, 2, stack, 1),
        .holder = sample_shape(w, LOWTIDE_SHAPE_OTHER, 0, "queue", field, 1, NULL, 0),
        .module = sample_shape(w, LOWTIDE_SHAPE_OBJECT, GC | LOWTIDE_SHAPE_IS_MODULE, "module",
                               module, 2, NULL, 0),
        .namespace = sample_shape(w, LOWTIDE_SHAPE_OBJECT, SPACE, "dict", plain, 1, pairs, 2),
        .type = sample_shape(w, LOWTIDE_SHAPE_OBJECT, GC | LOWTIDE_SHAPE_IS_TYPE, "type", plain, 1,
                             other, 1),
        .instance = sample_shape(w, LOWTIDE_SHAPE_OBJECT, HEAP, "Node", instance, 3, NULL, 0),
        .str = sample_shape(w, LOWTIDE_SHAPE_OBJECT, 0, "str", plain, 1, NULL, 0),
        .cell = sample_shape(w, LOWTIDE_SHAPE_OBJECT, GC, "cell", cell, 2, NULL, 0),
        .set = sample_shape(w, LOWTIDE_SHAPE_OBJECT, GC, "set", plain, 1, element, 1),
        .other = sample_shape(w, LOWTIDE_SHAPE_OBJECT, GC, "unknown", NULL, 0, other, 1)};
}

static inline void sample_text(rec_writer_t *w, int kind, const char *text) {
    rec_value_text(w, kind, strlen(text), text, strlen(text));
}

static inline void sample_edges(rec_writer_t *w, uint32_t n, const uint32_t *targets) {
    for (uint32_t i = 0; i < n; i++) rec_edge(w, targets[i]);
}
#define SAMPLE_EDGES(w, ...)                                                                       \
    sample_edges(w, sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t),                          \
                 (const uint32_t[]){__VA_ARGS__})

/* Types stand at 9 (module), 10 (type), 11 (str), 12 (Node), 13 (dict). */
static inline void sample_objects(rec_writer_t *w) {
    rec_sample_shapes_t s = sample_shapes(w);
    enum { TRACKED = LOWTIDE_TRACKED };
    const uint64_t A = UINT64_C(0x7f0000000000);
    rec_object(w, s.runtime, 0, 0, 0, 0);
    SAMPLE_EDGES(w, 1);
    rec_object(w, s.interpreter, 0x555500001000, 0, 0, 0);
    SAMPLE_EDGES(w, 2, 3, 4);
    rec_object(w, s.module, A, 72, 3, TRACKED);
    SAMPLE_EDGES(w, 9, 5);
    sample_text(w, LOWTIDE_VALUE_NAME, "__main__");
    rec_object(w, s.thread, 0x555500002000, 0, 0, 0);
    SAMPLE_EDGES(w, 6);
    sample_text(w, LOWTIDE_VALUE_NAME, "MainThread");
    rec_object(w, s.holder, 0, 0, 0, 0);
    SAMPLE_EDGES(w, REC_NULL);
    rec_object(w, s.namespace, A + 4096, 232, 1, TRACKED);
    SAMPLE_EDGES(w, 13, 11, 7, 12, 8);
    rec_value_int(w, LOWTIDE_VALUE_BOOL, 1);
    rec_object(w, s.frame, 0x7f5500003000, 96, 0, 0);
    SAMPLE_EDGES(w, 8, REC_NULL, 5, 2);
    sample_text(w, LOWTIDE_VALUE_NAME,
                "main\x1f/srv/app.py\x1f"
                "12");
    rec_object(w, s.str, A + 8192, 60, 4, 0);
    SAMPLE_EDGES(w, 11);
    rec_value_text(w, LOWTIDE_VALUE_STR, 400, "gr\xc3\xb6\xc3\x9f\x65 \xff cut \xe2\x82", 16);
    rec_object(w, s.instance, A + 4160, 56, 2, TRACKED | LOWTIDE_FINALIZED);
    SAMPLE_EDGES(w, 12, 7, 8);
    rec_buffer(w, 1 << 20);
    rec_value_big_int(w, 3322);
    static const char *const types[] = {"module", "type", "str", "Node", "dict"};
    for (unsigned i = 0; i < 5; i++) {
        rec_object(w, s.type, 0x555500100000 + i * 1024, 408, i == 3 ? 5 : 0,
                   TRACKED | (i == 4 ? LOWTIDE_FROZEN : 0));
        SAMPLE_EDGES(w, 10);
        if (i == 3) SAMPLE_EDGES(w, 9, REC_NULL, 14);
        sample_text(w, LOWTIDE_VALUE_NAME, types[i]);
    }
    rec_object(w, s.other, A + 64, 24, 1, LOWTIDE_SKIPPED);
    rec_value_text(w, LOWTIDE_VALUE_BYTES, 3, "\x00\xff\x10", 3);
    rec_object(w, s.cell, A + 128, 40, 1, TRACKED);
    SAMPLE_EDGES(w, 10, 16);
    rec_buffer(w, 77);
    rec_value_int(w, LOWTIDE_VALUE_INT, INT64_MIN);
    rec_object(w, s.set, A + 4096 * 8, 216, 1, TRACKED);
    SAMPLE_EDGES(w, 10, 15, 0);
    rec_value_float(w, -0.5);
}

/* The whole; chunks of so few objects that there are several of them. */
static inline int sample_write(int fd, err_t *e) {
    rec_writer_t *w;
    int status = rec_open(&w, fd, 0, REC_SAMPLE_CAPTURED_NS, e);
    if (status) return status;
    w->chunk_objects = w->count_most = 6;
    rec_meta(w, "pid", "4711");
    rec_meta(w, "python", "3.13.0");
    rec_meta(w, "values", "prefix");
    sample_objects(w);
    rec_meta(w, "walk_ms", "1");
    return rec_close(w, REC_SAMPLE_REACHED, 1, e);
}

#endif
