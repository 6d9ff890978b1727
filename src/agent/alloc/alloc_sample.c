#include "agent/alloc/alloc_sample.h"

#include <string.h>

#define LN2 0.693147180559945309417

uint64_t sample_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

/* ln of 0 < x < 1: x = m·2^e with m in [1, 2), ln m = 2 artanh((m − 1)/(m + 1)) by its series. */
static double ln(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52 & 2047) - 1023;
    bits = (bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull;
    memcpy(&x, &bits, sizeof x);
    double s = (x - 1) / (x + 1), square = s * s, sum = 0;
    for (int n = 21; n > 0; n -= 2) sum = sum * square + 1.0 / n;
    return 2 * s * sum + e * LN2;
}

/* 1 − e^(−x) for x ≥ 0, without losing the small ones: on x/2^n by the series, then doubled, for 1 − (1 − q)² = q(2 − q). */
static double one_minus_exp(double x) {
    int halvings = 0;
    if (x > 40) return 1;
    for (; x > 0.25; x /= 2) halvings++;
    double q = 0;
    for (int n = 12; n > 0; n--) q = x / n * (1 - q);
    for (; halvings; halvings--) q *= 2 - q;
    return q;
}

int64_t sample_distance(uint64_t *state, uint64_t interval_bytes) {
    double u = ((double)(sample_random(state) >> 11) + 0.5) * 0x1p-53;
    return (int64_t)(-ln(u) * (double)interval_bytes);
}

/* A fraction in [0, 1) that belongs to the address: whole blocks are told, and on average the truth. */
static double fraction_of(uintptr_t address) {
    uint64_t h = (uint64_t)(address >> 4) * 0x9e3779b97f4a7c15ull;
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93ull;
    return (double)(h >> 11) * 0x1p-53;
}

bool sample_chosen(uintptr_t address, uint64_t bytes, uint64_t interval_bytes) {
    return fraction_of(address) < one_minus_exp((double)bytes / (double)interval_bytes);
}

sample_weight_t sample_weigh(uintptr_t address, uint64_t bytes, uint64_t interval_bytes) {
    double size = (double)bytes, p = one_minus_exp(size / (double)interval_bytes);
    double stands_for = size / p, fraction = fraction_of(address);
    return (sample_weight_t){
        .bytes = (int64_t)(stands_for + 0.5),
        .blocks = (int64_t)(1 / p + fraction),
        .variance = (uint64_t)(stands_for * stands_for * (1 - p) * 0x1p-20 + fraction)};
}
