#define _GNU_SOURCE
#include "format/rec_writer.h"

#include "base/mem.h"
#include "format/rec_table.h"
#include "format/rec_utf8.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

enum {
    REC_LEVEL_DEFAULT = 1,
    REC_CHUNK_BYTES = 16 << 20,       /* references or values of a chunk, before it is cut */
    REC_SIDE_PENDING_BYTES = 1 << 20, /* strings or shapes, before they are written */
    REC_TEXT_MOST = 1 << 20,
    REC_WORTH_BYTES = 64, /* less is not compressed */
    REC_AS_IS_CHUNKS = 7,
    REC_COLUMN_HEAD_BYTES = (5 + 2 * REC_COLUMNS) * VARINT_MOST_BYTES,
    REC_REFERENCES_MOST = REC_SECTION_BYTES_MOST - (64 << 20)
};

int rec_fail(rec_writer_t *w, int code, const char *what) {
    if (!w->status) {
        w->status = code;
        err_sys(&w->error, code, "cannot write the recording%s%s", *what ? ": " : "", what);
    }
    return code;
}

void rec_misuse(rec_writer_t *w, const char *what) {
    rec_fail(w, -EINVAL, what);
}

static int rec_no_memory(rec_writer_t *w) {
    return rec_fail(w, -ENOMEM, "");
}

/* Output. */

int rec_write(rec_writer_t *w, const uint8_t *bytes, size_t n) {
    while (n && !w->status) {
        ssize_t done = write(w->fd, bytes, n);
        if (done >= 0) {
            bytes += done;
            n -= (size_t)done;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            struct pollfd ready = {.fd = w->fd, .events = POLLOUT};
            (void)poll(&ready, 1, -1);
        } else if (errno != EINTR) {
            rec_fail(w, -errno, "");
        }
    }
    return w->status;
}

/* The payload stands in w->out from `payload` on, with room for the header before it. */
void rec_section_write(rec_writer_t *w, enum rec_section_kind kind, unsigned flags, size_t payload,
                       size_t raw_bytes, size_t stored_bytes) {
    rec_section_t header = {.kind = (uint16_t)kind,
                            .flags = (uint16_t)flags,
                            .sequence = w->sequence++,
                            .raw_bytes = (uint32_t)raw_bytes,
                            .stored_bytes = (uint32_t)stored_bytes};
    memcpy(header.magic, REC_SECTION_MAGIC, sizeof header.magic);
    uint8_t *at = w->out.at + payload;
    header.checksum = rec_section_checksum(&header, at, stored_bytes);
    memcpy(at - sizeof header, &header, sizeof header);
    rec_write(w, at - sizeof header, sizeof header + stored_bytes);
}

/* Compresses into w->out at `at`, or copies where that gains nothing. Returns the stored bytes. */
size_t rec_fold(rec_writer_t *w, size_t at, const uint8_t *bytes, size_t n, uint32_t *as_is) {
    uint8_t *out = w->out.at + at;
    if (*as_is) {
        (*as_is)--;
    } else if (n >= REC_WORTH_BYTES) {
        size_t stored = ZSTD_compressCCtx(w->zstd, out, w->out.room - at, bytes, n, w->level);
        if (!ZSTD_isError(stored) && stored < n - n / 32) return stored;
        *as_is = REC_AS_IS_CHUNKS;
    }
    memcpy(out, bytes, n);
    return n;
}

static void rec_side_write(rec_writer_t *w, enum rec_section_kind kind, rec_bytes_t *pending) {
    if (!pending->count || w->status) return;
    if (rec_bytes_reserve(&w->out, REC_HEADER_BYTES + ZSTD_compressBound(pending->count))) {
        rec_no_memory(w);
        return;
    }
    uint32_t as_is = 0;
    size_t stored = rec_fold(w, REC_HEADER_BYTES, pending->at, pending->count, &as_is);
    unsigned flags = stored < pending->count ? REC_SECTION_ZSTD : 0;
    rec_section_write(w, kind, flags, REC_HEADER_BYTES, pending->count, stored);
    pending->count = 0;
}

/* Meta, strings and shapes. */

/* Room in a side buffer, within what a reader allows for all of them. */
static uint8_t *rec_side_room(rec_writer_t *w, rec_bytes_t *pending, size_t most) {
    if (w->status) return NULL;
    if (w->side_bytes + most > REC_SIDE_BYTES_MOST) {
        rec_fail(w, -E2BIG, "more than 256 MiB of names");
        return NULL;
    }
    if (rec_bytes_reserve(pending, most)) {
        rec_no_memory(w);
        return NULL;
    }
    return pending->at + pending->count;
}

static void rec_side_done(rec_writer_t *w, rec_bytes_t *pending, const uint8_t *end) {
    size_t count = (size_t)(end - pending->at);
    w->side_bytes += count - pending->count;
    pending->count = count;
}

/* Text as a recording holds it: valid UTF-8 without NUL, in w->scratch. Returns its bytes. */
size_t rec_clean(rec_writer_t *w, const char *text, size_t n) {
    w->scratch.count = 0;
    if (rec_bytes_reserve(&w->scratch, n * 3 + 1)) {
        rec_no_memory(w);
        return 0;
    }
    size_t done = 0;
    while (n) {
        size_t part = strnlen(text, n);
        done += utf8_clean((char *)w->scratch.at + done, text, part);
        if (part < n) {
            memcpy(w->scratch.at + done, "\xef\xbf\xbd", 3);
            done += 3;
            part++;
        }
        text += part;
        n -= part;
    }
    return done;
}

static void rec_side_text(rec_writer_t *w, rec_bytes_t *pending, const char *text, size_t n) {
    if (n > REC_TEXT_MOST) n = REC_TEXT_MOST;
    size_t bytes = rec_clean(w, text, n);
    uint8_t *at = rec_side_room(w, pending, VARINT_MOST_BYTES + bytes);
    if (!at) return;
    at = varint_put(at, bytes);
    memcpy(at, w->scratch.at, bytes);
    rec_side_done(w, pending, at + bytes);
}

void rec_meta_flush(rec_writer_t *w) {
    rec_side_write(w, REC_META, &w->meta);
}

void rec_meta(rec_writer_t *w, const char *key, const char *value) {
    rec_side_text(w, &w->meta, key, strlen(key));
    rec_side_text(w, &w->meta, value, strlen(value));
}

uint32_t rec_string(rec_writer_t *w, const char *text, size_t n) {
    int fresh;
    /* Equal hashes are taken for equal texts: among a million names by chance one in 10^7 files. */
    uint64_t hash = rec_checksum(text, n);
    uint32_t *number = map_put(&w->string_numbers, hash - (hash == MAP_NO_KEY), &fresh);
    if (!number) {
        rec_no_memory(w);
        return 0;
    }
    if (!fresh) return *number;
    *number = w->string_count++;
    uint32_t result = *number;
    if (w->string_count > REC_STRINGS_MOST) rec_fail(w, -E2BIG, "more than 16 million names");
    rec_side_text(w, &w->strings, text, n);
    if (w->strings.count >= REC_SIDE_PENDING_BYTES) rec_side_write(w, REC_STRINGS, &w->strings);
    return result;
}

static uint8_t *rec_put_label(uint8_t *at, const rec_label_t *label) {
    int named = label->name != LOWTIDE_NONE;
    at = varint_put(at, (uint64_t)((label->kind & REC_LABEL_KIND) |
                                   (label->borrowed ? REC_LABEL_BORROWED : 0) |
                                   (named ? REC_LABEL_NAMED : 0)));
    return named ? varint_put(at, label->name) : at;
}

/* A shape waits in shape_bodies as its bytes' count (4 bytes) and all its fields but the type. */
uint32_t rec_shape_add(rec_writer_t *w, const rec_shape_t *shape) {
    rec_shape_state_t state = {.type = shape->type,
                               .fixed = shape->fixed_count,
                               .has_repeat = shape->repeat_count > 0,
                               .class_first =
                                   shape->fixed_count && shape->fixed[0].kind == LOWTIDE_CLASS};
    size_t labels = (size_t)shape->fixed_count + 2;
    uint8_t *start = rec_side_room(w, &w->shape_bodies, 8 * VARINT_MOST_BYTES + labels * 12);
    if (!start) return 0;
    if (shape->repeat_count > 2 || w->shapes.count == REC_SHAPES_MOST) {
        rec_misuse(w, shape->repeat_count > 2 ? "a shape repeats more than two labels"
                                              : "more than 16 million shapes");
        return 0;
    }
    if (rec_shape_states_push(&w->shapes, state)) {
        rec_no_memory(w);
        return 0;
    }
    uint8_t *at = start + sizeof(uint32_t);
    at = varint_put(at, shape->kind);
    at = varint_put(at, shape->flags);
    at = varint_put(at, shape->name);
    at = varint_put(at, shape->module == LOWTIDE_NONE ? 0 : (uint64_t)shape->module + 1);
    at = varint_put(at, shape->fixed_count);
    for (uint32_t i = 0; i < shape->fixed_count; i++) at = rec_put_label(at, &shape->fixed[i]);
    at = varint_put(at, shape->repeat_count);
    for (uint32_t i = 0; i < shape->repeat_count; i++) at = rec_put_label(at, &shape->repeat[i]);
    uint32_t bytes = (uint32_t)(at - start - (ptrdiff_t)sizeof(uint32_t));
    memcpy(start, &bytes, sizeof bytes);
    rec_side_done(w, &w->shape_bodies, at);
    return (uint32_t)(w->shapes.count - 1);
}

void rec_shape_type(rec_writer_t *w, uint32_t shape, uint32_t type_id) {
    if (shape >= w->shapes.count) {
        rec_misuse(w, "a type is given to a shape that was not added");
        return;
    }
    rec_shape_state_t *s = w->shapes.at + shape;
    if (s->class_stored || s->type == type_id) return;
    if (s->type != LOWTIDE_NONE) {
        rec_misuse(w, "a shape is given two types");
        return;
    }
    s->type = type_id;
}

/* Writes the shapes that objects have; later ones wait, their type may still come. */
static void rec_shapes_write(rec_writer_t *w) {
    rec_bytes_t *out = &w->scratch;
    out->count = 0;
    for (; w->shapes_written < w->shapes_used; w->shapes_written++) {
        rec_shape_state_t *s = w->shapes.at + w->shapes_written;
        uint32_t bytes;
        const uint8_t *body = w->shape_bodies.at + w->shape_at;
        memcpy(&bytes, body, sizeof bytes);
        if (rec_bytes_reserve(out, VARINT_MOST_BYTES + bytes)) {
            rec_no_memory(w);
            return;
        }
        if (s->type == LOWTIDE_NONE) s->class_stored = 1;
        uint64_t type = s->type == LOWTIDE_NONE ? 0 : (uint64_t)s->type + 1;
        uint8_t *at = varint_put(out->at + out->count, type);
        memcpy(at, body + sizeof bytes, bytes);
        out->count = (size_t)(at - out->at) + bytes;
        w->shape_at += sizeof bytes + bytes;
    }
    if (w->shapes_written == w->shapes.count) {
        w->shape_bodies.count = 0;
        w->shape_at = 0;
    }
    rec_side_write(w, REC_SHAPES, out);
}

/* Objects. */

static int rec_buffer_map(rec_writer_t *w, rec_buffer_t *buffer, size_t room) {
    buffer->base = mem_map(room);
    if (!buffer->base) return rec_no_memory(w);
    buffer->at = buffer->base;
    buffer->room = room;
    buffer->limit = buffer->base + room - VARINT_MOST_BYTES;
    return 0;
}

/* Room for n more bytes; a chunk that grew beyond its measure ends with its current object. */
static int rec_buffer_grow(rec_writer_t *w, rec_buffer_t *buffer, size_t n) {
    size_t used = (size_t)(buffer->at - buffer->base);
    w->count_most = 0;
    if (w->status) {
        buffer->at = buffer->base; /* what is written now goes nowhere */
        if (n + VARINT_MOST_BYTES <= buffer->room) return 0;
        return w->status;
    }
    size_t room = buffer->room * 2 + n;
    uint8_t *base = mem_remap(buffer->base, buffer->room, room);
    if (!base) return rec_no_memory(w);
    buffer->base = base;
    buffer->at = base + used;
    buffer->room = room;
    buffer->limit = base + room - VARINT_MOST_BYTES;
    return 0;
}

int rec_edge_room(rec_writer_t *w) {
    rec_buffer_t *out = &w->columns[REC_COL_REFERENCES];
    if (w->drop_edges) return 1;
    if ((size_t)(out->at - out->base) >= w->references_most) {
        w->columns[REC_COL_FLAGS].at[-1] |= LOWTIDE_SKIPPED;
        w->drop_edges = 1;
        w->count_most = 0;
        return 1;
    }
    if (rec_buffer_grow(w, out, 1)) w->drop_edges = 1;
    return w->drop_edges;
}

/* The CLASS of an object: not stored when its shape says it. Returns whether that is so. */
int rec_edge_class(rec_writer_t *w, uint32_t target) {
    rec_shape_state_t *s = w->shapes.at + w->shape;
    w->expect_class = 0;
    if (s->class_stored) return 0;
    if (s->type != target) {
        if (s->type != LOWTIDE_NONE || target == REC_NULL) {
            rec_misuse(w, "objects of one shape have different types");
            return 1;
        }
        s->type = target;
    }
    if (target >= w->frontier) w->frontier = target + 1;
    w->references++;
    return 1;
}

/* An object that ended before its fixed references did, or went beyond them without a repeat. */
void rec_object_mend(rec_writer_t *w) {
    if (w->edges > w->fixed) {
        rec_misuse(w, "an object has more references than its shape");
        return;
    }
    if (w->expect_class && !w->edges) {
        rec_shape_state_t *s = w->shapes.at + w->shape;
        if (s->type == LOWTIDE_NONE) s->class_stored = 1;
        if (rec_edge_class(w, s->type)) w->edges++;
    }
    size_t missing = w->fixed - w->edges;
    rec_buffer_t *out = &w->columns[REC_COL_REFERENCES];
    if ((size_t)(out->limit - out->at) < missing && rec_buffer_grow(w, out, missing)) return;
    memset(out->at, 0, missing);
    out->at += missing;
    w->edges = w->fixed;
}

/* A sparse column: how far the current object stands from the last one that is in it. */
static rec_buffer_t *rec_sparse(rec_writer_t *w, enum rec_column column, uint32_t *next,
                                uint32_t *last, size_t bytes) {
    rec_buffer_t *out = &w->columns[column];
    uint32_t place = w->count - 1;
    if (!w->count || place < *next) {
        rec_misuse(w, "a value or buffer without an object, or two for one");
        return NULL;
    }
    if ((size_t)(out->base + out->room - out->at) < bytes + 4 * VARINT_MOST_BYTES &&
        rec_buffer_grow(w, out, bytes + 4 * VARINT_MOST_BYTES)) {
        return NULL;
    }
    rec_put(out, place - *last);
    *last = place;
    *next = place + 1;
    return out;
}

void rec_buffer(rec_writer_t *w, uint64_t bytes) {
    if (!bytes) return;
    rec_buffer_t *out = rec_sparse(w, REC_COL_BUFFERS, &w->buffer_next, &w->buffer_last, 0);
    if (out) rec_put(out, bytes);
}

static rec_buffer_t *rec_value(rec_writer_t *w, int kind, size_t bytes) {
    rec_buffer_t *out = rec_sparse(w, REC_COL_VALUES, &w->value_next, &w->value_last, bytes);
    if (out) rec_put(out, (uint64_t)kind);
    return out;
}

void rec_value_text(rec_writer_t *w, int kind, uint64_t length, const char *text, size_t n) {
    if (n > REC_TEXT_MOST) n = REC_TEXT_MOST;
    size_t ascii = kind == LOWTIDE_VALUE_BYTES ? n : utf8_ascii(text, n);
    if (ascii < n) {
        w->scratch.count = 0;
        if (rec_bytes_reserve(&w->scratch, n * 3)) {
            rec_no_memory(w);
            return;
        }
        n = utf8_clean((char *)w->scratch.at, text, n);
        text = (const char *)w->scratch.at;
    }
    rec_buffer_t *out = rec_value(w, kind, n);
    if (!out) return;
    if (kind != LOWTIDE_VALUE_NAME) rec_put(out, length);
    rec_put(out, n);
    if (n) memcpy(out->at, text, n);
    out->at += n;
}

void rec_value_int(rec_writer_t *w, int kind, int64_t v) {
    rec_buffer_t *out = rec_value(w, kind, 0);
    if (out) rec_put(out, kind == LOWTIDE_VALUE_BOOL ? v != 0 : zigzag_encode(v));
}

void rec_value_big_int(rec_writer_t *w, uint64_t bits) {
    rec_buffer_t *out = rec_value(w, LOWTIDE_VALUE_BIG_INT, 0);
    if (out) rec_put(out, bits);
}

void rec_value_float(rec_writer_t *w, double v) {
    rec_buffer_t *out = rec_value(w, LOWTIDE_VALUE_FLOAT, sizeof v);
    if (!out) return;
    memcpy(out->at, &v, sizeof v);
    out->at += sizeof v;
}

uint64_t rec_objects(const rec_writer_t *w) {
    return w->objects;
}

uint64_t rec_references(const rec_writer_t *w) {
    return w->references;
}

/* Chunks. */

static void rec_chunk_begin(rec_writer_t *w) {
    for (int i = 0; i < REC_COLUMNS; i++) w->columns[i].at = w->columns[i].base;
    w->chunk++;
    w->count = 0;
    w->count_most = w->chunk_objects;
    w->chunk_first = (uint32_t)w->objects;
    w->chunk_frontier = w->frontier;
    w->chunk_references = w->references;
    w->buffer_next = w->buffer_last = 0;
    w->value_next = w->value_last = 0;
}

static void rec_chunk_write(rec_writer_t *w) {
    size_t most = REC_HEADER_BYTES + REC_COLUMN_HEAD_BYTES, raw[REC_COLUMNS], stored[REC_COLUMNS];
    for (int i = 0; i < REC_COLUMNS; i++) {
        raw[i] = (size_t)(w->columns[i].at - w->columns[i].base);
        most += ZSTD_compressBound(raw[i]);
    }
    if (rec_bytes_reserve(&w->out, most)) {
        rec_no_memory(w);
        return;
    }
    /* The columns first, then what tells their sizes right before them, then the header. */
    size_t columns_at = REC_HEADER_BYTES + REC_COLUMN_HEAD_BYTES, end = columns_at;
    for (int i = 0; i < REC_COLUMNS; i++) {
        stored[i] = rec_fold(w, end, w->columns[i].base, raw[i], &w->columns[i].as_is);
        end += stored[i];
    }
    uint8_t head[REC_COLUMN_HEAD_BYTES], *at = head;
    at = varint_put(at, w->chunk_first);
    at = varint_put(at, w->count);
    at = varint_put(at, w->chunk_frontier);
    at = varint_put(at, w->references - w->chunk_references);
    at = varint_put(at, REC_COLUMNS);
    for (int i = 0; i < REC_COLUMNS; i++) {
        at = varint_put(at, raw[i]);
        at = varint_put(at, stored[i]);
    }
    size_t payload = columns_at - (size_t)(at - head);
    memcpy(w->out.at + payload, head, (size_t)(at - head));
    rec_section_write(w, REC_OBJECTS, 0, payload, end - payload, end - payload);
}

/* Writes the chunk and what it needs before it; the current object has ended. */
void rec_chunk_flush(rec_writer_t *w) {
    rec_side_write(w, REC_META, &w->meta);
    rec_side_write(w, REC_STRINGS, &w->strings);
    if (!w->status) rec_shapes_write(w);
    if (!w->status && w->count) rec_chunk_write(w);
    rec_chunk_begin(w);
}

/* Opening and closing. */

void rec_abandon(rec_writer_t *w) {
    for (int i = 0; i < REC_COLUMNS; i++) mem_unmap(w->columns[i].base, w->columns[i].room);
    rec_table_free(w);
    rec_shape_states_free(&w->shapes);
    rec_bytes_free(&w->meta);
    rec_bytes_free(&w->strings);
    rec_bytes_free(&w->shape_bodies);
    rec_bytes_free(&w->scratch);
    rec_bytes_free(&w->out);
    map_free(&w->string_numbers);
    mem_unmap(w->zstd_memory, w->zstd_bytes);
    mem_unmap(w, sizeof *w);
}

static int rec_begin(rec_writer_t *w, const uint64_t *captured_ns) {
    w->zstd_bytes = ZSTD_estimateCCtxSize(w->level);
    w->zstd_memory = mem_map(w->zstd_bytes);
    if (!w->zstd_memory) return rec_no_memory(w);
    w->zstd = ZSTD_initStaticCCtx(w->zstd_memory, w->zstd_bytes);
    if (!w->zstd) return rec_no_memory(w);
    for (int i = 0; i < REC_COLUMNS; i++) {
        int bulk = i == REC_COL_REFERENCES || i == REC_COL_VALUES;
        size_t room = bulk ? REC_CHUNK_BYTES : REC_CHUNK_OBJECTS * 2 * VARINT_MOST_BYTES;
        if (rec_buffer_map(w, &w->columns[i], room)) return w->status;
    }
    w->chunk_objects = REC_CHUNK_OBJECTS;
    w->references_most = REC_REFERENCES_MOST;
    rec_chunk_begin(w);
    if (!captured_ns) return 0;

    rec_file_header_t header = {
        .major = REC_MAJOR, .minor = REC_MINOR, .captured_ns = *captured_ns};
    memcpy(header.magic, REC_MAGIC, sizeof header.magic);
    header.checksum = rec_checksum(&header, REC_CHECKED_BYTES);
    return rec_write(w, (const uint8_t *)&header, sizeof header);
}

/* Without captured_ns no header is written. */
int rec_open_at(rec_writer_t **out, int fd, int level, const uint64_t *captured_ns, err_t *e) {
    *out = NULL;
    rec_writer_t *w = mem_map(sizeof *w);
    if (!w) return err_sys(e, -ENOMEM, "cannot write the recording");
    w->fd = fd;
    w->level = level ? level : REC_LEVEL_DEFAULT;
    if (rec_begin(w, captured_ns)) {
        int status = w->status;
        if (e) *e = w->error;
        rec_abandon(w);
        return status;
    }
    *out = w;
    return 0;
}

int rec_open(rec_writer_t **out, int fd, int level, uint64_t captured_ns, err_t *e) {
    return rec_open_at(out, fd, level, &captured_ns, e);
}

int rec_status(const rec_writer_t *w) {
    return w->status;
}

static void rec_end(rec_writer_t *w, uint32_t reached, uint64_t skipped) {
    rec_table_end(w);
    rec_object_end(w);
    rec_chunk_flush(w);
    if (!w->status && w->frontier > w->objects) {
        w->status = -ECANCELED;
        err_set(&w->error, w->status,
                "the recording is incomplete: %u objects were to come after %u",
                (unsigned)(w->frontier - w->objects), (unsigned)w->objects);
    }
    if (w->status || w->ended) return;
    w->out.count = 0;
    if (rec_bytes_reserve(&w->out, REC_HEADER_BYTES + 4 * VARINT_MOST_BYTES)) {
        rec_no_memory(w);
        return;
    }
    uint8_t *start = w->out.at + REC_HEADER_BYTES, *at = start;
    at = varint_put(at, w->objects);
    at = varint_put(at, w->references);
    at = varint_put(at, reached);
    at = varint_put(at, skipped);
    rec_section_write(w, REC_END, 0, REC_HEADER_BYTES, (size_t)(at - start), (size_t)(at - start));
}

int rec_close(rec_writer_t *w, uint32_t reached, uint64_t skipped, err_t *e) {
    rec_end(w, reached, skipped);
    int status = w->status;
    if (status && e) *e = w->error;
    rec_abandon(w);
    return status;
}
