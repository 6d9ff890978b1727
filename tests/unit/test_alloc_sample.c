#include "agent/alloc/alloc_sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define INTERVAL 65536

/* Allocates n blocks of `bytes` as a thread does, and returns what the samples stand for. */
static sample_weight_t sampled_at(uint64_t interval, uint64_t seed, uint64_t bytes, int n,
                                  int *count) {
    sample_weight_t sum = {0};
    int64_t left = sample_distance(&seed, interval);
    *count = 0;
    for (int i = 0; i < n; i++) {
        if ((left -= (int64_t)bytes) >= 0) continue;
        left = sample_distance(&seed, interval);
        sample_weight_t w =
            sample_weigh(0x7f0000000000u + (uintptr_t)i * ((bytes + 15) & ~15ull), bytes, interval);
        sum.bytes += w.bytes;
        sum.blocks += w.blocks;
        sum.variance += w.variance;
        ++*count;
    }
    return sum;
}

static sample_weight_t sampled(uint64_t seed, uint64_t bytes, int n, int *count) {
    return sampled_at(INTERVAL, seed, bytes, n, count);
}

static double absolute(double x) {
    return x < 0 ? -x : x;
}

/* Within five times the error that it states itself, squared to do without a root. */
static void assert_within_error(double off, double variance_mib2) {
    assert_true(off * off <= 25 * variance_mib2 * 1048576.0);
}

static void test_sums_of_samples_are_unbiased_for_every_size(void **state) {
    (void)state;
    static const uint64_t sizes[] = {1, 16, 56, 500, 4096, 65536, 300000, 5000000};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int n = (int)(400ull * INTERVAL / sizes[s]) + 200, count;
        double bytes = 0, blocks = 0, variance = 0, truth = 20.0 * n * (double)sizes[s];
        for (uint64_t seed = 1; seed <= 20; seed++) {
            sample_weight_t w = sampled(seed * 0x9e3779b97f4a7c15ull, sizes[s], n, &count);
            bytes += (double)w.bytes;
            blocks += (double)w.blocks;
            variance += (double)w.variance;
        }
        assert_within_error(bytes - truth, variance + 1);
        assert_true(absolute(blocks - 20.0 * n) <= 0.06 * 20 * n);
    }
}

static void test_stated_errors_are_as_large_as_the_real_ones(void **state) {
    (void)state;
    enum { RUNS = 400, BLOCKS = 4000, BYTES = 3000 };
    double squares = 0, stated = 0, truth = (double)BLOCKS * BYTES;
    for (uint64_t seed = 1; seed <= RUNS; seed++) {
        int count;
        sample_weight_t w = sampled(seed * 0x2545f4914f6cdd1dull, BYTES, BLOCKS, &count);
        squares += ((double)w.bytes - truth) * ((double)w.bytes - truth) / 1048576.0;
        stated += (double)w.variance;
    }
    assert_true(stated > 0.75 * squares && stated < 1.33 * squares);
}

/* A sample's variance is then less than the unit that it is told in. */
static void test_errors_are_stated_also_where_the_interval_is_small(void **state) {
    (void)state;
    enum { RUNS = 400, BLOCKS = 4000, SMALL_INTERVAL = 1024 };
    static const uint64_t sizes[] = {48, 500, 1033, 3000};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        double squares = 0, stated = 0, truth = (double)BLOCKS * (double)sizes[s];
        for (uint64_t seed = 1; seed <= RUNS; seed++) {
            int count;
            sample_weight_t w =
                sampled_at(SMALL_INTERVAL, seed * 0x2545f4914f6cdd1dull, sizes[s], BLOCKS, &count);
            squares += ((double)w.bytes - truth) * ((double)w.bytes - truth) / 1048576.0;
            stated += (double)w.variance;
        }
        assert_true(stated > 0.75 * squares && stated < 1.33 * squares);
    }
}

static void test_a_free_takes_away_what_the_allocation_had_added(void **state) {
    (void)state;
    for (uint64_t bytes = 1; bytes < 1 << 30; bytes = bytes * 3 + 1) {
        sample_weight_t a = sample_weigh(0x5555deadbee0, bytes, INTERVAL);
        sample_weight_t b = sample_weigh(0x5555deadbee0, bytes, INTERVAL);
        assert_true(a.bytes == b.bytes && a.blocks == b.blocks && a.variance == b.variance);
        assert_true(a.bytes >= (int64_t)bytes && a.blocks >= 1);
    }
}

static void test_a_block_far_above_the_interval_stands_for_itself(void **state) {
    (void)state;
    sample_weight_t w = sample_weigh(0x7f0000001000, 64ull << 20, INTERVAL);
    assert_int_equal(w.bytes, 64 << 20);
    assert_int_equal(w.blocks, 1);
    assert_int_equal(w.variance, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_of_samples_are_unbiased_for_every_size),
        cmocka_unit_test(test_stated_errors_are_as_large_as_the_real_ones),
        cmocka_unit_test(test_errors_are_stated_also_where_the_interval_is_small),
        cmocka_unit_test(test_a_free_takes_away_what_the_allocation_had_added),
        cmocka_unit_test(test_a_block_far_above_the_interval_stands_for_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
