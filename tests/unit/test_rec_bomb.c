/* Small files that unfold to very much: each is refused in one line, without the memory that it asks for. */
#define _GNU_SOURCE
#include "base/mem.h"
#include "base/varint.h"
#include "format/rec_bytes.h"
#include "lowtide/recording.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

enum { BOMB_ROOM = 1 << 20, BOMB_RLE_BYTES = 128 << 10, BOMB_LIMIT = 32 << 20 };

/* A recording as it grows. */
typedef struct bomb {
    uint8_t at[BOMB_ROOM];
    size_t n;
    uint32_t sections;
} bomb_t;

static void put(bomb_t *b, const void *bytes, size_t n) {
    assert_true(b->n + n <= sizeof b->at);
    memcpy(b->at + b->n, bytes, n);
    b->n += n;
}

static void put_numbers(bomb_t *b, const uint64_t *numbers, size_t n) {
    uint8_t bytes[VARINT_MOST_BYTES];
    for (size_t i = 0; i < n; i++) put(b, bytes, (size_t)(varint_put(bytes, numbers[i]) - bytes));
}

static bomb_t *bomb_begin(void) {
    bomb_t *b = calloc(1, sizeof *b);
    rec_file_header_t header = {.major = REC_MAJOR, .minor = REC_MINOR};
    assert_non_null(b);
    memcpy(header.magic, REC_MAGIC, sizeof header.magic);
    header.checksum = rec_checksum(&header, REC_CHECKED_BYTES);
    put(b, &header, sizeof header);
    return b;
}

/* A zstd frame of `n` equal bytes, four bytes for each 128 KiB. */
static size_t fold(uint8_t *out, uint32_t n, uint8_t byte) {
    static const uint8_t begin[] = {0x28, 0xB5, 0x2F, 0xFD, 0xA0};
    uint8_t *p = out;
    memcpy(p, begin, sizeof begin);
    memcpy(p += sizeof begin, &n, sizeof n);
    p += sizeof n;
    while (n) {
        uint32_t part = n < BOMB_RLE_BYTES ? n : BOMB_RLE_BYTES;
        uint32_t head = part << 3 | 1 << 1 | (part == n);
        memcpy(p, &head, 3);
        p[3] = byte;
        p += 4;
        n -= part;
    }
    return (size_t)(p - out);
}

static void put_section(bomb_t *b, uint16_t kind, uint16_t flags, uint32_t raw, const void *payload,
                        size_t stored) {
    rec_section_t section = {.kind = kind,
                             .flags = flags,
                             .sequence = b->sections++,
                             .raw_bytes = raw,
                             .stored_bytes = (uint32_t)stored};
    memcpy(section.magic, REC_SECTION_MAGIC, sizeof section.magic);
    section.checksum = rec_section_checksum(&section, payload, stored);
    put(b, &section, sizeof section);
    put(b, payload, stored);
}

static void put_folded(bomb_t *b, uint16_t kind, uint32_t raw, uint8_t byte) {
    uint8_t frame[64 << 10];
    put_section(b, kind, REC_SECTION_ZSTD, raw, frame, fold(frame, raw, byte));
}

/* A string, and a shape of no type without labels but a repeated one. */
static void put_names(bomb_t *b) {
    static const uint8_t shape[] = {0, 1, 0, 0, 0, 0, 1, 11};
    put_section(b, REC_STRINGS, 0, 2, "\1x", 2);
    put_section(b, REC_SHAPES, 0, sizeof shape, shape, sizeof shape);
}

/* One object whose references are 1 GiB of zeros (no reference), 32 KiB in the file. */
static void put_object(bomb_t *b, uint32_t raw) {
    bomb_t *payload = calloc(1, sizeof *payload);
    uint8_t frame[64 << 10], zero = 0;
    size_t stored = fold(frame, raw, 0);
    uint64_t front[5] = {0, 1, 0, 0, REC_COLUMNS}, repeats = raw;
    uint8_t number[VARINT_MOST_BYTES];
    size_t digits = (size_t)(varint_put(number, repeats) - number);
    put_numbers(payload, front, 5);
    for (int i = 0; i < REC_COLUMNS; i++) {
        uint64_t sizes[2] = {1, 1};
        if (i == REC_COL_REPEATS) sizes[0] = sizes[1] = digits;
        if (i == REC_COL_REFERENCES) sizes[0] = raw, sizes[1] = stored;
        if (i >= REC_COL_BUFFERS) sizes[0] = sizes[1] = 0;
        put_numbers(payload, sizes, 2);
    }
    for (int i = 0; i <= REC_COL_FLAGS; i++) put(payload, &zero, 1);
    put(payload, number, digits);
    put(payload, frame, stored);
    put_section(b, REC_OBJECTS, 0, (uint32_t)payload->n, payload->at, payload->n);
    free(payload);
}

static void put_end(bomb_t *b, uint8_t objects) {
    uint8_t counts[4] = {objects, 0, objects, 0};
    put_section(b, REC_END, 0, sizeof counts, counts, sizeof counts);
}

static void put_table(bomb_t *b) {
    bomb_t *payload = calloc(1, sizeof *payload);
    uint8_t frame[64 << 10];
    size_t stored = fold(frame, REC_ROWS_MOST, 0);
    put(payload, "\1t", 2);
    put_numbers(payload, (uint64_t[]){REC_ROWS_MOST, 2}, 2);
    for (int i = 0; i < 2; i++) {
        put(payload, i ? "\1b" : "\1a", 2);
        put_numbers(payload, (uint64_t[]){i ? 4 : 1, REC_ROWS_MOST, stored}, 3);
    }
    put(payload, frame, stored);
    put(payload, frame, stored);
    put_section(b, REC_TABLE, 0, (uint32_t)payload->n, payload->at, payload->n);
    free(payload);
}

/* ── Reading ── */

static long peak_kib(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_maxrss;
}

/* Opens it and reads its first chunk and its table; returns what the first failure said. */
static int read_all(const bomb_t *b, lowtide_error *error) {
    lowtide_recording *rec;
    lowtide_chunk *chunk = NULL;
    lowtide_table *table = NULL;
    mem_limit(BOMB_LIMIT);
    int status = lowtide_open_memory(b->at, b->n, &rec, error);
    if (!status && lowtide_chunks(rec))
        status = lowtide_chunk_load(rec, 0, LOWTIDE_COL_ALL, &chunk, error);
    if (!status) status = lowtide_table_load(rec, "t", &table, error);
    lowtide_table_free(table);
    lowtide_chunk_free(chunk);
    lowtide_close(rec);
    mem_limit(0);
    return status;
}

static void assert_refused(bomb_t *b, bool by_format) {
    lowtide_error error = {.text = ""};
    long before = peak_kib();
    int status = read_all(b, &error);
    assert_int_equal(status, by_format ? -EBADMSG : -ENOMEM);
    assert_true(error.text[0] && !strchr(error.text, '\n'));
    assert_true(b->n < 200 << 10);
    assert_true(peak_kib() - before < 2 * BOMB_LIMIT / 1024);
    free(b);
}

static void names_that_unfold_beyond_what_there_is(void **state) {
    (void)state;
    const uint16_t kinds[] = {REC_META, REC_STRINGS, REC_SHAPES};
    for (int i = 0; i < 3; i++) {
        bomb_t *b = bomb_begin();
        put_folded(b, kinds[i], REC_SIDE_BYTES_MOST, 0);
        assert_refused(b, false);
    }
}

static void names_that_unfold_beyond_what_the_format_allows(void **state) {
    (void)state;
    bomb_t *b = bomb_begin();
    put_folded(b, REC_STRINGS, REC_SIDE_BYTES_MOST + 1, 0);
    assert_refused(b, true);
}

static void strings_without_end(void **state) {
    (void)state;
    bomb_t *b = bomb_begin();
    for (int i = 0; i < 64; i++) put_folded(b, REC_STRINGS, 1 << 20, 0);
    assert_refused(b, false);
}

static void an_object_with_a_thousand_million_references(void **state) {
    (void)state;
    bomb_t *b = bomb_begin();
    put_names(b);
    put_object(b, REC_SECTION_BYTES_MOST);
    put_end(b, 1);
    assert_refused(b, false);
}

static void a_section_that_says_more_than_it_may(void **state) {
    (void)state;
    bomb_t *b = bomb_begin();
    put_names(b);
    put_object(b, REC_SECTION_BYTES_MOST + 1u);
    put_end(b, 1);
    assert_refused(b, true);
}

static void a_table_with_millions_of_rows(void **state) {
    (void)state;
    bomb_t *b = bomb_begin();
    put_end(b, 0);
    put_table(b);
    assert_refused(b, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_that_unfold_beyond_what_there_is),
        cmocka_unit_test(names_that_unfold_beyond_what_the_format_allows),
        cmocka_unit_test(strings_without_end),
        cmocka_unit_test(an_object_with_a_thousand_million_references),
        cmocka_unit_test(a_section_that_says_more_than_it_may),
        cmocka_unit_test(a_table_with_millions_of_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
