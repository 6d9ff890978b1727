/* UTF-8: what a recording holds as text is valid, whoever made it. Nothing here allocates. */
#ifndef LOWTIDE_FORMAT_REC_UTF8_H
#define LOWTIDE_FORMAT_REC_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The number of bytes from the start that are plain ASCII: quick, and mostly all there is. */
static inline size_t utf8_ascii(const char *text, size_t n) {
    size_t i = 0;
    for (uint64_t word; i + sizeof word <= n; i += sizeof word) {
        memcpy(&word, text + i, sizeof word);
        if (word & UINT64_C(0x8080808080808080)) break;
    }
    while (i < n && !(text[i] & 0x80)) i++;
    return i;
}

int utf8_is_valid(const char *text, size_t n);

/* Copies text into `out`, which has room for 3 × n bytes; what is not UTF-8 (lone surrogates too)
 * becomes U+FFFD, and a sequence that the end cuts is left out. Returns the bytes written. */
size_t utf8_clean(char *out, const char *text, size_t n);

#endif
