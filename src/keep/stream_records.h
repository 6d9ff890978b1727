/* Where records of a text end: lowtide.stream cuts files into chunks here, and only here.
 *
 *     … one record \n the next, "with a \n inside" \n a third that is not whole
 *                                                    ^ end
 *
 * Nothing is allocated, nothing kept: a chunk begins where a record begins, so each call starts
 * afresh. Any thread, no GIL.
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

#endif
