/* Prints a recording as JSON lines through the reader, so that a second decoder can be held against
 * it: the recording, meta, shapes, then each object, each row of each table, and how long nested
 * recordings are. On failure: {"error": …} last, and status 1.
 *
 *     rec_print FILE
 */
#include "lowtide/recording.h"

#include <stdio.h>
#include <string.h>

static void print_text(const char *text, size_t n) {
    putchar('"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            printf("\\%c", c);
        } else if (c < 0x20) {
            printf("\\u%04x", c);
        } else {
            putchar(c);
        }
    }
    putchar('"');
}

static void print_id(uint32_t id) {
    if (id == LOWTIDE_NONE) {
        fputs("null", stdout);
    } else {
        printf("%u", id);
    }
}

static void print_string(const lowtide_recording *rec, uint32_t string) {
    if (string == LOWTIDE_NONE) {
        fputs("null", stdout);
    } else {
        print_text(lowtide_string(rec, string), strlen(lowtide_string(rec, string)));
    }
}

static void print_labels(const lowtide_recording *rec, const lowtide_label *labels, uint32_t n) {
    putchar('[');
    for (uint32_t i = 0; i < n; i++) {
        printf("%s[%u, %u, ", i ? ", " : "", labels[i].kind, labels[i].borrowed);
        print_string(rec, labels[i].name);
        putchar(']');
    }
    putchar(']');
}

static void print_value(const lowtide_value *value) {
    printf("[%u", value->kind);
    switch (value->kind) {
    case LOWTIDE_VALUE_STR:
        printf(", %llu, ", (unsigned long long)value->length);
        print_text(value->text, value->text_bytes);
        break;
    case LOWTIDE_VALUE_BYTES:
        printf(", %llu, \"", (unsigned long long)value->length);
        for (uint32_t i = 0; i < value->text_bytes; i++) {
            printf("%02x", (unsigned char)value->text[i]);
        }
        putchar('"');
        break;
    case LOWTIDE_VALUE_NAME:
        fputs(", ", stdout);
        print_text(value->text, value->text_bytes);
        break;
    case LOWTIDE_VALUE_INT:
    case LOWTIDE_VALUE_BOOL:
        printf(", %lld", (long long)value->integer);
        break;
    case LOWTIDE_VALUE_BIG_INT:
        printf(", %llu", (unsigned long long)value->length);
        break;
    case LOWTIDE_VALUE_FLOAT: {
        uint64_t bits;
        memcpy(&bits, &value->real, sizeof bits);
        printf(", %llu", (unsigned long long)bits);
        break;
    }
    default:
        break;
    }
    putchar(']');
}

static void print_tables(const lowtide_recording *rec) {
    const char *key, *value;
    printf(
        "{\"objects\": %u, \"references\": %llu, \"reached\": %u, \"captured_ns\": %llu, \"cut\": ",
        lowtide_objects(rec), (unsigned long long)lowtide_references(rec), lowtide_reached(rec),
        (unsigned long long)lowtide_captured_ns(rec));
    const char *cut = lowtide_cut(rec);
    if (cut) print_text(cut, strlen(cut));
    puts(cut ? "}" : "null}");
    for (uint32_t i = 0; lowtide_meta_at(rec, i, &key, &value); i++) {
        fputs("{\"key\": ", stdout);
        print_text(key, strlen(key));
        fputs(", \"value\": ", stdout);
        print_text(value, strlen(value));
        puts("}");
    }
    for (uint32_t i = 0; i < lowtide_shapes(rec); i++) {
        const lowtide_shape *shape = lowtide_shape_at(rec, i);
        printf("{\"shape\": %u, \"kind\": %u, \"flags\": %u, \"type\": ", i, shape->kind,
               shape->flags);
        print_id(shape->type);
        fputs(", \"name\": ", stdout);
        print_string(rec, shape->name);
        fputs(", \"module\": ", stdout);
        print_string(rec, shape->module);
        fputs(", \"fixed\": ", stdout);
        print_labels(rec, shape->fixed, shape->fixed_count);
        fputs(", \"repeat\": ", stdout);
        print_labels(rec, shape->repeat, shape->repeat_count);
        puts("}");
    }
}

static void print_object(const lowtide_chunk *chunk, uint32_t i) {
    printf("{\"id\": %u, \"shape\": %u, \"address\": %llu, \"size\": %llu, \"refcount\": %llu, "
           "\"flags\": %u, \"buffers\": %llu, \"edges\": [",
           chunk->first + i, chunk->shape[i], (unsigned long long)chunk->address[i],
           (unsigned long long)chunk->size[i], (unsigned long long)chunk->refcount[i],
           chunk->flags[i], (unsigned long long)chunk->buffers[i]);
    for (uint32_t k = chunk->edge_begin[i]; k < chunk->edge_begin[i + 1]; k++) {
        if (k > chunk->edge_begin[i]) fputs(", ", stdout);
        print_id(chunk->edges[k]);
    }
    fputs("], \"value\": ", stdout);
    if (chunk->values[i].kind == LOWTIDE_VALUE_NONE) {
        fputs("null", stdout);
    } else {
        print_value(&chunk->values[i]);
    }
    puts("}");
}

/* Numbers as they are in 64 bits; whether a column is signed is for the table to say. */
static void print_row(const lowtide_table *table, const char *name, uint32_t row) {
    int text;
    fputs("{\"table\": ", stdout);
    print_text(name, strlen(name));
    fputs(", \"row\": {", stdout);
    const char *column;
    for (uint32_t i = 0; (column = lowtide_table_column_name(table, i, &text)); i++) {
        if (i) fputs(", ", stdout);
        print_text(column, strlen(column));
        fputs(": ", stdout);
        const char *value = lowtide_table_text(table, i, row);
        if (text) {
            print_text(value, strlen(value));
        } else {
            printf("%llu", (unsigned long long)lowtide_table_number(table, i, row));
        }
    }
    puts("}}");
}

static int print_rest(const lowtide_recording *rec, lowtide_error *error) {
    const char *name;
    const void *bytes;
    size_t n;
    for (uint32_t i = 0; (name = lowtide_table_name(rec, i)); i++) {
        lowtide_table *table;
        int status = lowtide_table_load(rec, name, &table, error);
        if (status) return status;
        for (uint32_t row = 0; row < lowtide_table_rows(table); row++) print_row(table, name, row);
        lowtide_table_free(table);
    }
    for (uint32_t i = 0; lowtide_nested_at(rec, i, &name, &bytes, &n); i++) {
        fputs("{\"nested\": ", stdout);
        print_text(name, strlen(name));
        printf(", \"bytes\": %zu}\n", n);
    }
    return 0;
}

int main(int argc, char **argv) {
    lowtide_recording *rec = NULL;
    lowtide_chunk *chunk = NULL;
    lowtide_error error;
    if (argc != 2) {
        fputs("usage: rec_print FILE\n", stderr);
        return 2;
    }
    int status = lowtide_open(argv[1], &rec, &error);
    if (!status) print_tables(rec);
    for (uint32_t i = 0; !status && i < lowtide_chunks(rec); i++) {
        status = lowtide_chunk_load(rec, i, LOWTIDE_COL_ALL, &chunk, &error);
        for (uint32_t k = 0; !status && k < chunk->count; k++) print_object(chunk, k);
    }
    if (!status) status = print_rest(rec, &error);
    if (status) {
        fputs("{\"error\": ", stdout);
        print_text(error.text, strlen(error.text));
        puts("}");
    }
    lowtide_chunk_free(chunk);
    lowtide_close(rec);
    return status ? 1 : 0;
}
