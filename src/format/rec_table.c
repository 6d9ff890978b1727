#define _GNU_SOURCE
#include "format/rec_table.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zstd.h>

enum {
    REC_TABLE_SECTION_ROWS = 65536,
    REC_TABLE_COLUMN_BYTES = 4 << 20, /* of a column, before the section is cut */
    REC_NAME_MOST = 256
};

typedef struct rec_column_state {
    const char *name;
    enum rec_table_type type;
    uint64_t last;
    rec_bytes_t bytes;
} rec_column_state_t;

typedef struct rec_table {
    char name[REC_NAME_MOST];
    uint32_t count; /* of columns; 0: no table is begun */
    uint32_t next;  /* the column that the next value goes to */
    uint32_t rows;
    int full;
    rec_column_state_t columns[REC_TABLE_COLUMNS_MOST];
} rec_table_t;

void rec_table_free(rec_writer_t *w) {
    if (!w->table) return;
    for (uint32_t i = 0; i < REC_TABLE_COLUMNS_MOST; i++) {
        rec_bytes_free(&w->table->columns[i].bytes);
    }
    mem_unmap(w->table, sizeof *w->table);
    w->table = NULL;
}

static uint8_t *rec_put_name(uint8_t *at, const char *name) {
    size_t n = strnlen(name, REC_NAME_MOST - 1);
    at = varint_put(at, n);
    memcpy(at, name, n);
    return at + n;
}

/* The columns stand behind the room for the largest front; the front is then laid right before
 * them, and the section's header before that. */
static void rec_table_write(rec_writer_t *w) {
    rec_table_t *t = w->table;
    const size_t front_most = (t->count + 1) * (REC_NAME_MOST + 4 * VARINT_MOST_BYTES);
    size_t most = REC_HEADER_BYTES + front_most, stored[REC_TABLE_COLUMNS_MOST];
    for (uint32_t i = 0; i < t->count; i++) most += ZSTD_compressBound(t->columns[i].bytes.count);
    w->scratch.count = 0;
    if (rec_bytes_reserve(&w->out, most) || rec_bytes_reserve(&w->scratch, front_most)) {
        rec_fail(w, -ENOMEM, "");
        return;
    }
    size_t columns_at = REC_HEADER_BYTES + front_most, end = columns_at;
    for (uint32_t i = 0; i < t->count; i++) {
        uint32_t as_is = 0;
        stored[i] = rec_fold(w, end, t->columns[i].bytes.at, t->columns[i].bytes.count, &as_is);
        end += stored[i];
    }
    uint8_t *at = rec_put_name(w->scratch.at, t->name);
    at = varint_put(at, t->rows);
    at = varint_put(at, t->count);
    for (uint32_t i = 0; i < t->count; i++) {
        at = rec_put_name(at, t->columns[i].name);
        at = varint_put(at, t->columns[i].type);
        at = varint_put(at, t->columns[i].bytes.count);
        at = varint_put(at, stored[i]);
    }
    size_t front = (size_t)(at - w->scratch.at), payload = columns_at - front;
    memcpy(w->out.at + payload, w->scratch.at, front);
    rec_section_write(w, REC_TABLE, 0, payload, end - payload, end - payload);
}

static void rec_table_flush(rec_writer_t *w) {
    rec_table_t *t = w->table;
    rec_meta_flush(w);
    if (t->rows && !w->status) rec_table_write(w);
    for (uint32_t i = 0; i < t->count; i++) {
        t->columns[i].bytes.count = 0;
        t->columns[i].last = 0;
    }
    t->rows = 0;
    t->full = 0;
}

void rec_table_begin(rec_writer_t *w, const char *name, const rec_table_column_t *columns,
                     uint32_t count) {
    if (w->status) return;
    if (!w->table) w->table = mem_map(sizeof *w->table);
    rec_table_t *t = w->table;
    if (!t) {
        rec_fail(w, -ENOMEM, "");
    } else if (t->count || !count || count > REC_TABLE_COLUMNS_MOST ||
               strlen(name) >= REC_NAME_MOST) {
        rec_misuse(w, "a table is begun inside another, or has no columns, or too many");
    } else {
        memcpy(t->name, name, strlen(name) + 1);
        for (uint32_t i = 0; i < count; i++) {
            t->columns[i].name = columns[i].name;
            t->columns[i].type = columns[i].type;
        }
        t->count = count;
        t->next = 0;
        rec_table_flush(w);
    }
}

/* Room for the next value; NULL when there is none to come. */
static uint8_t *rec_table_room(rec_writer_t *w, int text, size_t bytes) {
    rec_table_t *t = w->table;
    if (w->status) return NULL;
    if (!t || !t->count || (t->columns[t->next].type == REC_TEXT) != text) {
        rec_misuse(w, "a value does not fit its column");
        return NULL;
    }
    rec_bytes_t *out = &t->columns[t->next].bytes;
    if (rec_bytes_reserve(out, bytes)) {
        rec_fail(w, -ENOMEM, "");
        return NULL;
    }
    return out->at + out->count;
}

static void rec_table_done(rec_writer_t *w, const uint8_t *end) {
    rec_table_t *t = w->table;
    rec_bytes_t *out = &t->columns[t->next].bytes;
    out->count = (size_t)(end - out->at);
    if (out->count >= REC_TABLE_COLUMN_BYTES) t->full = 1;
    if (++t->next < t->count) return;
    t->next = 0;
    t->rows++;
    if (t->full || t->rows == REC_TABLE_SECTION_ROWS) rec_table_flush(w);
}

void rec_table_number(rec_writer_t *w, uint64_t v) {
    uint8_t *at = rec_table_room(w, 0, VARINT_MOST_BYTES);
    if (!at) return;
    rec_column_state_t *column = &w->table->columns[w->table->next];
    uint64_t before = column->last;
    column->last = v;
    if (column->type == REC_DELTA) v -= before;
    if (column->type != REC_VARINT) v = zigzag_encode((int64_t)v);
    rec_table_done(w, varint_put(at, v));
}

void rec_table_text(rec_writer_t *w, const char *text, size_t n) {
    if (n > REC_TABLE_TEXT_MOST / 3) {
        /* Replacing what is not UTF-8 may make it three times as long. */
        if (n > REC_TABLE_TEXT_MOST) n = REC_TABLE_TEXT_MOST;
        size_t clean = w->status ? 0 : rec_clean(w, text, n);
        if (clean > REC_TABLE_TEXT_MOST) n = REC_TABLE_TEXT_MOST / 3;
    }
    size_t bytes = w->status ? 0 : rec_clean(w, text, n);
    uint8_t *at = rec_table_room(w, 1, VARINT_MOST_BYTES + bytes);
    if (!at) return;
    at = varint_put(at, bytes);
    memcpy(at, w->scratch.at, bytes);
    rec_table_done(w, at + bytes);
}

void rec_table_end(rec_writer_t *w) {
    rec_table_t *t = w->table;
    if (!t || !t->count) return;
    if (t->next) rec_misuse(w, "a table ends within a row");
    rec_table_flush(w);
    t->count = 0;
}

/* Nested recordings. */

void rec_nested(rec_writer_t *w, const char *name, const void *bytes, size_t n) {
    rec_table_end(w);
    rec_meta_flush(w);
    if (w->status) return;
    uint8_t front[REC_NAME_MOST + VARINT_MOST_BYTES];
    size_t front_bytes = (size_t)(rec_put_name(front, name) - front);
    if (n > REC_SECTION_BYTES_MOST - sizeof front) {
        rec_fail(w, -E2BIG, "a recording within it is larger than 1 GiB");
        return;
    }
    rec_section_t header = {.kind = REC_NESTED,
                            .sequence = w->sequence++,
                            .raw_bytes = (uint32_t)(front_bytes + n),
                            .stored_bytes = (uint32_t)(front_bytes + n)};
    memcpy(header.magic, REC_SECTION_MAGIC, sizeof header.magic);
    header.checksum = rec_section_checksum_of_two(&header, front, front_bytes, bytes, n);
    rec_write(w, (const uint8_t *)&header, sizeof header);
    rec_write(w, front, front_bytes);
    rec_write(w, bytes, n);
}

void rec_nested_file(rec_writer_t *w, const char *name, int from) {
    struct stat st;
    if (w->status) return;
    if (fstat(from, &st)) {
        rec_fail(w, -errno, "a recording to go into it cannot be read");
        return;
    }
    size_t n = st.st_size > 0 ? (size_t)st.st_size : 0;
    void *bytes = n ? mmap(NULL, n, PROT_READ, MAP_SHARED, from, 0) : MAP_FAILED;
    if (bytes == MAP_FAILED) {
        rec_fail(w, n ? -errno : -EINVAL, "a recording to go into it cannot be read");
        return;
    }
    rec_nested(w, name, bytes, n);
    munmap(bytes, n);
}

/* Going on with a recording. */

/* Where its whole sections end, how many there are, and whether END is among them. */
static int rec_append_scan(const uint8_t *bytes, size_t size, uint64_t *end, uint32_t *sequence,
                           uint8_t *ended) {
    rec_file_header_t file;
    if (size < sizeof file) return -EBADMSG;
    memcpy(&file, bytes, sizeof file);
    if (memcmp(file.magic, REC_MAGIC, sizeof file.magic) != 0 || file.major != REC_MAJOR ||
        rec_checksum(&file, REC_CHECKED_BYTES) != file.checksum) {
        return -EBADMSG;
    }
    size_t at = sizeof file;
    *sequence = 0;
    *ended = 0;
    for (rec_section_t section; size - at >= sizeof section; (*sequence)++) {
        memcpy(&section, bytes + at, sizeof section);
        const uint8_t *payload = bytes + at + sizeof section;
        if (memcmp(section.magic, REC_SECTION_MAGIC, sizeof section.magic) != 0 ||
            section.sequence != *sequence || section.stored_bytes > size - at - sizeof section ||
            rec_section_checksum(&section, payload, section.stored_bytes) != section.checksum) {
            break;
        }
        if (section.kind == REC_END || section.kind == REC_OBJECTS) *ended = 1;
        at += sizeof section + section.stored_bytes;
    }
    *end = at;
    return 0;
}

/* A reader of 1.0 stops at END; one of 1.1 stops there in a recording of 1.0. */
static int rec_append_minor(int fd) {
    rec_file_header_t header;
    if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header) return -1;
    if (header.minor >= REC_MINOR) return 0;
    header.minor = REC_MINOR;
    header.checksum = rec_checksum(&header, REC_CHECKED_BYTES);
    return pwrite(fd, &header, sizeof header, 0) == (ssize_t)sizeof header ? 0 : -1;
}

int rec_append(rec_writer_t **out, int fd, err_t *e) {
    struct stat st;
    uint64_t end = 0;
    uint32_t sequence = 0;
    uint8_t ended = 0;
    *out = NULL;
    if (fstat(fd, &st)) return err_sys(e, -errno, "cannot go on with the recording");
    size_t size = S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size : 0;
    void *bytes = size ? mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    int status =
        bytes == MAP_FAILED ? -EBADMSG : rec_append_scan(bytes, size, &end, &sequence, &ended);
    if (bytes != MAP_FAILED) munmap(bytes, size);
    if (status) return err_set(e, status, "cannot go on with the recording: it is none");
    if ((end < size && ftruncate(fd, (off_t)end)) || lseek(fd, (off_t)end, SEEK_SET) < 0) {
        return err_sys(e, -errno, "cannot go on with the recording");
    }
    status = rec_open_at(out, fd, 0, NULL, e);
    if (status) return status;
    if (rec_append_minor(fd)) {
        status = err_sys(e, -errno, "cannot go on with the recording");
        rec_abandon(*out);
        *out = NULL;
        return status;
    }
    (*out)->sequence = sequence;
    (*out)->ended = ended;
    return 0;
}
