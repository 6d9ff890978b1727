/* Makes the golden recordings of tests/golden: whole ones through the writer, and broken ones from
 * them. Those of a version that was released are kept as they are, so this is for a new version.
 *
 *     make_golden DIRECTORY
 */
#define _GNU_SOURCE
#include "../tests/unit/rec_sample.h"
#include "format/rec_table.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct golden {
    uint8_t bytes[1 << 16];
    size_t size;
} golden_t;

static const char *golden_directory;

static void golden_die(const char *what) {
    fprintf(stderr, "make_golden: %s\n", what);
    exit(1);
}

static void golden_save(const golden_t *g, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.tide", golden_directory, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(g->bytes, 1, g->size, f) != g->size || fclose(f)) golden_die(path);
}

/* 3,000 objects in a chain, in chunks of 1,000: columns that are worth compressing. */
static int golden_write_chain(int fd, err_t *e) {
    rec_writer_t *w;
    int status = rec_open(&w, fd, 0, REC_SAMPLE_CAPTURED_NS, e);
    if (status) return status;
    w->chunk_objects = w->count_most = 1000;
    rec_meta(w, "pid", "1");
    rec_label_t labels[] = {{LOWTIDE_CLASS, 0, LOWTIDE_NONE},
                            {LOWTIDE_ATTRIBUTE, 0, sample_string(w, "next")}};
    uint32_t runtime =
        sample_shape(w, LOWTIDE_SHAPE_RUNTIME, 0, "runtime",
                     &(rec_label_t){LOWTIDE_ROOT, 0, sample_string(w, "head")}, 1, NULL, 0);
    uint32_t type =
        sample_shape(w, LOWTIDE_SHAPE_OBJECT, LOWTIDE_SHAPE_IS_TYPE, "type", labels, 1, NULL, 0);
    uint32_t node =
        sample_shape(w, LOWTIDE_SHAPE_OBJECT, LOWTIDE_SHAPE_HEAP_TYPE, "Node", labels, 2, NULL, 0);
    rec_object(w, runtime, 0, 0, 0, 0);
    rec_edge(w, 2);
    rec_object(w, type, 0x1000, 1064, 3001, LOWTIDE_TRACKED);
    rec_edge(w, 1);
    for (uint32_t i = 2; i < 3000; i++) {
        rec_object(w, node, 0x7f0000000000 + (uint64_t)i * 48, 48, 1, LOWTIDE_TRACKED);
        SAMPLE_EDGES(w, 1, i + 1 < 3000 ? i + 1 : 2);
        rec_value_int(w, LOWTIDE_VALUE_INT, (int64_t)i * 1000003);
    }
    return rec_close(w, 3000, 0, e);
}

/* The worked example of docs/format.md: the runtime, a class A that it names x, and A's class. */
static int golden_write_worked(int fd, err_t *e) {
    rec_writer_t *w;
    int status = rec_open(&w, fd, 0, REC_SAMPLE_CAPTURED_NS, e);
    if (status) return status;
    rec_meta(w, "pid", "7");
    rec_label_t root = {LOWTIDE_ROOT, 0, sample_string(w, "x")};
    rec_label_t class = {LOWTIDE_CLASS, 1, LOWTIDE_NONE},
                rest = {LOWTIDE_REFERENCE, 0, LOWTIDE_NONE};
    uint32_t runtime = sample_shape(w, LOWTIDE_SHAPE_RUNTIME, 0, "runtime", &root, 1, NULL, 0);
    uint32_t type =
        sample_shape(w, LOWTIDE_SHAPE_OBJECT, LOWTIDE_SHAPE_HAS_GC | LOWTIDE_SHAPE_IS_TYPE, "type",
                     &class, 1, &rest, 1);
    rec_object(w, runtime, 0, 0, 0, 0);
    SAMPLE_EDGES(w, 1);
    rec_object(w, type, 0x1000, 1064, 2, LOWTIDE_TRACKED);
    SAMPLE_EDGES(w, 2, 1);
    sample_text(w, LOWTIDE_VALUE_NAME, "A");
    rec_object(w, type, 0x1800, 408, 0, LOWTIDE_TRACKED);
    SAMPLE_EDGES(w, 2);
    sample_text(w, LOWTIDE_VALUE_NAME, "type");
    return rec_close(w, 3, 0, e);
}

static void golden_row(rec_writer_t *w, uint64_t t_us, int64_t change, const char *text) {
    rec_table_number(w, t_us);
    rec_table_number(w, t_us % 7);
    rec_table_number(w, (uint64_t)change);
    rec_table_text(w, text, strlen(text));
}

/* Each type of column, a table in two sections of which the second has other columns, one that is
 * worth compressing. */
static void golden_tables(rec_writer_t *w) {
    static const rec_table_column_t all[] = {
        {"t_us", REC_DELTA}, {"small", REC_VARINT}, {"change", REC_SIGNED}, {"text", REC_TEXT}};
    static const rec_table_column_t fewer[] = {{"t_us", REC_DELTA}, {"later", REC_TEXT}};
    rec_table_begin(w, "everything", all, 4);
    golden_row(w, 0, 0, "");
    golden_row(w, UINT64_MAX, INT64_MIN, "gr\xc3\xb6\xc3\x9f\x65 \xff");
    golden_row(w, 5, INT64_MAX, "\xf0\x9f\x8c\x8a");
    rec_table_end(w);
    rec_table_begin(w, "everything", fewer, 2);
    rec_table_number(w, 1000000);
    rec_table_text(w, "of the second section", 21);
    rec_table_end(w);
    rec_table_begin(w, "timeline", all, 2);
    for (uint64_t i = 0; i < 400; i++) {
        rec_table_number(w, i * 1000000);
        rec_table_number(w, (64 << 20) + i % 5 * 4096);
    }
    rec_table_end(w);
}

/* Tables alone, and an END of zeros. */
static int golden_write_tables(int fd, err_t *e) {
    rec_writer_t *w;
    int status = rec_open(&w, fd, 0, REC_SAMPLE_CAPTURED_NS, e);
    if (status) return status;
    rec_meta(w, "pid", "7");
    golden_tables(w);
    return rec_close(w, 0, 0, e);
}

/* A heap, then by another hand what became known later: tables, meta, and another heap. */
static int golden_write_behind(int fd, err_t *e) {
    rec_writer_t *w;
    int status = sample_write(fd, e);
    int inner = memfd_create("inner", MFD_CLOEXEC);
    if (!status) status = golden_write_worked(inner, e);
    if (!status) status = rec_append(&w, fd, e);
    if (status) return status;
    golden_tables(w);
    rec_meta(w, "exit_status", "3");
    rec_nested_file(w, "peak", inner);
    close(inner);
    return rec_close(w, 0, 0, e);
}

static void golden_make(golden_t *g, int (*write_to)(int, err_t *)) {
    err_t e;
    int fd = memfd_create("golden", MFD_CLOEXEC);
    if (fd < 0 || write_to(fd, &e)) golden_die("cannot write a recording");
    ssize_t n = pread(fd, g->bytes, sizeof g->bytes, 0);
    close(fd);
    if (n <= 0 || (size_t)n == sizeof g->bytes) golden_die("the recording is too large");
    g->size = (size_t)n;
}

/* Where the n-th section of a kind begins, from 0. */
static size_t golden_find(const golden_t *g, uint16_t kind, int n) {
    for (size_t at = REC_HEADER_BYTES; at < g->size;) {
        rec_section_t section;
        memcpy(&section, g->bytes + at, sizeof section);
        if (section.kind == kind && n-- == 0) return at;
        at += sizeof section + section.stored_bytes;
    }
    golden_die("a section is not there");
    return 0;
}

/* Replaces a section, payload and all; its checksum is right, whatever is wrong with it. */
static void golden_replace(golden_t *g, size_t at, rec_section_t section, const uint8_t *payload,
                           size_t n) {
    rec_section_t old;
    memcpy(&old, g->bytes + at, sizeof old);
    size_t behind = at + sizeof old + old.stored_bytes;
    section.stored_bytes = (uint32_t)n;
    section.checksum = rec_section_checksum(&section, payload, n);
    memmove(g->bytes + at + sizeof section + n, g->bytes + behind, g->size - behind);
    memcpy(g->bytes + at, &section, sizeof section);
    memcpy(g->bytes + at + sizeof section, payload, n);
    g->size += n - old.stored_bytes;
}

static rec_section_t golden_section(const golden_t *g, size_t at) {
    rec_section_t section;
    memcpy(&section, g->bytes + at, sizeof section);
    return section;
}

static void golden_version(golden_t *g, uint16_t major, uint16_t minor) {
    rec_file_header_t header;
    memcpy(&header, g->bytes, sizeof header);
    header.major = major;
    header.minor = minor;
    header.checksum = rec_checksum(&header, REC_CHECKED_BYTES);
    memcpy(g->bytes, &header, sizeof header);
}

/* What a stranger, a bad disk or an early end make of a recording. */
static void golden_break_plainly(const golden_t *whole) {
    golden_t g = {.size = 0};
    golden_save(&g, "broken-empty");

    g = *whole;
    g.size = 20;
    golden_save(&g, "broken-cut-header");

    g = *whole;
    g.size = golden_find(whole, REC_OBJECTS, 1) + 40;
    golden_save(&g, "broken-cut");

    g = *whole;
    g.size = golden_find(whole, REC_OBJECTS, 0);
    golden_save(&g, "broken-cut-early");

    g = *whole;
    g.size = golden_find(whole, REC_END, 0);
    golden_save(&g, "broken-no-end");

    g = *whole;
    memcpy(g.bytes, "\x89PNG\r\n\x1a\n", 8);
    golden_save(&g, "broken-stranger");

    g = *whole;
    g.bytes[20] ^= 1;
    golden_save(&g, "broken-header");

    g = *whole;
    g.bytes[golden_find(whole, REC_OBJECTS, 1) + 50] ^= 0x10;
    golden_save(&g, "broken-checksum");

    g = *whole;
    size_t at = golden_find(whole, REC_OBJECTS, 1), next = golden_find(whole, REC_OBJECTS, 2);
    memmove(g.bytes + at, g.bytes + next, g.size - next);
    g.size -= next - at;
    golden_save(&g, "broken-missing-section");

    g = *whole;
    golden_version(&g, 2, 3);
    golden_save(&g, "broken-newer-major");
}

/* What someone makes who knows the format and means ill: all checksums are right. */
static void golden_break_slyly(const golden_t *whole) {
    golden_t g = *whole;
    size_t at = golden_find(whole, REC_OBJECTS, 0);
    rec_section_t section = golden_section(whole, at);
    uint8_t payload[256], *p = payload;
    const uint64_t huge[] = {0, 65536, 1, 65536, 9};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) p = varint_put(p, huge[i]);
    for (int i = 0; i < REC_COLUMNS; i++) {
        p = varint_put(p, UINT64_MAX);
        p = varint_put(p, 1);
    }
    section.raw_bytes = (uint32_t)(p - payload);
    golden_replace(&g, at, section, payload, (size_t)(p - payload));
    golden_save(&g, "broken-huge-counts");

    g = *whole;
    at = golden_find(whole, REC_STRINGS, 0);
    section = golden_section(whole, at);
    section.flags = REC_SECTION_ZSTD;
    section.raw_bytes = 200 << 20;
    golden_replace(&g, at, section, (const uint8_t *)"no frame", 8);
    golden_save(&g, "broken-frame");

    g = *whole;
    at = golden_find(whole, REC_STRINGS, 0);
    section = golden_section(whole, at);
    section.flags = 0;
    section.raw_bytes = 3;
    golden_replace(&g, at, section, (const uint8_t *)"\x02\xff\xfe", 3);
    golden_save(&g, "broken-text");

    g = *whole;
    at = golden_find(whole, REC_END, 0);
    section = golden_section(whole, at);
    section.raw_bytes = 4;
    golden_replace(&g, at, section, (const uint8_t *)"\x11\x63\x0f\x00", 4);
    golden_save(&g, "broken-end");

    /* The only reference of the runtime, the first in its column, goes to id 60. */
    g = *whole;
    at = golden_find(whole, REC_OBJECTS, 0);
    section = golden_section(whole, at);
    rec_section_t *stored = (rec_section_t *)(void *)(g.bytes + at);
    uint8_t *first = memmem(g.bytes + at, section.stored_bytes, "\x01\x01\x01\x01", 4);
    if (!first) golden_die("the references are not where they were");
    *first = (60 << 1 | 1) + 2;
    stored->checksum = rec_section_checksum(stored, stored + 1, section.stored_bytes);
    golden_save(&g, "broken-reference");
}

/* What a later 1.x may add: kinds of shapes, labels and values, a section, counts at the end. */
static int golden_write_newer(int fd, err_t *e) {
    rec_writer_t *w;
    int status = rec_open(&w, fd, 0, REC_SAMPLE_CAPTURED_NS, e);
    if (status) return status;
    rec_label_t labels[] = {{29, 0, LOWTIDE_NONE}, {30, 1, sample_string(w, "of 1.7")}};
    uint32_t shape = sample_shape(w, 9, 1 << 20, "newer", labels, 2, NULL, 0);
    rec_object(w, shape, 0, 8, 1, 0x40);
    SAMPLE_EDGES(w, 1, 0);
    rec_value_text(w, 9, 4, "new", 3); /* a byte count, 4, and so many bytes */
    rec_object(w, shape, 8, 8, 1, 0);
    SAMPLE_EDGES(w, REC_NULL, 1);
    rec_value_int(w, LOWTIDE_VALUE_INT, 7);
    return rec_close(w, 2, 0, e);
}

static void golden_newer_minor(void) {
    golden_t g;
    golden_make(&g, golden_write_newer);
    golden_version(&g, 1, 7);
    size_t end = golden_find(&g, REC_END, 0);
    rec_section_t section = golden_section(&g, end), extra = section;
    uint8_t payload[64];
    memcpy(payload, g.bytes + end + sizeof section, section.stored_bytes);
    payload[section.stored_bytes] = 42;
    section.raw_bytes = section.stored_bytes + 1;
    section.sequence++;
    golden_replace(&g, end, section, payload, section.raw_bytes);
    memmove(g.bytes + end + sizeof extra + 3, g.bytes + end, g.size - end);
    g.size += sizeof extra + 3;
    extra.kind = 77;
    extra.raw_bytes = extra.stored_bytes = 3;
    extra.checksum = rec_section_checksum(&extra, "new", 3);
    memcpy(g.bytes + end, &extra, sizeof extra);
    memcpy(g.bytes + end + sizeof extra, "new", 3);
    golden_save(&g, "v1.7-newer-minor");
}

/* Tables whose checksums are right and whose insides are not. */
static void golden_break_tables(const golden_t *tables, const golden_t *behind) {
    golden_t g = *tables;
    size_t at = golden_find(tables, REC_TABLE, 0);
    rec_section_t section = golden_section(tables, at);
    section.raw_bytes = 11; /* a hundred million rows of one byte */
    golden_replace(&g, at, section, (const uint8_t *)"\x01x\x80\xc2\xd7\x2f\x01\x01y\x01\x01", 11);
    golden_save(&g, "broken-table-front");

    g = *tables;
    section.raw_bytes = 11; /* one text of five bytes, of which one is there */
    golden_replace(&g, at, section, (const uint8_t *)"\x01x\x01\x01\x01y\x04\x02\x02\x05z", 11);
    golden_save(&g, "broken-table-text");

    g = *behind;
    g.size = golden_find(behind, REC_NESTED, 0) + 50;
    golden_save(&g, "broken-cut-behind");

    g = *tables;
    g.size = golden_find(tables, REC_TABLE, 2);
    golden_save(&g, "broken-cut-tables");
}

int main(int argc, char **argv) {
    static golden_t small, chain, worked, tables, behind;
    if (argc != 2) {
        fputs("usage: make_golden DIRECTORY\n", stderr);
        return 2;
    }
    golden_directory = argv[1];
    golden_make(&small, sample_write);
    golden_save(&small, "v1.0-small");
    golden_make(&chain, golden_write_chain);
    golden_save(&chain, "v1.0-chain");
    golden_make(&worked, golden_write_worked);
    golden_save(&worked, "v1.0-worked");
    golden_make(&tables, golden_write_tables);
    golden_save(&tables, "v1.1-tables");
    golden_make(&behind, golden_write_behind);
    golden_save(&behind, "v1.1-behind");
    golden_break_tables(&tables, &behind);
    golden_newer_minor();
    golden_break_plainly(&small);
    golden_break_slyly(&small);
    return 0;
}
