#define _GNU_SOURCE
#include "keep/stream_records.h"

#include <stdlib.h>
#include <string.h>

static size_t count_newlines(const char *text, size_t n) {
    size_t count = 0;
    while (n) {
        unsigned char some = 0; /* short runs of byte-wide sums: the compiler adds 16 at a time */
        size_t run = n < 255 ? n : 255;
        for (size_t i = 0; i < run; i++) some = (unsigned char)(some + (text[i] == '\n'));
        count += some;
        text += run, n -= run;
    }
    return count;
}

stream_cut_t stream_cut_lines(const char *text, size_t n, size_t want) {
    if (want > n) want = n;
    const char *last = want ? memrchr(text, '\n', want) : NULL;
    if (last) {
        size_t end = (size_t)(last - text) + 1;
        return (stream_cut_t){end, count_newlines(text, end)};
    }
    const char *first = n > want ? memchr(text + want, '\n', n - want) : NULL;
    return first ? (stream_cut_t){(size_t)(first - text) + 1, 1} : (stream_cut_t){0, 0};
}

/* The end of a field that begins at `at` with a quote: behind the closing quote, or n. */
static size_t quoted_end(const char *text, size_t n, size_t at) {
    for (at++; at < n; at++) {
        const char *quote = memchr(text + at, '"', n - at);
        if (!quote) return n;
        at = (size_t)(quote - text) + 1;
        if (at >= n || text[at] != '"') return at;
    }
    return n;
}

stream_cut_t stream_cut_csv(const char *text, size_t n, size_t want, char delimiter) {
    if (!memchr(text, '"', n)) return stream_cut_lines(text, n, want);
    stream_cut_t cut = {0, 0};
    bool field_begins = true;
    for (size_t at = 0; at < n;) {
        char c = text[at];
        if (field_begins && c == '"') {
            at = quoted_end(text, n, at);
            field_begins = false;
            continue;
        }
        at++;
        field_begins = c == delimiter || c == '\n';
        if (c != '\n') continue;
        if (cut.end && at > want) return cut;
        cut.end = at;
        cut.records++;
    }
    return cut;
}

static bool add_field(stream_row_t *row, const char *text, size_t bytes) {
    if (row->count == row->room) {
        size_t room = row->room ? 2 * row->room : 32;
        stream_field_t *fields = realloc(row->fields, room * sizeof *fields);
        if (!fields) return false;
        row->fields = fields, row->room = room;
    }
    row->fields[row->count++] = (stream_field_t){text, bytes};
    return true;
}

void stream_row_free(stream_row_t *row) {
    free(row->fields);
    free(row->scratch);
    *row = (stream_row_t){0};
}

/* Where the unquoted text that begins at `at` ends: at its delimiter, at its newline, or at n. */
static size_t plain_end(const char *text, size_t n, size_t at, char delimiter) {
    while (at < n && text[at] != delimiter && text[at] != '\n') at++;
    return at;
}

/* `end` without the carriage returns before it, where a record ends there. */
static size_t without_returns(const char *text, size_t n, size_t start, size_t end) {
    if (end == n || text[end] == '\n')
        while (end > start && text[end - 1] == '\r') end--;
    return end;
}

/* A field that begins with a quote at `at`; *next: its delimiter or newline, or n. What lies
 * between the quotes stays where it is, unless quotes are doubled in it or text follows it. */
static bool read_quoted(stream_row_t *row, const char *text, size_t n, size_t at, char delimiter,
                        size_t *next) {
    size_t close = quoted_end(text, n, at);
    bool closed = close - at >= 2 && text[close - 1] == '"';
    size_t inner = at + 1, inner_end = closed ? close - 1 : close;
    size_t rest = plain_end(text, n, close, delimiter);
    size_t rest_end = without_returns(text, n, close, rest);
    *next = rest;
    bool doubled = inner_end > inner && memchr(text + inner, '"', inner_end - inner);
    if (!doubled && rest_end == close) return add_field(row, text + inner, inner_end - inner);
    if (!row->scratch && !(row->scratch = malloc(row->scratch_bytes))) return false;
    char *out = row->scratch + row->used, *start = out;
    for (size_t i = inner; i < inner_end; i++) {
        *out++ = text[i];
        if (text[i] == '"' && i + 1 < inner_end && text[i + 1] == '"') i++;
    }
    memcpy(out, text + close, rest_end - close);
    out += rest_end - close;
    row->used += (size_t)(out - start);
    return add_field(row, start, (size_t)(out - start));
}

size_t stream_row_read(stream_row_t *row, const char *text, size_t n, size_t at, char delimiter) {
    size_t start = at, next;
    row->count = row->used = 0;
    while (true) {
        bool added;
        if (at < n && text[at] == '"') {
            added = read_quoted(row, text, n, at, delimiter, &next);
        } else {
            next = plain_end(text, n, at, delimiter);
            size_t end = without_returns(text, n, at, next);
            if (at == start && end == at && (next == n || text[next] == '\n'))
                return next == n ? n : next + 1; /* an empty line has no fields */
            added = add_field(row, text + at, end - at);
        }
        if (!added) return 0;
        if (next == n || text[next] == '\n') return next == n ? n : next + 1;
        at = next + 1;
    }
}
