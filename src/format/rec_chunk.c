#include "base/mem.h"
#include "base/varint.h"
#include "format/rec_reader.h"
#include "format/rec_utf8.h"

#include <errno.h>
#include <string.h>

/* Numbers are read VARINT_MOST_BYTES wide at a time, so a column needs that much after its end. */
enum { REC_SLACK_BYTES = 16 };
static_assert((int)REC_SLACK_BYTES >= (int)VARINT_MOST_BYTES, "a number at the very end");

/* Memory that grows and is used again, one for each array of a chunk. */
typedef struct rec_slab {
    void *at;
    size_t bytes;
} rec_slab_t;

enum rec_slab_name {
    REC_SLAB_SHAPE,
    REC_SLAB_ADDRESS,
    REC_SLAB_SIZE,
    REC_SLAB_REFCOUNT,
    REC_SLAB_FLAGS,
    REC_SLAB_EDGE_BEGIN,
    REC_SLAB_EDGES,
    REC_SLAB_BUFFERS,
    REC_SLAB_VALUES,
    REC_SLAB_TEXT,   /* the raw values column: values point into it */
    REC_SLAB_RAW,    /* any other raw column, while it is decoded */
    REC_SLAB_BEFORE, /* by shape: the address of its last object, in units of 8 */
    REC_SLABS
};

typedef struct rec_chunk_buffer {
    lowtide_chunk chunk; /* first: what callers hold */
    rec_slab_t slabs[REC_SLABS];
    rec_unfold_t zstd;
} rec_chunk_buffer_t;

/* One chunk being decoded. */
typedef struct rec_decode {
    const lowtide_recording *rec;
    rec_chunk_buffer_t *buffer;
    rec_head_t head;
    uint64_t references; /* not NULL, found */
    const char *why;
} rec_decode_t;

static int rec_bad(rec_decode_t *d, const char *reason) {
    d->why = reason;
    return -EBADMSG;
}

/* Room for `count` elements of `size` bytes, not cleared. */
static void *rec_slab(rec_decode_t *d, enum rec_slab_name name, size_t count, size_t size) {
    rec_slab_t *slab = &d->buffer->slabs[name];
    size_t bytes = count * size;
    if (slab->at && bytes <= slab->bytes) return slab->at;
    /* Unmapping first: what is in it is of no use, and copying it would cost. */
    mem_unmap(slab->at, slab->bytes);
    bytes += bytes / 8 + 4096;
    slab->at = mem_map(bytes);
    slab->bytes = slab->at ? bytes : 0;
    return slab->at;
}

int rec_head_read(const uint8_t *p, const uint8_t *end, rec_head_t *head, const char **why) {
    uint64_t first, count, frontier, references, columns, raw, stored, total = 0;
    *why = "a chunk's front makes no sense";
    if (!(p = varint_get(p, end, &first)) || !(p = varint_get(p, end, &count)) ||
        !(p = varint_get(p, end, &frontier)) || !(p = varint_get(p, end, &references)) ||
        !(p = varint_get(p, end, &columns))) {
        return -EBADMSG;
    }
    if (first > UINT32_MAX || !count || count > REC_CHUNK_OBJECTS || frontier > UINT32_MAX ||
        columns < REC_COLUMNS) {
        return -EBADMSG;
    }
    *head = (rec_head_t){.first = (uint32_t)first,
                         .count = (uint32_t)count,
                         .frontier = frontier,
                         .references = references};
    for (uint64_t i = 0; i < columns; i++) {
        if (!(p = varint_get(p, end, &raw)) || !(p = varint_get(p, end, &stored))) return -EBADMSG;
        int bulk = i == REC_COL_REFERENCES || i >= REC_COL_VALUES;
        uint64_t most = bulk ? REC_SECTION_BYTES_MOST : count * 2 * VARINT_MOST_BYTES;
        total += stored;
        if (stored > raw || raw > most || total > (uint64_t)(end - p)) return -EBADMSG;
        if (i < REC_COLUMNS) {
            head->column[i].raw = (uint32_t)raw;
            head->column[i].stored = (uint32_t)stored;
        }
    }
    if (total > (uint64_t)(end - p) || references > head->column[REC_COL_REFERENCES].raw + count) {
        return -EBADMSG;
    }
    for (int i = 0; i < REC_COLUMNS; p += head->column[i++].stored) head->column[i].at = p;
    *why = NULL;
    return 0;
}

/* The raw bytes of a column, readable REC_SLACK_BYTES beyond their end. */
static int rec_column(rec_decode_t *d, enum rec_column name, const uint8_t **p,
                      const uint8_t **end) {
    const uint8_t *at = d->head.column[name].at;
    size_t raw = d->head.column[name].raw, stored = d->head.column[name].stored;
    const uint8_t *file_end = d->rec->bytes + d->rec->size;
    if (raw > stored || (size_t)(file_end - at) < raw + REC_SLACK_BYTES) {
        enum rec_slab_name slab = name == REC_COL_VALUES ? REC_SLAB_TEXT : REC_SLAB_RAW;
        uint8_t *copy = rec_slab(d, slab, raw + REC_SLACK_BYTES, 1);
        if (!copy) return -ENOMEM;
        if (raw > stored) {
            int status = rec_unfold(&d->buffer->zstd, copy, raw, at, stored);
            if (status) return status == -ENOMEM ? status : rec_bad(d, "a column does not unfold");
        } else {
            memcpy(copy, at, raw);
        }
        memset(copy + raw, 0, REC_SLACK_BYTES);
        at = copy;
    }
    *p = at;
    *end = at + raw;
    return 0;
}

static int rec_column_end(rec_decode_t *d, const uint8_t *p, const uint8_t *end) {
    return p == end ? 0 : rec_bad(d, "a column's length does not fit its objects");
}

/* n numbers, mostly of one byte: eight of those are known by one look. NULL when they go beyond the
 * end or 64 bits. */
#define REC_NUMBERS(name, T)                                                                       \
    static const uint8_t *name(const uint8_t *p, const uint8_t *end, T *out, uint32_t n) {         \
        for (uint32_t i = 0; i < n;) {                                                             \
            uint64_t word;                                                                         \
            memcpy(&word, p, sizeof word);                                                         \
            if (!(word & UINT64_C(0x8080808080808080)) && n - i >= 8 && end - p >= 8) {            \
                for (int k = 0; k < 8; k++) out[i + (uint32_t)k] = p[k];                           \
                i += 8;                                                                            \
                p += 8;                                                                            \
                continue;                                                                          \
            }                                                                                      \
            do {                                                                                   \
                uint64_t v = *p;                                                                   \
                if (p >= end) return NULL;                                                         \
                if (v < 0x80) {                                                                    \
                    p++;                                                                           \
                } else if (p[1] < 0x80) {                                                          \
                    v = (v & 0x7f) | (uint64_t)p[1] << 7;                                          \
                    p += 2;                                                                        \
                } else if (!(p = varint_get_wide(p, &v))) {                                        \
                    return NULL;                                                                   \
                }                                                                                  \
                if (v > (T)-1) return NULL;                                                        \
                out[i++] = (T)v;                                                                   \
            } while (i < n && (i & 7));                                                            \
        }                                                                                          \
        return p;                                                                                  \
    }

REC_NUMBERS(rec_numbers_u32, uint32_t)
REC_NUMBERS(rec_numbers_u64, uint64_t)

static int rec_shapes_load(rec_decode_t *d) {
    lowtide_chunk *chunk = &d->buffer->chunk;
    const uint8_t *p, *end;
    int status = rec_column(d, REC_COL_SHAPE, &p, &end);
    if (status) return status;
    uint32_t *shape = rec_slab(d, REC_SLAB_SHAPE, chunk->count, sizeof *shape);
    if (!shape) return -ENOMEM;
    p = rec_numbers_u32(p, end, shape, chunk->count);
    if (!p) return rec_bad(d, "a column ends too early");
    size_t highest = 0;
    for (uint32_t i = 0; i < chunk->count; i++) {
        if (shape[i] > highest) highest = shape[i];
    }
    if (highest >= d->rec->shapes.count) return rec_bad(d, "an object has an unknown shape");
    chunk->shape = shape;
    return rec_column_end(d, p, end);
}

static int rec_numbers_load(rec_decode_t *d, enum rec_column column, enum rec_slab_name slab,
                            const uint64_t **out) {
    uint32_t count = d->buffer->chunk.count;
    const uint8_t *p, *end;
    int status = rec_column(d, column, &p, &end);
    if (status) return status;
    uint64_t *numbers = rec_slab(d, slab, count, sizeof *numbers);
    if (!numbers) return -ENOMEM;
    p = rec_numbers_u64(p, end, numbers, count);
    if (!p) return rec_bad(d, "a column ends too early");
    *out = numbers;
    return rec_column_end(d, p, end);
}

/* Differences from the last object of the same shape become addresses, in place. */
static int rec_addresses_load(rec_decode_t *d) {
    lowtide_chunk *chunk = &d->buffer->chunk;
    const uint32_t *shape = chunk->shape;
    int status = rec_numbers_load(d, REC_COL_ADDRESS, REC_SLAB_ADDRESS, &chunk->address);
    if (status) return status;
    uint64_t *before = rec_slab(d, REC_SLAB_BEFORE, d->rec->shapes.count, sizeof *before);
    if (!before) return -ENOMEM;
    uint64_t *address = d->buffer->slabs[REC_SLAB_ADDRESS].at;
    for (uint32_t i = 0; i < chunk->count; i++) {
        uint64_t *at = before + shape[i];
        *at += (uint64_t)zigzag_decode(address[i]);
        address[i] = *at << 3;
    }
    /* Back to zero for the next chunk, without touching shapes that this one does not have. */
    for (uint32_t i = 0; i < chunk->count; i++) before[shape[i]] = 0;
    return 0;
}

static int rec_flags_load(rec_decode_t *d) {
    lowtide_chunk *chunk = &d->buffer->chunk;
    const uint8_t *p, *end;
    int status = rec_column(d, REC_COL_FLAGS, &p, &end);
    if (status) return status;
    uint8_t *flags = rec_slab(d, REC_SLAB_FLAGS, chunk->count, sizeof *flags);
    if (!flags) return -ENOMEM;
    for (uint32_t i = 0; i < chunk->count; i++) {
        uint64_t v = *p;
        if (p >= end) return rec_bad(d, "a column ends too early");
        if (v < 0x80) {
            p++;
        } else if (!(p = varint_get_wide(p, &v))) {
            return rec_bad(d, "a column ends too early");
        }
        flags[i] = (uint8_t)v;
    }
    chunk->flags = flags;
    return rec_column_end(d, p, end);
}

/* Where each object's references begin, from its shape and its repeats. */
static int rec_edges_lay_out(rec_decode_t *d) {
    lowtide_chunk *chunk = &d->buffer->chunk;
    const rec_code_t *codes = d->rec->codes.at;
    const uint8_t *p, *end;
    int status = rec_column(d, REC_COL_REPEATS, &p, &end);
    if (status) return status;
    uint32_t *begin = rec_slab(d, REC_SLAB_EDGE_BEGIN, (size_t)chunk->count + 1, sizeof *begin);
    if (!begin) return -ENOMEM;
    /* Each stored reference takes a byte, and each object hides one at most. */
    uint64_t total = 0, most = (uint64_t)d->head.column[REC_COL_REFERENCES].raw + chunk->count;
    for (uint32_t i = 0; i < chunk->count; i++) {
        const rec_code_t *code = codes + chunk->shape[i];
        begin[i] = (uint32_t)total;
        total += code->fixed;
        if (code->has_repeat) {
            uint64_t repeats = *p;
            if (p >= end) return rec_bad(d, "a column ends too early");
            if (repeats < 0x80) {
                p++;
            } else if (!(p = varint_get_wide(p, &repeats)) || repeats > most) {
                return rec_bad(d, "an object has more references than its chunk");
            }
            total += repeats;
        }
        if (total > most) return rec_bad(d, "an object has more references than its chunk");
    }
    begin[chunk->count] = (uint32_t)total;
    chunk->edge_begin = begin;
    return rec_column_end(d, p, end);
}

/* A reference to what the recording does not hold: lost where it was cut, else a lie. */
static uint32_t rec_edge_beyond(rec_decode_t *d) {
    if (d->rec->whole) d->why = "a reference goes to an object that is not there";
    return LOWTIDE_NONE;
}

static int rec_edges_load(rec_decode_t *d) {
    lowtide_chunk *chunk = &d->buffer->chunk;
    const uint8_t *p, *end;
    int status = rec_edges_lay_out(d);
    if (!status) status = rec_column(d, REC_COL_REFERENCES, &p, &end);
    if (status) return status;
    const uint32_t *begin = chunk->edge_begin, *shape = chunk->shape;
    uint32_t *edges = rec_slab(d, REC_SLAB_EDGES, (size_t)begin[chunk->count] + 1, sizeof *edges);
    if (!edges) return -ENOMEM;

    uint64_t frontier = d->head.frontier, none = 0;
    uint32_t objects = d->rec->objects, *at = edges;
    for (uint32_t i = 0; i < chunk->count; i++) {
        const rec_code_t *code = d->rec->codes.at + shape[i];
        uint32_t *stop = edges + begin[i + 1];
        if (frontier <= (uint64_t)chunk->first + i) frontier = (uint64_t)chunk->first + i + 1;
        if (code->class_hidden) {
            if (code->type >= frontier) frontier = (uint64_t)code->type + 1;
            *at++ = code->type < objects ? code->type : rec_edge_beyond(d);
        }
        while (at < stop) {
            uint64_t v = *p, id;
            if (p >= end) return rec_bad(d, "a column ends too early");
            if (v < 0x80) {
                p++;
            } else if (!(p = varint_get_wide(p, &v))) {
                return rec_bad(d, "a column ends too early");
            }
            if (v == 1) {
                id = frontier++;
            } else if (v == 0) {
                *at++ = LOWTIDE_NONE;
                none++;
                continue;
            } else if ((v -= 2) & 1) {
                id = v >> 1;
                if (id >= frontier) frontier = id + 1;
            } else {
                id = frontier - 1 - (v >> 1);
            }
            *at++ = id < objects ? (uint32_t)id : rec_edge_beyond(d);
        }
    }
    chunk->edges = edges;
    d->references = begin[chunk->count] - none;
    if (d->why) return -EBADMSG;
    if (d->references != d->head.references)
        return rec_bad(d, "a chunk's references do not add up");
    return rec_column_end(d, p, end);
}

/* The next entry of a sparse column: its place, or `count` at the end. */
static int rec_sparse_next(rec_decode_t *d, const uint8_t **p, const uint8_t *end, uint32_t *place,
                           int *more) {
    uint64_t distance;
    if (*p == end) {
        *more = 0;
        return 0;
    }
    *p = varint_get(*p, end, &distance);
    if (!*p || (distance == 0 && *more > 1) || distance >= d->buffer->chunk.count - *place) {
        return rec_bad(d, "a sparse column leaves its chunk");
    }
    *place += (uint32_t)distance;
    *more = 2;
    return 0;
}

static int rec_buffers_load(rec_decode_t *d) {
    lowtide_chunk *chunk = &d->buffer->chunk;
    const uint8_t *p, *end;
    int status = rec_column(d, REC_COL_BUFFERS, &p, &end);
    if (status) return status;
    uint64_t *buffers = rec_slab(d, REC_SLAB_BUFFERS, chunk->count, sizeof *buffers);
    if (!buffers) return -ENOMEM;
    memset(buffers, 0, chunk->count * sizeof *buffers);
    chunk->buffers = buffers;
    uint32_t place = 0;
    for (int more = 1;;) {
        status = rec_sparse_next(d, &p, end, &place, &more);
        if (status || !more) return status;
        p = varint_get(p, end, &buffers[place]);
        if (!p) return rec_bad(d, "a column ends too early");
    }
}

static const uint8_t *rec_text_load(const uint8_t *p, const uint8_t *end, lowtide_value *value) {
    uint64_t n;
    p = varint_get(p, end, &n);
    if (!p || n > (size_t)(end - p)) return NULL;
    if (value->kind != LOWTIDE_VALUE_BYTES && !utf8_is_valid((const char *)p, n)) return NULL;
    value->text = (const char *)p;
    value->text_bytes = (uint32_t)n;
    return p + n;
}

static const uint8_t *rec_value_load(const uint8_t *p, const uint8_t *end, lowtide_value *value) {
    uint64_t kind, v;
    p = varint_get(p, end, &kind);
    if (!p) return NULL;
    value->kind = kind <= LOWTIDE_VALUE_BOOL ? (uint8_t)kind : LOWTIDE_VALUE_NONE;
    switch (kind) {
    case LOWTIDE_VALUE_STR:
    case LOWTIDE_VALUE_BYTES:
        p = varint_get(p, end, &value->length);
        return p ? rec_text_load(p, end, value) : NULL;
    case LOWTIDE_VALUE_NAME:
        return rec_text_load(p, end, value);
    case LOWTIDE_VALUE_INT:
        p = varint_get(p, end, &v);
        if (p) value->integer = zigzag_decode(v);
        return p;
    case LOWTIDE_VALUE_BIG_INT:
        return varint_get(p, end, &value->length);
    case LOWTIDE_VALUE_FLOAT:
        if (end - p < (ptrdiff_t)sizeof value->real) return NULL;
        memcpy(&value->real, p, sizeof value->real);
        return p + sizeof value->real;
    case LOWTIDE_VALUE_BOOL:
        p = varint_get(p, end, &v);
        value->integer = p && v != 0;
        return p;
    case LOWTIDE_VALUE_NONE:
        return NULL;
    default: /* from a newer minor version: a byte count and that many bytes */
        p = varint_get(p, end, &v);
        return p && v <= (size_t)(end - p) ? p + v : NULL;
    }
}

static int rec_values_load(rec_decode_t *d) {
    lowtide_chunk *chunk = &d->buffer->chunk;
    const uint8_t *p, *end;
    int status = rec_column(d, REC_COL_VALUES, &p, &end);
    if (status) return status;
    lowtide_value *values = rec_slab(d, REC_SLAB_VALUES, chunk->count, sizeof *values);
    if (!values) return -ENOMEM;
    memset(values, 0, chunk->count * sizeof *values);
    chunk->values = values;
    uint32_t place = 0;
    for (int more = 1;;) {
        status = rec_sparse_next(d, &p, end, &place, &more);
        if (status || !more) return status;
        p = rec_value_load(p, end, &values[place]);
        if (!p) return rec_bad(d, "a value makes no sense");
    }
}

static int rec_columns_load(rec_decode_t *d, unsigned columns) {
    lowtide_chunk *chunk = &d->buffer->chunk;
    int status = rec_shapes_load(d);
    if (!status && (columns & LOWTIDE_COL_ADDRESS)) status = rec_addresses_load(d);
    if (!status && (columns & LOWTIDE_COL_SIZE)) {
        status = rec_numbers_load(d, REC_COL_SIZE, REC_SLAB_SIZE, &chunk->size);
    }
    if (!status && (columns & LOWTIDE_COL_REFCOUNT)) {
        status = rec_numbers_load(d, REC_COL_REFCOUNT, REC_SLAB_REFCOUNT, &chunk->refcount);
    }
    if (!status && (columns & LOWTIDE_COL_FLAGS)) status = rec_flags_load(d);
    if (!status && (columns & LOWTIDE_COL_EDGES)) status = rec_edges_load(d);
    if (!status && (columns & LOWTIDE_COL_BUFFERS)) status = rec_buffers_load(d);
    if (!status && (columns & LOWTIDE_COL_VALUES)) status = rec_values_load(d);
    return status;
}

static int rec_chunk_decode(rec_decode_t *d, uint32_t number, unsigned columns,
                            lowtide_chunk **buffer) {
    const rec_place_t *place = d->rec->chunks.at + number;
    const uint8_t *payload = d->rec->bytes + place->payload;
    if (!*buffer) {
        rec_chunk_buffer_t *fresh = mem_map(sizeof *fresh);
        if (!fresh) return -ENOMEM;
        fresh->chunk.impl = fresh;
        *buffer = &fresh->chunk;
    }
    d->buffer = (*buffer)->impl;
    d->buffer->chunk =
        (lowtide_chunk){.first = place->first, .count = place->count, .impl = d->buffer};
    int status = rec_head_read(payload, payload + place->bytes, &d->head, &d->why);
    return status ? status : rec_columns_load(d, columns);
}

int lowtide_chunk_load(const lowtide_recording *rec, uint32_t chunk, unsigned columns,
                       lowtide_chunk **buffer, lowtide_error *error) {
    if (chunk >= rec->chunks.count) {
        return err_set(rec_err(error), -EINVAL, "%s has no chunk %u", rec->name, chunk);
    }
    const rec_place_t *place = rec->chunks.at + chunk;
    rec_decode_t decode = {.rec = rec};
    int status = rec_chunk_decode(&decode, chunk, columns, buffer);
    if (status == -EBADMSG) {
        return err_set(rec_err(error), status, "%s is damaged: %s (objects %u to %u)", rec->name,
                       decode.why, place->first, place->first + place->count - 1);
    }
    if (status) return err_sys(rec_err(error), status, "cannot read %s", rec->name);
    return 0;
}

int rec_references_count(lowtide_recording *rec) {
    lowtide_chunk *buffer = NULL;
    int status = 0;
    for (size_t i = 0; i < rec->chunks.count; i++) {
        rec_decode_t decode = {.rec = rec};
        status = rec_chunk_decode(&decode, (uint32_t)i, LOWTIDE_COL_ALL, &buffer);
        if (status == -EBADMSG) {
            /* References to what is gone now are counted anew, from the start. */
            rec->objects = rec->chunks.at[i].first;
            rec->chunks.count = i;
            i = (size_t)-1;
            status = 0;
        }
        if (status) break;
    }
    rec->references = 0;
    for (size_t i = 0; !status && i < rec->chunks.count; i++) {
        rec_decode_t decode = {.rec = rec};
        status = rec_chunk_decode(&decode, (uint32_t)i, LOWTIDE_COL_EDGES, &buffer);
        uint32_t edges = status ? 0 : buffer->edge_begin[buffer->count];
        for (uint32_t k = 0; k < edges; k++) rec->references += buffer->edges[k] != LOWTIDE_NONE;
    }
    lowtide_chunk_free(buffer);
    return status;
}

void lowtide_chunk_free(lowtide_chunk *buffer) {
    if (!buffer) return;
    rec_chunk_buffer_t *own = buffer->impl;
    for (int i = 0; i < REC_SLABS; i++) mem_unmap(own->slabs[i].at, own->slabs[i].bytes);
    rec_unfold_free(&own->zstd);
    mem_unmap(own, sizeof *own);
}
