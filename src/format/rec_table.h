/* Writing tables and nested recordings: everything of a recording that is not the heap
 * (docs/format.md lists the tables and their columns).
 *
 * They go through the same writer as the heap, so they may be written beside it, without it, or
 * behind it; and like it without malloc, lock or stdio.
 *
 *     rec_open(&w, fd, …)            a new recording                      or   rec_append(&w, fd, &e)
 *     rec_object …                   a heap, or none                           one that is there
 *     static const rec_table_column_t columns[] = {{"t_us", REC_DELTA}, {"rss_bytes", REC_VARINT}};
 *     rec_table_begin(w, "timeline", columns, 2);
 *     for each row, in the order of the columns:
 *         rec_table_number(w, t_us);
 *         rec_table_number(w, rss_bytes);
 *     rec_table_end(w);                                     now it stands in the file
 *     rec_close(w, 0, 0, &e);                               reached and skipped are 0 without a heap
 *
 * One table at a time. A table may be begun again later: its rows follow on one another. Long ones
 * are cut into sections on the way, so memory stays bounded. Errors stick in the writer, as ever.
 */
#ifndef LOWTIDE_FORMAT_REC_TABLE_H
#define LOWTIDE_FORMAT_REC_TABLE_H

#include "format/rec_writer.h"

/* Of a column. REC_SIGNED and REC_DELTA take an int64_t, cast. REC_DELTA suits what rises steadily
 * or repeats: times, addresses, ids. */
enum rec_table_type { REC_VARINT = 1, REC_SIGNED, REC_DELTA, REC_TEXT };

typedef struct rec_table_column {
    const char *name; /* must stay until rec_table_end */
    enum rec_table_type type;
} rec_table_column_t;

/* Goes on with a recording that is there: cuts off what a killed writer left behind its last whole
 * section, and stands behind that one. What follows may be tables, nested recordings and meta, no
 * heap; rec_close then writes an END only where objects or an END are missing. fd must be open for
 * reading and writing, on a file, and stays the caller's. -EBADMSG: not a recording. */
int rec_append(rec_writer_t **out, int fd, err_t *e);

void rec_table_begin(rec_writer_t *w, const char *name, const rec_table_column_t *columns,
                     uint32_t count);
void rec_table_number(rec_writer_t *w, uint64_t v);
/* At most 64 KiB are kept; invalid UTF-8 and NUL are replaced. */
void rec_table_text(rec_writer_t *w, const char *text, size_t n);
void rec_table_end(rec_writer_t *w);

/* A whole recording as a section of this one. `name`: what it is, "peak". -E2BIG sticks when it is
 * larger than a section may be (1 GiB); rec_nested_file reads the whole file `from`. */
void rec_nested(rec_writer_t *w, const char *name, const void *bytes, size_t n);
void rec_nested_file(rec_writer_t *w, const char *name, int from);

#endif
