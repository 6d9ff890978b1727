#include "format/rec_utf8.h"

enum { UTF8_CUT = -1, UTF8_BAD = 0 };

/* The length of the sequence at the start, UTF8_BAD, or UTF8_CUT when the end cuts a good one. */
static int utf8_sequence(const uint8_t *p, size_t n) {
    uint8_t lead = p[0], low = 0x80, high = 0xbf;
    int length;
    if (lead < 0x80) return 1;
    if (lead >= 0xc2 && lead <= 0xdf) {
        length = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        length = 3;
        if (lead == 0xe0) low = 0xa0;
        if (lead == 0xed) high = 0x9f; /* surrogates */
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        length = 4;
        if (lead == 0xf0) low = 0x90;
        if (lead == 0xf4) high = 0x8f; /* beyond U+10FFFF */
    } else {
        return UTF8_BAD;
    }
    for (int i = 1; i < length; i++, low = 0x80, high = 0xbf) {
        if ((size_t)i == n) return UTF8_CUT;
        if (p[i] < low || p[i] > high) return UTF8_BAD;
    }
    return length;
}

int utf8_is_valid(const char *text, size_t n) {
    for (size_t i = utf8_ascii(text, n); i < n; i += utf8_ascii(text + i, n - i)) {
        int length = utf8_sequence((const uint8_t *)text + i, n - i);
        if (length <= 0) return 0;
        i += (size_t)length;
    }
    return 1;
}

size_t utf8_clean(char *out, const char *text, size_t n) {
    size_t done = 0;
    for (size_t i = 0; i < n;) {
        size_t ascii = utf8_ascii(text + i, n - i);
        memcpy(out + done, text + i, ascii);
        done += ascii;
        i += ascii;
        if (i == n) break;
        int length = utf8_sequence((const uint8_t *)text + i, n - i);
        if (length == UTF8_CUT) break;
        if (length > 0) {
            memcpy(out + done, text + i, (size_t)length);
            done += (size_t)length;
            i += (size_t)length;
        } else {
            memcpy(out + done, "\xef\xbf\xbd", 3);
            done += 3;
            i++;
            while (i < n && ((uint8_t)text[i] & 0xc0) == 0x80) i++;
        }
    }
    return done;
}
