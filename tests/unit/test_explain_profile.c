/* Profiles made by hand: native frames without number, and figures about as large as their error. */
#define _GNU_SOURCE
#include "explain/profile_native.h"

#include "base/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { FRAMES = 200, DEPTH = 4 };

static uint32_t name(void *self, const char *module, const char *build_id, uint64_t offset,
                     namer_place_t *out) {
    static char names[DEPTH][32];
    (void)self;
    (void)module;
    (void)build_id;
    for (int k = 0; k < DEPTH; k++) {
        snprintf(names[k], sizeof names[k], "f%d_%d", (int)offset, k);
        out[k] = (namer_place_t){names[k], "f.c", (uint32_t)k + 1};
    }
    return DEPTH;
}

static void each_frame_stands_in_those_that_it_was_inlined_into(void **state) {
    (void)state;
    profile_t p = {.frame_count = FRAMES};
    p.frames = arena_alloc(&p.arena, FRAMES * sizeof *p.frames);
    assert_non_null(p.frames);
    for (uint32_t i = 0; i < FRAMES; i++)
        p.frames[i] = (profile_frame_t){.kind = PROFILE_NATIVE,
                                        .function = "",
                                        .file = "",
                                        .module = "/lib/f.so",
                                        .build_id = "00ff",
                                        .offset = i,
                                        .inlined_in = LOWTIDE_NONE};
    assert_int_equal(profile_native_name(&p, &(namer_t){NULL, name}), 0);
    assert_int_equal(p.frame_count, FRAMES * DEPTH);
    for (uint32_t i = 0; i < FRAMES; i++) {
        uint32_t chain[NAMER_PLACES_MAX];
        assert_int_equal(profile_native_chain(&p, i, chain), DEPTH);
        for (int k = 0; k < DEPTH; k++) {
            char expected[32];
            snprintf(expected, sizeof expected, "f%d_%d", (int)i, k);
            assert_string_equal(p.frames[chain[k]].function, expected);
            assert_int_equal(p.frames[chain[k]].line, k + 1);
        }
    }
    arena_free(&p.arena);
}

static void a_figure_is_told_where_it_is_above_the_error_that_is_shown_with_it(void **state) {
    (void)state;
    const profile_t p = {.unseen_variance = 3e6, .chosen_share = 1e-3};
    profile_sums_t sums = {0};
    for (int f = 0; f < PROFILE_FIGURES; f++) sums.variance[f] = 1e6;
    uint64_t at_the_peak = profile_error(&p, &sums, PROFILE_PEAK);
    uint64_t at_the_end = profile_error(&p, &sums, PROFILE_LIVE);
    assert_int_equal(at_the_end, 3920);
    assert_int_equal(at_the_peak, 3920 + 1000);
    for (uint64_t more = 0; more < 2; more++) {
        sums.bytes[PROFILE_PEAK] = at_the_peak + more;
        sums.bytes[PROFILE_LIVE] = at_the_end + more;
        assert_int_equal(profile_is_told(&p, &sums, PROFILE_PEAK), more);
        assert_int_equal(profile_is_told(&p, &sums, PROFILE_LIVE), more);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_frame_stands_in_those_that_it_was_inlined_into),
        cmocka_unit_test(a_figure_is_told_where_it_is_above_the_error_that_is_shown_with_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
