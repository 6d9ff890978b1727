#define _GNU_SOURCE
#include "base/mem.h"
#include "base/varint.h"
#include "format/rec_reader.h"
#include "format/rec_table.h"
#include "format/rec_utf8.h"

#include <errno.h>
#include <string.h>

/* At opening the front of each TABLE section is checked and remembered; its columns are unfolded and
 * checked when the table is loaded. */

enum { REC_TABLES_MOST = 4096, REC_TABLE_VALUES_MOST = 128 << 20, REC_TABLE_NAME_MOST = 4096 };

static int rec_bad(const char **why, const char *reason) {
    *why = reason;
    return -EBADMSG;
}

typedef struct rec_table_front {
    const uint8_t *name;
    size_t name_bytes;
    uint32_t rows, count;
    struct {
        const uint8_t *name, *at;
        uint32_t name_bytes, raw, stored;
        uint8_t type; /* 0: one that this reader does not know */
    } column[REC_TABLE_COLUMNS_MOST];
} rec_table_front_t;

/* A name: valid UTF-8 without NUL. NULL when it is none. */
static const uint8_t *rec_name_read(const uint8_t *p, const uint8_t *end, uint64_t *n) {
    p = varint_get(p, end, n);
    if (!p || *n > REC_TABLE_NAME_MOST || *n > (size_t)(end - p) || memchr(p, 0, *n) ||
        !utf8_is_valid((const char *)p, *n)) {
        return NULL;
    }
    return p;
}

static int rec_front_read(const uint8_t *p, const uint8_t *end, rec_table_front_t *front) {
    uint64_t n, rows, columns, total = 0, unfolded = 0;
    if (!(front->name = p = rec_name_read(p, end, &n))) return -EBADMSG;
    front->name_bytes = n;
    p += n;
    if (!(p = varint_get(p, end, &rows)) || !(p = varint_get(p, end, &columns))) return -EBADMSG;
    if (rows > REC_ROWS_MOST || columns > REC_TABLE_COLUMNS_MOST) return -EBADMSG;
    front->rows = (uint32_t)rows;
    front->count = (uint32_t)columns;
    for (uint32_t i = 0; i < front->count; i++) {
        uint64_t type, raw, stored;
        if (!(front->column[i].name = p = rec_name_read(p, end, &n))) return -EBADMSG;
        front->column[i].name_bytes = (uint32_t)n;
        p += n;
        if (!(p = varint_get(p, end, &type)) || !(p = varint_get(p, end, &raw)) ||
            !(p = varint_get(p, end, &stored))) {
            return -EBADMSG;
        }
        int known = type >= REC_VARINT && type <= REC_TEXT;
        int number = known && type != REC_TEXT;
        if (stored > raw || raw > REC_SECTION_BYTES_MOST || (known && raw < rows) ||
            (number && raw > rows * 2 * VARINT_MOST_BYTES)) {
            return -EBADMSG;
        }
        total += stored;
        unfolded += raw;
        front->column[i].type = known ? (uint8_t)type : 0;
        front->column[i].raw = (uint32_t)raw;
        front->column[i].stored = (uint32_t)stored;
    }
    if (total > (uint64_t)(end - p) || unfolded > REC_SECTION_BYTES_MOST) return -EBADMSG;
    for (uint32_t i = 0; i < front->count; p += front->column[i++].stored) front->column[i].at = p;
    return 0;
}

/* The number of a table by its name, or how many there are. */
static uint32_t rec_table_find(const lowtide_recording *rec, const char *name, size_t n) {
    uint32_t i = 0;
    for (; i < rec->table_names.count; i++) {
        const char *known = rec->texts.at + rec->table_names.at[i];
        if (!strncmp(known, name, n) && !known[n]) break;
    }
    return i;
}

int rec_table_take(lowtide_recording *rec, const uint8_t *p, const uint8_t *end, const char **why) {
    rec_table_front_t front;
    if (rec_front_read(p, end, &front)) return rec_bad(why, "a table's front makes no sense");
    uint32_t number = rec_table_find(rec, (const char *)front.name, front.name_bytes);
    if (number == rec->table_names.count) {
        uint32_t offset;
        const uint8_t *name = p;
        if (number == REC_TABLES_MOST) return rec_bad(why, "there are too many tables");
        int status = rec_text_take(rec, &name, end, &offset, why);
        if (status) return status;
        if (rec_offsets_push(&rec->table_names, offset)) return -ENOMEM;
    }
    rec_part_t part = {
        .payload = (uint64_t)(p - rec->bytes), .bytes = (uint32_t)(end - p), .name = number};
    return rec_parts_push(&rec->tables, part);
}

int rec_nested_take(lowtide_recording *rec, const uint8_t *p, const uint8_t *end,
                    const char **why) {
    uint32_t offset;
    int status = rec_text_take(rec, &p, end, &offset, why);
    if (status) return status;
    rec_part_t part = {
        .payload = (uint64_t)(p - rec->bytes), .bytes = (uint32_t)(end - p), .name = offset};
    return rec_parts_push(&rec->nested, part);
}

const char *lowtide_table_name(const lowtide_recording *rec, uint32_t i) {
    return i < rec->table_names.count ? rec->texts.at + rec->table_names.at[i] : NULL;
}

int lowtide_nested_at(const lowtide_recording *rec, uint32_t i, const char **name,
                      const void **bytes, size_t *n) {
    if (i >= rec->nested.count) return 0;
    *name = rec->texts.at + rec->nested.at[i].name;
    *bytes = rec->bytes + rec->nested.at[i].payload;
    *n = rec->nested.at[i].bytes;
    return 1;
}

/* Loading. */

VEC_DEFINE(rec_numbers, uint64_t);

typedef struct rec_table_data {
    char *name;
    int text;
    rec_numbers_t numbers; /* shorter than the table where the column was missing */
    rec_offsets_t offsets; /* in texts; 0 is "" */
} rec_table_data_t;

struct lowtide_table {
    uint32_t rows, count;
    rec_table_data_t columns[REC_TABLE_COLUMNS_MOST];
    rec_texts_t texts;
    rec_bytes_t unfolded;
    rec_unfold_t zstd;
    arena_t arena; /* names of columns */
};

static int rec_numbers_read(lowtide_table *t, rec_table_data_t *data, int type, uint32_t rows,
                            const uint8_t *p, const uint8_t *end) {
    uint64_t before = 0, v;
    size_t first = data->numbers.count = t->rows;
    for (uint32_t i = 0; i < rows; i++) {
        if (!(p = varint_get(p, end, &v))) return -EBADMSG;
        if (type != REC_VARINT) v = (uint64_t)zigzag_decode(v);
        if (type == REC_DELTA) before = v += before;
        data->numbers.at[first + i] = v;
    }
    data->numbers.count = first + rows;
    return p == end ? 0 : -EBADMSG;
}

static int rec_texts_read(lowtide_table *t, rec_table_data_t *data, uint32_t rows, const uint8_t *p,
                          const uint8_t *end) {
    uint64_t n;
    size_t first = data->offsets.count = t->rows;
    /* Each text pays for its NUL with its count. */
    if (t->texts.count + (size_t)(end - p) + 1 > REC_SECTION_BYTES_MOST) return -EBADMSG;
    if (rec_texts_reserve(&t->texts, (size_t)(end - p) + 1)) return -ENOMEM;
    if (!t->texts.count) t->texts.at[t->texts.count++] = '\0';
    for (uint32_t i = 0; i < rows; i++) {
        p = varint_get(p, end, &n);
        if (!p || n > REC_TABLE_TEXT_MOST || n > (size_t)(end - p) || memchr(p, 0, n) ||
            !utf8_is_valid((const char *)p, n)) {
            return -EBADMSG;
        }
        if (n) {
            data->offsets.at[first + i] = (uint32_t)t->texts.count;
            memcpy(t->texts.at + t->texts.count, p, n);
            t->texts.at[t->texts.count + n] = '\0';
            t->texts.count += n + 1;
        }
        p += n;
    }
    data->offsets.count = first + rows;
    return p == end ? 0 : -EBADMSG;
}

/* The table's column of that name, made when it is the first section to have it. */
static int rec_data_of(lowtide_table *t, const uint8_t *name, uint32_t n, int text,
                       rec_table_data_t **out) {
    rec_table_data_t *data = t->columns;
    for (; data < t->columns + t->count; data++) {
        if (!strncmp(data->name, (const char *)name, n) && !data->name[n]) break;
    }
    *out = data;
    if (data < t->columns + t->count) return data->text == text ? 0 : -EBADMSG;
    if (t->count == REC_TABLE_COLUMNS_MOST) return -EBADMSG;
    data->name = arena_text(&t->arena, (const char *)name, n);
    data->text = text;
    t->count++;
    return data->name ? 0 : -ENOMEM;
}

static int rec_section_load(lowtide_table *t, const rec_table_front_t *front) {
    for (uint32_t i = 0; i < front->count; i++) {
        int type = front->column[i].type, text = type == REC_TEXT, status;
        uint32_t raw = front->column[i].raw, stored = front->column[i].stored;
        const uint8_t *bytes = front->column[i].at;
        rec_table_data_t *data;
        if (!type) continue;
        status = rec_data_of(t, front->column[i].name, front->column[i].name_bytes, text, &data);
        if (status) return status;
        if ((text ? data->offsets.count : data->numbers.count) > t->rows) return -EBADMSG;
        size_t rows = (size_t)t->rows + front->rows;
        data->offsets.count = data->numbers.count = 0;
        status = text ? rec_offsets_reserve(&data->offsets, rows)
                      : rec_numbers_reserve(&data->numbers, rows);
        if (status) return status;
        if (stored < raw) {
            t->unfolded.count = 0;
            if (rec_bytes_reserve(&t->unfolded, raw)) return -ENOMEM;
            status = rec_unfold(&t->zstd, t->unfolded.at, raw, bytes, stored);
            if (status) return status;
            bytes = t->unfolded.at;
        }
        status = text ? rec_texts_read(t, data, front->rows, bytes, bytes + raw)
                      : rec_numbers_read(t, data, type, front->rows, bytes, bytes + raw);
        if (status) return status;
    }
    t->rows += front->rows;
    return (uint64_t)t->rows * (t->count ? t->count : 1) > REC_TABLE_VALUES_MOST ? -EBADMSG : 0;
}

static int rec_table_load(const lowtide_recording *rec, uint32_t number, lowtide_table *t) {
    for (size_t i = 0; i < rec->tables.count; i++) {
        rec_table_front_t front;
        const rec_part_t *part = &rec->tables.at[i];
        if (part->name != number) continue;
        const uint8_t *p = rec->bytes + part->payload;
        int status = rec_front_read(p, p + part->bytes, &front);
        /* Asked for before memory is. */
        if (!status && (uint64_t)front.count * (t->rows + front.rows) > REC_TABLE_VALUES_MOST) {
            status = -EBADMSG;
        }
        if (!status) status = rec_section_load(t, &front);
        if (status) return status;
    }
    return 0;
}

int lowtide_table_load(const lowtide_recording *rec, const char *name, lowtide_table **out,
                       lowtide_error *error) {
    *out = NULL;
    lowtide_table *t = mem_map(sizeof *t);
    if (!t) return err_sys(rec_err(error), -ENOMEM, "cannot read %s", rec->name);
    uint32_t number = rec_table_find(rec, name, strlen(name));
    int status = number < rec->table_names.count ? rec_table_load(rec, number, t) : 0;
    rec_bytes_free(&t->unfolded);
    rec_unfold_free(&t->zstd);
    if (status) {
        lowtide_table_free(t);
        if (status == -EBADMSG) {
            return err_set(rec_err(error), status, "%s is damaged: its table '%s' makes no sense",
                           rec->name, name);
        }
        return err_sys(rec_err(error), status, "cannot read %s", rec->name);
    }
    *out = t;
    return 0;
}

void lowtide_table_free(lowtide_table *t) {
    if (!t) return;
    for (uint32_t i = 0; i < REC_TABLE_COLUMNS_MOST; i++) {
        rec_numbers_free(&t->columns[i].numbers);
        rec_offsets_free(&t->columns[i].offsets);
    }
    rec_texts_free(&t->texts);
    rec_bytes_free(&t->unfolded);
    rec_unfold_free(&t->zstd);
    arena_free(&t->arena);
    mem_unmap(t, sizeof *t);
}

uint32_t lowtide_table_rows(const lowtide_table *t) {
    return t->rows;
}

uint32_t lowtide_table_column(const lowtide_table *t, const char *name) {
    for (uint32_t i = 0; i < t->count; i++) {
        if (!strcmp(t->columns[i].name, name)) return i;
    }
    return LOWTIDE_NONE;
}

const char *lowtide_table_column_name(const lowtide_table *t, uint32_t i, int *text) {
    if (i >= t->count) return NULL;
    *text = t->columns[i].text;
    return t->columns[i].name;
}

uint64_t lowtide_table_number(const lowtide_table *t, uint32_t column, uint32_t row) {
    if (column >= t->count || row >= t->columns[column].numbers.count) return 0;
    return t->columns[column].numbers.at[row];
}

const char *lowtide_table_text(const lowtide_table *t, uint32_t column, uint32_t row) {
    if (column >= t->count || row >= t->columns[column].offsets.count) return "";
    uint32_t offset = t->columns[column].offsets.at[row];
    return t->texts.at + offset;
}
