#define _GNU_SOURCE
#include "view/json.h"

#include "view/utf8.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

void json_init(json_t *j, FILE *file) {
    *j = (json_t){.file = file};
}

static void line_break(json_t *j) {
    if (j->compact) return;
    fprintf(j->file, "\n%*s", j->depth * 2, "");
}

static void escaped(json_t *j, const char *text, size_t n) {
    const char *end = text + n;
    fputc('"', j->file);
    while (text < end) {
        uint32_t c;
        const char *next = utf8_next(text, end, &c);
        if (!next) {
            fputs("\xef\xbf\xbd", j->file);
            text++;
            continue;
        }
        if (c == '"' || c == '\\')
            fprintf(j->file, "\\%c", (int)c);
        else if (c == '\n')
            fputs("\\n", j->file);
        else if (c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 ||
                 (j->in_html && c == '<'))
            fprintf(j->file, "\\u%04x", (unsigned)c);
        else
            fwrite(text, 1, (size_t)(next - text), j->file);
        text = next;
    }
    fputc('"', j->file);
}

/* What stands before any value: comma, line, key. */
static void lead(json_t *j, const char *key) {
    if (!j->depth) return;
    if (j->begun[j->depth - 1]) fputs(j->compact ? ", " : ",", j->file);
    j->begun[j->depth - 1] = true;
    line_break(j);
    if (!key) return;
    escaped(j, key, strlen(key));
    fputs(": ", j->file);
}

void json_open(json_t *j, const char *key, char bracket) {
    assert(j->depth < JSON_DEPTH_MAX);
    lead(j, key);
    fputc(bracket, j->file);
    j->closer[j->depth] = bracket == '{' ? '}' : ']';
    j->begun[j->depth++] = false;
}

void json_close(json_t *j) {
    assert(j->depth > 0);
    j->depth--;
    if (j->begun[j->depth]) line_break(j);
    fputc(j->closer[j->depth], j->file);
    if (!j->depth) fputc('\n', j->file);
}

void json_text_n(json_t *j, const char *key, const char *text, size_t n) {
    lead(j, key);
    escaped(j, text, n);
}

void json_text(json_t *j, const char *key, const char *text) {
    if (text)
        json_text_n(j, key, text, strlen(text));
    else
        json_null(j, key);
}

void json_int(json_t *j, const char *key, int64_t v) {
    lead(j, key);
    fprintf(j->file, "%" PRId64, v);
}

void json_uint(json_t *j, const char *key, uint64_t v) {
    lead(j, key);
    fprintf(j->file, "%" PRIu64, v);
}

void json_real(json_t *j, const char *key, double v) {
    lead(j, key);
    if (isfinite(v))
        fprintf(j->file, "%.15g", v);
    else
        fputs("null", j->file);
}

void json_bool(json_t *j, const char *key, bool v) {
    lead(j, key);
    fputs(v ? "true" : "false", j->file);
}

void json_null(json_t *j, const char *key) {
    lead(j, key);
    fputs("null", j->file);
}
