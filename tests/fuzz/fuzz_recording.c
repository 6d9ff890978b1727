/* The reader over any bytes: opens them, loads every chunk by different columns, looks at every
 * object, label, string and meta key. Checksums are ignored, since no fuzzer would find one.
 */
#include "base/mem.h"
#include "format/rec_bytes.h"
#include "lowtide/recording.h"

#include <stdlib.h>
#include <string.h>

static void fuzz_need(int condition) {
    if (!condition) abort();
}

static void fuzz_error(const char *line) {
    fuzz_need(line[0] && !strchr(line, '\n') && strlen(line) < sizeof(lowtide_error));
}

static void fuzz_tables(const lowtide_recording *rec) {
    const char *key, *value;
    for (uint32_t i = 0; lowtide_meta_at(rec, i, &key, &value); i++) {
        fuzz_need(lowtide_meta(rec, key) == value);
    }
    fuzz_need(lowtide_reached(rec) <= lowtide_objects(rec));
    for (uint32_t i = 0; i < lowtide_shapes(rec); i++) {
        const lowtide_shape *shape = lowtide_shape_at(rec, i);
        uint32_t index;
        fuzz_need(shape->type < lowtide_objects(rec) || shape->type == LOWTIDE_NONE);
        fuzz_need(strlen(lowtide_string(rec, shape->name)) < SIZE_MAX);
        for (uint32_t k = 0; k < shape->fixed_count + 2; k++) {
            lowtide_label label = lowtide_label_at(shape, k, &index);
            fuzz_need(label.kind >= LOWTIDE_CLASS && label.kind <= LOWTIDE_ROOT);
            fuzz_need(strlen(lowtide_string(rec, label.name)) < SIZE_MAX);
        }
    }
}

static void fuzz_object(lowtide_recording *rec, uint32_t id) {
    lowtide_object o;
    lowtide_error error;
    if (lowtide_object_at(rec, id, &o, &error)) {
        fuzz_error(error.text);
        return;
    }
    unsigned sum = 0;
    for (uint32_t k = 0; k < o.edge_count; k++) {
        fuzz_need(o.edges[k] < lowtide_objects(rec) || o.edges[k] == LOWTIDE_NONE);
    }
    for (uint32_t k = 0; k < o.value.text_bytes; k++) sum += (unsigned char)o.value.text[k];
    fuzz_need(o.shape < lowtide_shapes(rec) && sum < UINT32_MAX);
}

static void fuzz_chunks(lowtide_recording *rec) {
    static const unsigned columns[] = {LOWTIDE_COL_EDGES, 0,
                                       LOWTIDE_COL_ADDRESS | LOWTIDE_COL_VALUES, LOWTIDE_COL_ALL};
    lowtide_chunk *chunk = NULL;
    lowtide_error error;
    uint64_t references = 0;
    int all_well = 1;
    for (uint32_t i = 0; i < lowtide_chunks(rec); i++) {
        for (size_t k = 0; k < sizeof columns / sizeof *columns; k++) {
            if (lowtide_chunk_load(rec, i, columns[k], &chunk, &error)) {
                /* Not where the objects themselves are cut: those were counted at opening. One that is
                 * cut behind END has not been looked at. */
                fuzz_error(error.text);
                all_well = 0;
            } else if (k == 0) {
                for (uint32_t e = 0; e < chunk->edge_begin[chunk->count]; e++) {
                    references += chunk->edges[e] != LOWTIDE_NONE;
                }
            }
        }
    }
    fuzz_need(!all_well || references == lowtide_references(rec));
    lowtide_chunk_free(chunk);
}

static void fuzz_table(const lowtide_recording *rec, const char *name) {
    lowtide_table *table;
    lowtide_error error;
    int text;
    if (lowtide_table_load(rec, name, &table, &error)) {
        fuzz_error(error.text);
        return;
    }
    uint32_t rows = lowtide_table_rows(table);
    uint64_t sum = 0;
    const char *column;
    for (uint32_t i = 0; (column = lowtide_table_column_name(table, i, &text)); i++) {
        fuzz_need(lowtide_table_column(table, column) == i);
        for (uint32_t row = 0; row <= rows && row < 100; row++) {
            sum += lowtide_table_number(table, i, row) + strlen(lowtide_table_text(table, i, row));
        }
    }
    fuzz_need(lowtide_table_number(table, LOWTIDE_NONE, 0) == 0 && sum < UINT64_MAX);
    lowtide_table_free(table);
}

static void fuzz_rest(const lowtide_recording *rec) {
    const char *name;
    const void *bytes;
    size_t n;
    for (uint32_t i = 0; i < 20 && (name = lowtide_table_name(rec, i)); i++) fuzz_table(rec, name);
    fuzz_table(rec, "not there");
    for (uint32_t i = 0; lowtide_nested_at(rec, i, &name, &bytes, &n); i++) {
        fuzz_need(strlen(name) <= 4096 && n <= lowtide_file_bytes(rec));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    lowtide_recording *rec;
    lowtide_error error;
    rec_checksums_ignored = 1;
    mem_limit(1 << 30);
    if (lowtide_open_memory(bytes, n, &rec, &error)) {
        fuzz_error(error.text);
        return 0;
    }
    if (lowtide_cut(rec)) fuzz_error(lowtide_cut(rec));
    fuzz_tables(rec);
    fuzz_chunks(rec);
    fuzz_rest(rec);
    uint32_t objects = lowtide_objects(rec);
    for (uint32_t id = 0; id < objects && id < 200; id++) fuzz_object(rec, id);
    fuzz_object(rec, objects - 1);
    fuzz_object(rec, objects);
    lowtide_close(rec);
    return 0;
}
