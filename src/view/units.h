/* Figures for people: bytes in IEC units, counts with thousands separated, spans of time. All into
 * the caller's buffer, which they return; ASCII only. */
#ifndef LOWTIDE_VIEW_UNITS_H
#define LOWTIDE_VIEW_UNITS_H

#include <stdint.h>

enum { UNITS_BYTES = 40 };

/* "0 B", "999 B", "1.0 KiB", "412.3 MiB": one decimal above bytes. */
const char *units_size(char out[UNITS_BYTES], uint64_t bytes);
/* The same for narrow columns, in four cells: "999B", "1.0K", "412M". */
const char *units_short(char out[UNITS_BYTES], uint64_t bytes);
/* "+412.3 MiB", "-1.0 KiB", "0 B". */
const char *units_growth(char out[UNITS_BYTES], int64_t bytes);
/* "1,234,567". */
const char *units_count(char out[UNITS_BYTES], uint64_t n);
/* "+1,234", "-7", "0". */
const char *units_count_growth(char out[UNITS_BYTES], int64_t n);
/* "12.3 ms", "4.2 s", "2 min 5 s", "3 h 12 min", "4 d 7 h". */
const char *units_span(char out[UNITS_BYTES], double seconds);
/* ISO 8601 in UTC as people write it: "2026-11-21 09:51:53 UTC"; any other text as it is. */
const char *units_time(char out[UNITS_BYTES], const char *iso);
/* Part of whole: "61 %", "<1 %", "100 %" only for all; "" where whole is 0. */
const char *units_share(char out[UNITS_BYTES], uint64_t part, uint64_t whole);

#endif
