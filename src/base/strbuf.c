#include "base/strbuf.h"

#include "base/mem.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { STRBUF_FIRST_BYTES = 64 };

/* Room for n more bytes and the terminating zero. */
static int strbuf_reserve(strbuf_t *s, size_t n) {
    if (s->failed) return -1;
    if (n < s->room - s->count) return 0;
    size_t room = s->room * 2;
    if (room < STRBUF_FIRST_BYTES) room = STRBUF_FIRST_BYTES;
    if (room - s->count <= n) room = s->count + n + 1;
    char *at = n < SIZE_MAX / 4 ? mem_realloc(s->at, room) : NULL;
    if (!at) {
        s->failed = 1;
        return -1;
    }
    s->at = at;
    s->room = room;
    return 0;
}

void strbuf_put(strbuf_t *s, const char *bytes, size_t n) {
    if (strbuf_reserve(s, n)) return;
    if (n) memcpy(s->at + s->count, bytes, n);
    s->count += n;
    s->at[s->count] = '\0';
}

void strbuf_puts(strbuf_t *s, const char *text) {
    strbuf_put(s, text, strlen(text));
}

void strbuf_putc(strbuf_t *s, char c) {
    strbuf_put(s, &c, 1);
}

void strbuf_vprintf(strbuf_t *s, const char *fmt, va_list ap) {
    if (strbuf_reserve(s, STRBUF_FIRST_BYTES)) return;
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(s->at + s->count, s->room - s->count, fmt, ap);
    if (n < 0) {
        s->failed = 1;
    } else if ((size_t)n < s->room - s->count) {
        s->count += (size_t)n;
    } else if (!strbuf_reserve(s, (size_t)n)) {
        vsnprintf(s->at + s->count, s->room - s->count, fmt, again);
        s->count += (size_t)n;
    }
    s->at[s->count] = '\0';
    va_end(again);
}

void strbuf_printf(strbuf_t *s, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    strbuf_vprintf(s, fmt, ap);
    va_end(ap);
}

const char *strbuf_text(const strbuf_t *s) {
    return s->at ? s->at : "";
}

void strbuf_clear(strbuf_t *s) {
    s->count = 0;
    if (s->at) s->at[0] = '\0';
}

void strbuf_free(strbuf_t *s) {
    mem_free(s->at);
    *s = (strbuf_t){0};
}
