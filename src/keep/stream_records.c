#define _GNU_SOURCE
#include "keep/stream_records.h"

#include <string.h>

static size_t count_newlines(const char *text, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += text[i] == '\n';
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
