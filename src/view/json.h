/* Writing JSON to a stream: commas and indentation are kept here, texts are escaped and broken
 * UTF-8 is repaired (U+FFFD), integers are written whole (64 bits), a double that is no finite
 * number is written as null.
 *
 *     json_open(&j, NULL, '{');
 *     json_uint(&j, "schema", 1);
 *     json_open(&j, "types", '['); json_text(&j, NULL, "dict"); json_close(&j);
 *     json_close(&j);                                             and a newline, as it was the
 * outermost
 *
 * `key` is NULL inside a list, and for the outermost value. Nesting is at most 64 deep (asserted).
 * The stream's errors stick to it.
 */
#ifndef LOWTIDE_VIEW_JSON_H
#define LOWTIDE_VIEW_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { JSON_DEPTH_MAX = 64 };

typedef struct json {
    FILE *file;
    bool compact; /* no line breaks */
    bool in_html; /* '<' is written as \u003c: no text may end the script element it stands in */
    int depth;
    char closer[JSON_DEPTH_MAX];
    bool begun[JSON_DEPTH_MAX]; /* something stands in it already */
} json_t;

void json_init(json_t *j, FILE *file);
void json_open(json_t *j, const char *key, char bracket);
void json_close(json_t *j);
void json_text(json_t *j, const char *key, const char *text); /* NULL: null */
void json_text_n(json_t *j, const char *key, const char *text, size_t n);
void json_int(json_t *j, const char *key, int64_t v);
void json_uint(json_t *j, const char *key, uint64_t v);
void json_real(json_t *j, const char *key, double v);
void json_bool(json_t *j, const char *key, bool v);
void json_null(json_t *j, const char *key);

#endif
