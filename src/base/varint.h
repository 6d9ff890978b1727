/* Variable-length integers: LEB128, 7 bits a byte, least significant group first, at most 10 bytes;
 * and zigzag, which makes small negative numbers small.
 */
#ifndef LOWTIDE_BASE_VARINT_H
#define LOWTIDE_BASE_VARINT_H

#include <stddef.h>
#include <stdint.h>

enum { VARINT_MOST_BYTES = 10 };

static inline uint64_t zigzag_encode(int64_t x) {
    return (uint64_t)x << 1 ^ (uint64_t)(x >> 63);
}

static inline int64_t zigzag_decode(uint64_t u) {
    return (int64_t)(u >> 1 ^ (0 - (u & 1)));
}

/* Writes at p, where VARINT_MOST_BYTES must have room; returns the end. */
static inline uint8_t *varint_put(uint8_t *p, uint64_t v) {
    while (v >= 0x80) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    return p;
}

/* Reads at p without looking at an end: VARINT_MOST_BYTES from p on must be readable. NULL when the
 * number is longer than 64 bits. */
static inline const uint8_t *varint_get_wide(const uint8_t *p, uint64_t *v) {
    uint64_t x = *p & 0x7f;
    for (unsigned shift = 7; *p++ & 0x80; shift += 7) {
        if (shift == 63 && *p > 1) return NULL;
        x |= (uint64_t)(*p & 0x7f) << shift;
    }
    *v = x;
    return p;
}

/* Reads from [p, end); NULL when it ends within the number or the number is longer than 64 bits. */
static inline const uint8_t *varint_get(const uint8_t *p, const uint8_t *end, uint64_t *v) {
    uint64_t x = 0;
    for (unsigned shift = 0; p < end && shift <= 63; shift += 7) {
        uint8_t byte = *p++;
        if (shift == 63 && byte > 1) return NULL;
        x |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *v = x;
            return p;
        }
    }
    return NULL;
}

#endif
