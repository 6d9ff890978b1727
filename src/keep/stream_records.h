/* Where records of a text end, and the fields of CSV: lowtide.stream cuts files into chunks here.
 *
 *     … one record \n the next, "with a \n inside" \n a third that is not whole
 *                                                    ^ end
 *
 * Nothing is kept between calls: a chunk begins where a record begins, so each starts afresh. Any
 * thread, no GIL.
 */
#ifndef STREAM_RECORDS_H
#define STREAM_RECORDS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct stream_cut {
    size_t end;     /* bytes of whole records from the start, each with its newline */
    size_t records; /* how many records those are */
} stream_cut_t;

/* The longest run of whole records in the first `want` of `n` bytes; where the first record is
 * longer than that, that record. {0, 0}: no record ends within `n`. A newline ends a record. */
stream_cut_t stream_cut_lines(const char *text, size_t n, size_t want);

/* The same for CSV (RFC 4180, as Python's csv reads it): a field that begins with a quote goes on
 * to the next lone quote, over newlines. */
stream_cut_t stream_cut_csv(const char *text, size_t n, size_t want, char delimiter);

typedef struct stream_field {
    const char *text; /* into the text, or into the row's scratch */
    size_t bytes;
} stream_field_t;

/* The fields of one record. It begins as {.scratch_bytes = the longest text to come}; whoever owns it
 * frees it by stream_row_free. */
typedef struct stream_row {
    stream_field_t *fields;
    size_t count, room;
    char *scratch; /* of fields whose bytes do not lie in one piece */
    size_t scratch_bytes, used;
} stream_row_t;

void stream_row_free(stream_row_t *row);

/* The fields of the record at `at` < n, as Python's csv reads them; the carriage returns before its
 * newline are no part of it, and an empty line has no fields. Returns where the next record begins;
 * 0: no memory. */
size_t stream_row_read(stream_row_t *row, const char *text, size_t n, size_t at, char delimiter);

#endif
