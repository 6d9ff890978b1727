/* The time by a clock. No lock and no allocation: anybody may ask, a signal handler and an allocation hook too. */
#ifndef LOWTIDE_BASE_CLOCK_H
#define LOWTIDE_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* Of the one that nobody sets. */
static inline int64_t now_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}
static inline int64_t now_us(void) {
    return now_ns() / 1000;
}
static inline int64_t now_ms(void) {
    return now_ns() / 1000000;
}

#endif
