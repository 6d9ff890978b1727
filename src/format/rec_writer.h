/* Writing a recording: a stream of objects in id order (docs/format.md says which order that is).
 *
 * Made for the forked child of a target: no malloc, no lock, no stdio; memory comes from mem_map,
 * output goes to a descriptor by write(2). Errors stick: after one, every call does nothing and
 * rec_close returns the first. One thread. SIGPIPE is the caller's to ignore.
 *
 *     rec_open(&w, fd, …);
 *     rec_meta(w, "pid", "4711");
 *     for each object, ids 0, 1, 2 …:
 *         rec_object(w, shape, address, size, refcount, flags);      begins the next object
 *         rec_edge(w, target) …                                      its references in label order,
 *                                                                    REC_NULL for none
 *         rec_buffer(w, bytes); rec_value_…(w, …);                   at most once each
 *     rec_close(w, reached, skipped);
 *
 * The writer keeps the frontier, counts repeats from the edges given, cuts chunks, and writes
 * strings, shapes and meta before the chunk that uses them. References that are missing at the end
 * of the fixed ones are written as none.
 *
 * A shape may be added at any time before the object that has it. Its type may be given with it, or
 * later by rec_shape_type, or not at all: the first reference labelled CLASS of an object of that
 * shape says it too. Every such reference must be to that one type.
 */
#ifndef LOWTIDE_FORMAT_REC_WRITER_H
#define LOWTIDE_FORMAT_REC_WRITER_H

#include "base/err.h"
#include "base/map.h"
#include "base/varint.h"
#include "base/vec.h"
#include "format/rec_bytes.h"
#include "lowtide/recording.h"

#include <stddef.h>
#include <stdint.h>

#define REC_NULL LOWTIDE_NONE

typedef struct rec_writer rec_writer_t;

typedef struct rec_label {
    uint8_t kind;
    uint8_t borrowed;
    uint32_t name; /* from rec_string, or LOWTIDE_NONE */
} rec_label_t;

typedef struct rec_shape {
    uint8_t kind;
    uint32_t flags;
    uint32_t type; /* id, or LOWTIDE_NONE */
    uint32_t name, module;
    uint32_t fixed_count;
    const rec_label_t *fixed; /* copied */
    uint32_t repeat_count;
    rec_label_t repeat[2];
} rec_shape_t;

/* fd stays the caller's. level: zstd's, -5 … 19; 0 means the default of the format (fast). */
int rec_open(rec_writer_t **out, int fd, int level, uint64_t captured_ns, err_t *e);
/* Writes what is pending and END, frees the writer (also after an error). reached: first id found
 * on the collector's lists alone. When an object was mentioned that was never written, the
 * recording is left without END, as a cut one, and the status is -ECANCELED. */
int rec_close(rec_writer_t *w, uint32_t reached, uint64_t skipped, err_t *e);
/* 0, or the first error so far: ask now and then, to stop early on a full disk. */
int rec_status(const rec_writer_t *w);

void rec_meta(rec_writer_t *w, const char *key, const char *value);
/* Returns the string's number. Equal texts are given one number (a small table; not every duplicate
 * need be found). Invalid UTF-8 is replaced, and so is NUL. */
uint32_t rec_string(rec_writer_t *w, const char *text, size_t n);
uint32_t rec_shape_add(rec_writer_t *w, const rec_shape_t *shape);
void rec_shape_type(rec_writer_t *w, uint32_t shape, uint32_t type_id);

static inline void rec_object(rec_writer_t *w, uint32_t shape, uint64_t address, uint64_t size,
                              uint64_t refcount, unsigned flags);
static inline void rec_edge(rec_writer_t *w, uint32_t target);
void rec_buffer(rec_writer_t *w, uint64_t bytes);
/* STR, BYTES, NAME. length: the whole value's; text: all of it or a prefix, at most 1 MiB is kept.
 * Invalid UTF-8 of STR and NAME is replaced; a sequence cut at the end is left out. */
void rec_value_text(rec_writer_t *w, int kind, uint64_t length, const char *text, size_t n);
void rec_value_int(rec_writer_t *w, int kind, int64_t v); /* INT, BOOL */
void rec_value_big_int(rec_writer_t *w, uint64_t bits);
void rec_value_float(rec_writer_t *w, double v);
/* Objects and references written so far. */
uint64_t rec_objects(const rec_writer_t *w);
uint64_t rec_references(const rec_writer_t *w);

/* What follows stands here for speed alone: rec_object and rec_edge are called by the million and
 * must cost a few nanoseconds. Nothing of it is for the caller. */

typedef struct rec_buffer {
    uint8_t *at;    /* where the next byte goes */
    uint8_t *limit; /* from here on the next number may not fit: make room first */
    uint8_t *base;
    size_t room;
    uint32_t as_is; /* so many chunks are stored without trying to compress: the last try gained
                       nothing */
} rec_buffer_t;

typedef struct rec_shape_state {
    uint64_t address; /* of the chunk's last object of that shape, in units of 8 */
    uint32_t chunk;   /* which chunk that was */
    uint32_t type;    /* LOWTIDE_NONE: not known yet */
    uint32_t fixed;
    uint8_t has_repeat;
    uint8_t class_first;  /* the first label is CLASS */
    uint8_t class_stored; /* without a type: its CLASS is stored like any other reference */
} rec_shape_state_t;

VEC_DEFINE(rec_bytes, uint8_t);
VEC_DEFINE(rec_shape_states, rec_shape_state_t);

struct rec_writer {
    rec_buffer_t columns[REC_COLUMNS];
    uint64_t objects;    /* begun, in all */
    uint64_t references; /* not NULL, in all */
    uint32_t frontier;
    uint32_t chunk;         /* number of the chunk being filled, from 1 */
    uint32_t count;         /* objects in it, the current one among them */
    uint32_t chunk_objects; /* a chunk has at most; tests make it smaller */
    size_t references_most; /* bytes of them that a chunk holds; tests make it smaller */
    uint32_t count_most;    /* 0: the chunk is full of references or values */
    uint32_t shape;         /* of the current object */
    uint32_t fixed;         /* of that shape */
    uint64_t edges;         /* given for the current object */
    uint8_t has_repeat;     /* of that shape */
    uint8_t expect_class;   /* the next edge is labelled CLASS */
    uint8_t drop_edges;     /* the current object has more than a section holds */
    rec_shape_states_t shapes;

    uint32_t chunk_first, chunk_frontier;
    uint64_t chunk_references;
    uint32_t buffer_next, buffer_last; /* places in the chunk */
    uint32_t value_next, value_last;
    uint32_t shapes_used;    /* one more than the highest shape of an object */
    uint32_t shapes_written; /* the others stand in shape_bodies from shape_at on */
    uint32_t string_count;
    uint32_t sequence;
    uint64_t side_bytes; /* META, STRINGS, SHAPES so far */
    size_t shape_at;
    rec_bytes_t meta, strings, shape_bodies, scratch, out;
    map_t string_numbers;    /* by hash */
    struct rec_table *table; /* mapped when the first table is begun */
    uint8_t ended;           /* rec_append: objects or an END are there */
    void *zstd, *zstd_memory;
    size_t zstd_bytes;
    int level, fd, status;
    err_t error;
};

int rec_fail(rec_writer_t *w, int code, const char *what);
int rec_write(rec_writer_t *w, const uint8_t *bytes, size_t n);
size_t rec_fold(rec_writer_t *w, size_t at, const uint8_t *bytes, size_t n, uint32_t *as_is);
size_t rec_clean(rec_writer_t *w, const char *text, size_t n);
void rec_section_write(rec_writer_t *w, enum rec_section_kind kind, unsigned flags, size_t payload,
                       size_t raw_bytes, size_t stored_bytes);
void rec_meta_flush(rec_writer_t *w);
int rec_open_at(rec_writer_t **out, int fd, int level, const uint64_t *captured_ns, err_t *e);
void rec_abandon(rec_writer_t *w);
void rec_table_free(rec_writer_t *w);
void rec_chunk_flush(rec_writer_t *w);
void rec_object_mend(rec_writer_t *w);
void rec_misuse(rec_writer_t *w, const char *what);
int rec_edge_room(rec_writer_t *w);
int rec_edge_class(rec_writer_t *w, uint32_t target);

static inline void rec_put(rec_buffer_t *buffer, uint64_t v) {
    if (__builtin_expect(v < 0x80, 1)) {
        *buffer->at++ = (uint8_t)v;
    } else {
        buffer->at = varint_put(buffer->at, v);
    }
}

/* Ends the current object, if there is one. */
static inline void rec_object_end(rec_writer_t *w) {
    if (w->edges != w->fixed) {
        if (w->edges < w->fixed || !w->has_repeat) rec_object_mend(w);
    }
    if (w->has_repeat) rec_put(&w->columns[REC_COL_REPEATS], w->edges - w->fixed);
    w->has_repeat = 0;
    w->fixed = 0;
    w->edges = 0;
}

static inline void rec_object(rec_writer_t *w, uint32_t shape, uint64_t address, uint64_t size,
                              uint64_t refcount, unsigned flags) {
    rec_object_end(w);
    if (w->count >= w->count_most) rec_chunk_flush(w);
    if (shape >= w->shapes.count || w->objects == LOWTIDE_NONE) {
        rec_misuse(w, shape >= w->shapes.count ? "an object has a shape that was not added"
                                               : "there are more than 4,294,967,295 objects");
        return;
    }
    rec_shape_state_t *s = w->shapes.at + shape;
    uint64_t before = s->chunk == w->chunk ? s->address : 0;
    s->address = address >> 3;
    s->chunk = w->chunk;
    rec_put(&w->columns[REC_COL_SHAPE], shape);
    rec_put(&w->columns[REC_COL_ADDRESS], zigzag_encode((int64_t)(s->address - before)));
    rec_put(&w->columns[REC_COL_SIZE], size);
    rec_put(&w->columns[REC_COL_REFCOUNT], refcount);
    *w->columns[REC_COL_FLAGS].at++ = (uint8_t)(flags & 0x7f);
    if (shape >= w->shapes_used) w->shapes_used = shape + 1;
    w->shape = shape;
    w->fixed = s->fixed;
    w->has_repeat = s->has_repeat;
    w->expect_class = s->class_first;
    w->drop_edges = 0;
    w->count++;
    w->objects++;
    if (w->frontier < w->objects) w->frontier = (uint32_t)w->objects;
}

static inline void rec_edge(rec_writer_t *w, uint32_t target) {
    rec_buffer_t *out = &w->columns[REC_COL_REFERENCES];
    if (out->at >= out->limit && rec_edge_room(w)) return;
    w->edges++;
    if (w->expect_class && rec_edge_class(w, target)) return;
    if (target == REC_NULL) {
        *out->at++ = 0;
        return;
    }
    w->references++;
    if (target == w->frontier) {
        w->frontier++;
        *out->at++ = 1;
        return;
    }
    if (target > w->frontier) {
        w->frontier = target + 1;
        rec_put(out, ((uint64_t)target << 1 | 1) + 2);
        return;
    }
    uint64_t back = w->frontier - 1 - target;
    rec_put(out, (target < back ? (uint64_t)target << 1 | 1 : back << 1) + 2);
}

#endif
