/* Growing text. Errors stick: when memory runs out, `failed` is set, what follows is dropped, and
 * the text stays zero-terminated; so a caller checks once, at the end. Start with a zeroed
 * strbuf_t. Heap memory (malloc): not for the agent's child. One thread at a time.
 */
#ifndef LOWTIDE_BASE_STRBUF_H
#define LOWTIDE_BASE_STRBUF_H

#include <stdarg.h>
#include <stddef.h>

typedef struct strbuf {
    char *at; /* NULL until something was put; see strbuf_text */
    size_t count, room;
    int failed;
} strbuf_t;

void strbuf_put(strbuf_t *s, const char *bytes, size_t n);
void strbuf_puts(strbuf_t *s, const char *text);
void strbuf_putc(strbuf_t *s, char c);
void strbuf_printf(strbuf_t *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void strbuf_vprintf(strbuf_t *s, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
/* Zero-terminated, never NULL; holds until the next change. */
const char *strbuf_text(const strbuf_t *s);
void strbuf_clear(strbuf_t *s); /* empty, memory and `failed` kept */
void strbuf_free(strbuf_t *s);

#endif
