/* What the parts of the reader share: the open recording and how a chunk lies in it.
 *
 *     recording.c     maps the file, checks its sections, knows where it was cut
 *     rec_tables.c    meta, strings and shapes
 *     rec_chunk.c     a chunk's columns
 *     rec_object.c    one object, one label
 *     rec_table_read.c  tables and nested recordings
 *
 * Every number of a file is checked here, at the door: what lies in these tables is sound.
 */
#ifndef LOWTIDE_FORMAT_REC_READER_H
#define LOWTIDE_FORMAT_REC_READER_H

#include "base/arena.h"
#include "base/err.h"
#include "base/vec.h"
#include "format/rec_bytes.h"
#include "lowtide/recording.h"

#include <assert.h>
#include <stdint.h>

typedef struct rec_place {
    uint64_t payload; /* offset in the file */
    uint32_t bytes, first, count;
} rec_place_t;

/* What decoding an object needs of its shape, in 12 bytes beside each other. */
typedef struct rec_code {
    uint32_t fixed;
    uint32_t type; /* as the file says, LOWTIDE_NONE where it does not */
    uint8_t has_repeat;
    uint8_t class_hidden; /* the first reference is the type and is not stored */
} rec_code_t;

/* A TABLE or NESTED section. */
typedef struct rec_part {
    uint64_t payload; /* offset in the file; nested: behind its name */
    uint32_t bytes;
    uint32_t name; /* tables: number of the table's name; nested: offset in texts */
} rec_part_t;

typedef struct rec_pair {
    uint32_t key, value; /* offsets in texts */
} rec_pair_t;

VEC_DEFINE(rec_places, rec_place_t);
VEC_DEFINE(rec_codes, rec_code_t);
VEC_DEFINE(rec_pairs, rec_pair_t);
VEC_DEFINE(rec_parts, rec_part_t);
VEC_DEFINE(rec_offsets, uint32_t);
VEC_DEFINE(rec_texts, char);
VEC_DEFINE(rec_shapes, lowtide_shape);

enum { REC_CACHE_CHUNKS = 4 };

struct lowtide_recording {
    const uint8_t *bytes;
    size_t size;
    int mapped; /* ours to unmap */
    const char *name;
    arena_t arena; /* name, labels */

    uint64_t captured_ns, references, side_bytes;
    uint32_t objects, reached;
    int whole;
    err_t cut; /* empty when whole */

    rec_texts_t texts; /* zero-terminated, one after the other */
    rec_offsets_t strings;
    rec_pairs_t meta;
    rec_shapes_t shapes;
    rec_codes_t codes;
    rec_places_t chunks;
    rec_offsets_t table_names; /* offsets in texts */
    rec_parts_t tables, nested;

    struct {
        lowtide_chunk *chunk;
        uint32_t number;
        uint64_t used;
    } cache[REC_CACHE_CHUNKS];
    uint64_t cache_clock;
};

static_assert(sizeof(err_t) == sizeof(lowtide_error), "one is the other");

/* The public error is the house's, under a name of its own. */
static inline err_t *rec_err(lowtide_error *error) {
    return (err_t *)error;
}

/* Unfolds one zstd frame of exactly `raw` bytes; `zstd` keeps the decompressor between calls.
 * 0, -ENOMEM, or -EBADMSG. */
typedef struct rec_unfold {
    void *context, *memory;
    size_t bytes;
} rec_unfold_t;
int rec_unfold(rec_unfold_t *zstd, uint8_t *out, size_t raw, const uint8_t *in, size_t stored);
void rec_unfold_free(rec_unfold_t *zstd);

/* Take a section's raw payload into the tables. 0, -ENOMEM, or -EBADMSG with *why. */
int rec_meta_take(lowtide_recording *rec, const uint8_t *p, const uint8_t *end, const char **why);
int rec_strings_take(lowtide_recording *rec, const uint8_t *p, const uint8_t *end,
                     const char **why);
int rec_shapes_take(lowtide_recording *rec, const uint8_t *p, const uint8_t *end, const char **why);

int rec_text_take(lowtide_recording *rec, const uint8_t **p, const uint8_t *end, uint32_t *offset,
                  const char **why);
int rec_table_take(lowtide_recording *rec, const uint8_t *p, const uint8_t *end, const char **why);
int rec_nested_take(lowtide_recording *rec, const uint8_t *p, const uint8_t *end, const char **why);

/* The front of an OBJECTS payload. */
typedef struct rec_head {
    uint32_t first, count;
    uint64_t frontier, references;
    struct {
        const uint8_t *at;
        uint32_t raw, stored;
    } column[REC_COLUMNS];
} rec_head_t;
/* 0, or -EBADMSG with *why. */
int rec_head_read(const uint8_t *p, const uint8_t *end, rec_head_t *head, const char **why);
/* Goes through all references of all chunks, and ends the recording at the first damaged chunk:
 * only of a recording that is not whole, for whose count nobody vouches. 0 or -ENOMEM. */
int rec_references_count(lowtide_recording *rec);

#endif
