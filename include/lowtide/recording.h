/* Reading a lowtide recording (.tide). The bytes are described in docs/format.md.
 *
 * A recording is mapped, its sections are checked once at opening, and objects are decoded a chunk
 * (an OBJECTS section, up to 65,536 objects) at a time. Everything in the file is untrusted:
 * whatever this header hands out has been validated, so ids are below lowtide_objects(), shapes
 * below lowtide_shapes(), strings below the number of strings.
 *
 * Threads: one recording may be read by several threads once it is open, each with its own chunk
 * buffer; lowtide_object_at() uses a cache of its own and belongs to one thread at a time. Errors: 0
 * or a negative errno; -EBADMSG: not a recording, or damaged; -ENOTSUP: newer than this reader;
 * `error` then holds one line.
 */
#ifndef LOWTIDE_RECORDING_H
#define LOWTIDE_RECORDING_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LOWTIDE_NONE UINT32_MAX /* no object, no string */

typedef struct lowtide_recording lowtide_recording;

typedef struct lowtide_error {
    char text[480]; /* one line: cause, then mend */
} lowtide_error;

enum lowtide_shape_kind {
    LOWTIDE_SHAPE_OBJECT,
    LOWTIDE_SHAPE_RUNTIME,
    LOWTIDE_SHAPE_INTERPRETER,
    LOWTIDE_SHAPE_THREAD,
    LOWTIDE_SHAPE_FRAME,
    LOWTIDE_SHAPE_OTHER
};

enum lowtide_shape_flag {
    LOWTIDE_SHAPE_HEAP_TYPE = 1,
    LOWTIDE_SHAPE_HAS_GC = 2,
    LOWTIDE_SHAPE_IS_TYPE = 4,
    LOWTIDE_SHAPE_IS_MODULE = 8,
    LOWTIDE_SHAPE_IS_NAMESPACE = 16
};

enum lowtide_label_kind {
    LOWTIDE_CLASS = 1,
    LOWTIDE_ATTRIBUTE,
    LOWTIDE_INDEX,
    LOWTIDE_KEY,
    LOWTIDE_VALUE,
    LOWTIDE_ELEMENT,
    LOWTIDE_LOCAL,
    LOWTIDE_STACK,
    LOWTIDE_CELL,
    LOWTIDE_FIELD,
    LOWTIDE_REFERENCE,
    LOWTIDE_ROOT
};

typedef struct lowtide_label {
    uint8_t
        kind; /* lowtide_label_kind; a kind from a newer minor version reads as LOWTIDE_REFERENCE */
    uint8_t borrowed; /* 1: does not count in the target's reference count */
    uint32_t name;    /* string, or LOWTIDE_NONE */
} lowtide_label;

typedef struct lowtide_shape {
    uint8_t kind;   /* lowtide_shape_kind */
    uint32_t flags; /* lowtide_shape_flag */
    uint32_t type;  /* id of the type object, or LOWTIDE_NONE */
    uint32_t name;
    uint32_t module; /* string, or LOWTIDE_NONE */
    uint32_t fixed_count;
    const lowtide_label *fixed;
    uint32_t repeat_count; /* 0, 1 or 2 */
    lowtide_label repeat[2];
} lowtide_shape;

enum lowtide_object_flag {
    LOWTIDE_TRACKED = 1,
    LOWTIDE_FROZEN = 2,
    LOWTIDE_SKIPPED = 4,
    LOWTIDE_FINALIZED = 8
};

enum lowtide_value_kind {
    LOWTIDE_VALUE_NONE,
    LOWTIDE_VALUE_STR,
    LOWTIDE_VALUE_BYTES,
    LOWTIDE_VALUE_INT,
    LOWTIDE_VALUE_BIG_INT,
    LOWTIDE_VALUE_FLOAT,
    LOWTIDE_VALUE_NAME,
    LOWTIDE_VALUE_BOOL
};

typedef struct lowtide_value {
    uint8_t kind;
    uint64_t length; /* STR: code points; BYTES: bytes; BIG_INT: bits. The whole value's, not the
                        prefix's. */
    const char
        *text; /* STR, BYTES, NAME: text_bytes of it, not zero-terminated, points into the chunk */
    uint32_t text_bytes;
    int64_t integer; /* INT, BOOL */
    double real;     /* FLOAT */
} lowtide_value;

/* Which columns lowtide_chunk_load decodes. SHAPE comes always. */
enum lowtide_columns {
    LOWTIDE_COL_ADDRESS = 1,
    LOWTIDE_COL_SIZE = 2,
    LOWTIDE_COL_REFCOUNT = 4,
    LOWTIDE_COL_FLAGS = 8,
    LOWTIDE_COL_EDGES = 16,
    LOWTIDE_COL_BUFFERS = 32,
    LOWTIDE_COL_VALUES = 64,
    LOWTIDE_COL_ALL = 127
};

/* A decoded chunk; arrays have `count` elements and belong to the chunk buffer. Columns not asked
 * for are NULL. */
typedef struct lowtide_chunk {
    uint32_t first, count;
    const uint32_t *shape;
    const uint64_t *address;
    const uint64_t *size;
    const uint64_t *refcount;   /* 0: immortal */
    const uint8_t *flags;       /* lowtide_object_flag */
    const uint32_t *edge_begin; /* count + 1: edges of object i stand at edges[edge_begin[i] …
                                   edge_begin[i+1]) */
    const uint32_t
        *edges; /* target id or LOWTIDE_NONE (NULL); fixed labels first, then the repeated */
    const uint64_t *buffers; /* bytes owned beyond size */
    const lowtide_value *values;
    void *impl;
} lowtide_chunk;

int lowtide_open(const char *path, lowtide_recording **out, lowtide_error *error);
/* Over bytes that the caller keeps alive and unchanged until lowtide_close. */
int lowtide_open_memory(const void *bytes, size_t n, lowtide_recording **out, lowtide_error *error);
void lowtide_close(lowtide_recording *rec);

/* NULL when the recording is whole, else one line that says where it was cut and what is there. */
const char *lowtide_cut(const lowtide_recording *rec);
const char *lowtide_meta(const lowtide_recording *rec, const char *key); /* NULL when absent */
/* The i-th meta pair, 0 … ; returns 0 when there is no such pair, else 1. */
int lowtide_meta_at(const lowtide_recording *rec, uint32_t i, const char **key, const char **value);
uint64_t lowtide_file_bytes(const lowtide_recording *rec);
uint64_t lowtide_captured_ns(const lowtide_recording *rec);

uint32_t lowtide_objects(const lowtide_recording *rec); /* ids that edges may name; of a cut
                                                           recording, only those decoded */
uint64_t lowtide_references(
    const lowtide_recording *rec); /* not NULL ones; exact when whole, else counted */
uint32_t
lowtide_reached(const lowtide_recording *rec); /* first id found on the collector's lists alone */
uint32_t lowtide_shapes(const lowtide_recording *rec);
const lowtide_shape *lowtide_shape_at(const lowtide_recording *rec, uint32_t shape);
/* Zero-terminated UTF-8; "" for LOWTIDE_NONE. */
const char *lowtide_string(const lowtide_recording *rec, uint32_t string);

uint32_t lowtide_chunks(const lowtide_recording *rec);
/* The buffer grows as needed and is used again; start with NULL, end with lowtide_chunk_free.
 * An edge to an object that a cut recording lost reads as LOWTIDE_NONE. */
int lowtide_chunk_load(const lowtide_recording *rec, uint32_t chunk, unsigned columns,
                       lowtide_chunk **buffer, lowtide_error *error);
void lowtide_chunk_free(lowtide_chunk *buffer);
/* Tells the kernel that the mapped pages of the chunks are not needed just now (they are read again
 * when touched). */
void lowtide_release_pages(const lowtide_recording *rec);

/* One object by id, decoded through a small cache of chunks. Pointers hold until the next call. */
typedef struct lowtide_object {
    uint32_t id, shape;
    uint64_t address, size, refcount, buffers;
    uint8_t flags;
    const uint32_t *edges;
    uint32_t edge_count;
    lowtide_value value;
} lowtide_object;
int lowtide_object_at(lowtide_recording *rec, uint32_t id, lowtide_object *out,
                      lowtide_error *error);

/* The label of an object's k-th reference: fixed, or repeated. `index` gets the position among the
 * repeated references (for pairs: of the pair), or 0. */
lowtide_label lowtide_label_at(const lowtide_shape *shape, uint32_t k, uint32_t *index);

/* Tables: everything of a recording that is not the heap (docs/format.md lists them). A recording
 * may have no heap: then lowtide_objects is 0. */

/* The i-th table's name, in the order of their first rows; NULL when there are no more. */
const char *lowtide_table_name(const lowtide_recording *rec, uint32_t i);

typedef struct lowtide_table lowtide_table;
/* Decodes a table. One that is not there has no rows and no columns, which is no error. It must be
 * freed before the recording is closed. */
int lowtide_table_load(const lowtide_recording *rec, const char *name, lowtide_table **out,
                       lowtide_error *error);
void lowtide_table_free(lowtide_table *table);
uint32_t lowtide_table_rows(const lowtide_table *table);
/* LOWTIDE_NONE when the table has no such column; what follows then reads 0 or "". */
uint32_t lowtide_table_column(const lowtide_table *table, const char *name);
/* The i-th column's name, NULL when there are no more; *text: whether it holds texts. */
const char *lowtide_table_column_name(const lowtide_table *table, uint32_t i, int *text);
/* 0 where row or column is not there, or holds texts. Signed columns: cast to int64_t. */
uint64_t lowtide_table_number(const lowtide_table *table, uint32_t column, uint32_t row);
/* Zero-terminated UTF-8; "" where row or column is not there, or holds numbers. */
const char *lowtide_table_text(const lowtide_table *table, uint32_t column, uint32_t row);

/* The i-th nested recording: its name, and its bytes for lowtide_open_memory, good until this one is
 * closed. 0 when there are no more, else 1. */
int lowtide_nested_at(const lowtide_recording *rec, uint32_t i, const char **name,
                      const void **bytes, size_t *n);

#ifdef __cplusplus
}
#endif
#endif
