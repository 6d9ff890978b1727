#define _GNU_SOURCE
#include "view/units.h"

#include <stdio.h>
#include <string.h>

const char *units_size(char out[UNITS_BYTES], uint64_t bytes) {
    static const char *const unit[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        snprintf(out, UNITS_BYTES, "%u B", (unsigned)bytes);
        return out;
    }
    double v = (double)bytes / 1024;
    size_t u = 0;
    /* 1023.95 would be printed as 1024.0. */
    while (v >= 1023.95 && u + 1 < sizeof unit / sizeof unit[0]) {
        v /= 1024;
        u++;
    }
    snprintf(out, UNITS_BYTES, "%.1f %s", v, unit[u]);
    return out;
}

const char *units_short(char out[UNITS_BYTES], uint64_t bytes) {
    static const char unit[] = "BKMGTPE";
    double v = (double)bytes;
    int u = 0;
    /* 999.5 would take a fourth digit. */
    for (; v >= 999.5 && unit[u + 1]; u++) v /= 1024;
    snprintf(out, UNITS_BYTES, u && v < 9.95 ? "%.1f%c" : "%.0f%c", v, unit[u]);
    return out;
}

static uint64_t magnitude(int64_t n) {
    return n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
}

const char *units_growth(char out[UNITS_BYTES], int64_t bytes) {
    char text[UNITS_BYTES];
    units_size(text, magnitude(bytes));
    snprintf(out, UNITS_BYTES, "%s%.38s", bytes > 0 ? "+" : bytes < 0 ? "-" : "", text);
    return out;
}

const char *units_count(char out[UNITS_BYTES], uint64_t n) {
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    char *o = out;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0) *o++ = ',';
        *o++ = digits[i];
    }
    *o = 0;
    return out;
}

const char *units_count_growth(char out[UNITS_BYTES], int64_t n) {
    char text[UNITS_BYTES];
    units_count(text, magnitude(n));
    snprintf(out, UNITS_BYTES, "%s%.38s", n > 0 ? "+" : n < 0 ? "-" : "", text);
    return out;
}

const char *units_span(char out[UNITS_BYTES], double seconds) {
    if (!(seconds >= 0) || seconds > 1e12) seconds = 0;
    unsigned long long s = (unsigned long long)seconds;
    if (seconds < 1)
        snprintf(out, UNITS_BYTES, "%.1f ms", seconds * 1e3);
    else if (seconds < 60)
        snprintf(out, UNITS_BYTES, "%.1f s", seconds);
    else if (s < 3600)
        snprintf(out, UNITS_BYTES, "%llu min %llu s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, UNITS_BYTES, "%llu h %llu min", s / 3600, s % 3600 / 60);
    else
        snprintf(out, UNITS_BYTES, "%llu d %llu h", s / 86400, s % 86400 / 3600);
    return out;
}

const char *units_time(char out[UNITS_BYTES], const char *iso) {
    char day[11], clock[9];
    int n = 0;
    if (sscanf(iso, "%10[0-9-]T%8[0-9:]%n", day, clock, &n) == 2 && n == 19 &&
        strpbrk(iso + n, "Z+") && (iso[n] == 'Z' || !strcmp(iso + n, "+00:00")))
        snprintf(out, UNITS_BYTES, "%s %s UTC", day, clock);
    else
        snprintf(out, UNITS_BYTES, "%.39s", iso);
    return out;
}

const char *units_share(char out[UNITS_BYTES], uint64_t part, uint64_t whole) {
    out[0] = 0;
    if (!whole) return out;
    double share = (double)part * 100 / (double)whole;
    if (part && share < 1)
        snprintf(out, UNITS_BYTES, "<1 %%");
    else if (part < whole && share > 99)
        snprintf(out, UNITS_BYTES, "99 %%");
    else
        snprintf(out, UNITS_BYTES, "%.0f %%", share);
    return out;
}
