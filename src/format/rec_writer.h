/* Writing a recording: a stream of objects in id order (docs/format.md says which order that is).
 *
 * Made for the forked child of a target: no malloc, no lock, no stdio; memory comes from mem_map,
 * output goes to a descriptor by write(2). Errors stick: after one, every call does nothing and
 * rec_close returns the first. One thread.
 *
 *     rec_open(&w, fd, …);
 *     rec_meta(w, "pid", "4711");
 *     for each object, ids 0, 1, 2 …:
 *         rec_object(w, shape, address, size, refcount, flags);      begins the next object
 *         rec_edge(w, target) …                                      its references in label order,
 * REC_NULL for none rec_buffer(w, bytes); rec_value_…(w, …);                   at most once each
 *     rec_close(w, reached, skipped);
 *
 * The writer keeps the frontier, counts repeats from the edges given, cuts chunks, and writes
 * strings, shapes and meta before the chunk that uses them. A shape may be added at any time before
 * the object that has it; its type id may be given later, while the object is being written
 * (rec_shape_type).
 */
#ifndef LOWTIDE_FORMAT_REC_WRITER_H
#define LOWTIDE_FORMAT_REC_WRITER_H

#include "base/err.h"
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
 * on the collector's lists alone. */
int rec_close(rec_writer_t *w, uint32_t reached, uint64_t skipped, err_t *e);
/* 0, or the first error so far: ask now and then, to stop early on a full disk. */
int rec_status(const rec_writer_t *w);

void rec_meta(rec_writer_t *w, const char *key, const char *value);
/* Returns the string's number. Equal texts are given one number (a small table; not every duplicate
 * need be found). Invalid UTF-8 is replaced. */
uint32_t rec_string(rec_writer_t *w, const char *text, size_t n);
uint32_t rec_shape_add(rec_writer_t *w, const rec_shape_t *shape);
void rec_shape_type(rec_writer_t *w, uint32_t shape, uint32_t type_id);

void rec_object(rec_writer_t *w, uint32_t shape, uint64_t address, uint64_t size, uint64_t refcount,
                unsigned flags);
void rec_edge(rec_writer_t *w, uint32_t target);
void rec_buffer(rec_writer_t *w, uint64_t bytes);
void rec_value_text(rec_writer_t *w, int kind, uint64_t length, const char *text, size_t n);
void rec_value_int(rec_writer_t *w, int kind, int64_t v); /* INT, BOOL */
void rec_value_big_int(rec_writer_t *w, uint64_t bits);
void rec_value_float(rec_writer_t *w, double v);
/* Objects and references written so far. */
uint64_t rec_objects(const rec_writer_t *w);
uint64_t rec_references(const rec_writer_t *w);

#endif
