/* Reading UTF-8 that may be broken. */
#ifndef LOWTIDE_VIEW_UTF8_H
#define LOWTIDE_VIEW_UTF8_H

#include <stdint.h>

/* The character at `at` (< end) and where the next one begins; NULL where the bytes are no
 * shortest-form UTF-8 of a scalar value: then skip one byte. */
static inline const char *utf8_next(const char *at, const char *end, uint32_t *out) {
    const unsigned char *p = (const unsigned char *)at;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    int n = p[0] < 0x80   ? 1
            : p[0] < 0xc2 ? 0
            : p[0] < 0xe0 ? 2
            : p[0] < 0xf0 ? 3
            : p[0] < 0xf5 ? 4
                          : 0;
    if (!n || end - at < n) return 0;
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    *out = c;
    return at + n;
}

#endif
