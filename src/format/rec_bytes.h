/* The bytes of a recording that its writer and its reader share; docs/format.md explains them. */
#ifndef LOWTIDE_FORMAT_REC_BYTES_H
#define LOWTIDE_FORMAT_REC_BYTES_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "numbers are copied as they lie in memory");

#define REC_MAGIC         "\x8cTIDE\r\n\x1a"
#define REC_SECTION_MAGIC "SECT"

enum {
    REC_MAJOR = 1,
    REC_MINOR = 1,
    REC_HEADER_BYTES = 32,  /* of the file, and of a section */
    REC_CHECKED_BYTES = 24, /* of a header: what its checksum covers */
    REC_SECTION_ZSTD = 1,
    REC_CHUNK_OBJECTS = 65536
};

/* Limits, so that neither a damaged nor a hostile file makes a reader ask for the moon. */
enum {
    REC_SECTION_BYTES_MOST = 1 << 30,
    REC_SIDE_BYTES_MOST = 256 << 20 /* META, STRINGS and SHAPES of a file together, unfolded */
};
enum { REC_STRINGS_MOST = 16 << 20, REC_SHAPES_MOST = 16 << 20, REC_META_MOST = 4096 };
enum {
    REC_ROWS_MOST = 16 << 20,       /* of a TABLE section */
    REC_TABLE_ROWS_MOST = 64 << 20, /* of a table, all its sections */
    REC_TABLE_COLUMNS_MOST = 64,
    REC_TABLE_TEXT_MOST = 64 << 10
};

enum rec_section_kind {
    REC_META = 1,
    REC_STRINGS,
    REC_SHAPES,
    REC_OBJECTS,
    REC_END,
    REC_TABLE,
    REC_NESTED
};

enum rec_column {
    REC_COL_SHAPE,
    REC_COL_ADDRESS,
    REC_COL_SIZE,
    REC_COL_REFCOUNT,
    REC_COL_FLAGS,
    REC_COL_REPEATS,
    REC_COL_REFERENCES,
    REC_COL_BUFFERS,
    REC_COL_VALUES,
    REC_COLUMNS
};

enum { REC_LABEL_KIND = 31, REC_LABEL_BORROWED = 1 << 5, REC_LABEL_NAMED = 1 << 6 };

/* A file's first bytes. */
typedef struct rec_file_header {
    char magic[8];
    uint16_t major, minor;
    uint32_t zero;
    uint64_t captured_ns;
    uint64_t checksum;
} rec_file_header_t;

typedef struct rec_section {
    char magic[4];
    uint16_t kind, flags;
    uint32_t sequence;
    uint32_t raw_bytes, stored_bytes;
    uint32_t zero;
    uint64_t checksum;
} rec_section_t;

static_assert(sizeof(rec_file_header_t) == REC_HEADER_BYTES, "as in docs/format.md");
static_assert(sizeof(rec_section_t) == REC_HEADER_BYTES, "as in docs/format.md");
static_assert(offsetof(rec_file_header_t, checksum) == REC_CHECKED_BYTES, "as in docs/format.md");
static_assert(offsetof(rec_section_t, checksum) == REC_CHECKED_BYTES, "as in docs/format.md");

/* XXH3-64 of a section's header up to its checksum, then of its stored payload. */
uint64_t rec_section_checksum(const rec_section_t *header, const void *payload, size_t n);
/* The same, of a payload that lies in two places. */
uint64_t rec_section_checksum_of_two(const rec_section_t *header, const void *front, size_t m,
                                     const void *rest, size_t n);
uint64_t rec_checksum(const void *bytes, size_t n);

/* A fuzzer sets it, since it would never find a matching checksum. */
#ifdef LOWTIDE_FUZZING
extern int rec_checksums_ignored; /* in builds for fuzzing */
#else
enum { rec_checksums_ignored = 0 };
#endif

#endif
