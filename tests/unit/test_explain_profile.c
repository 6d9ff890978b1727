/* Profiles made by hand: native frames without number, and figures about as large as their error. */
#define _GNU_SOURCE
#include "explain/profile_course.h"
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

enum { LINES = 3 };

static void row(profile_t *p, uint32_t line, uint64_t live, uint64_t made, uint64_t high) {
    p->courses[p->course_count++] = (profile_course_t){.frame = line,
                                                       .line = line,
                                                       .t_us = 1 + p->course_count,
                                                       .live_bytes = live,
                                                       .made_bytes = made,
                                                       .high_bytes = high};
}

static void the_rest_is_at_its_highest_where_a_line_has_less(void **state) {
    (void)state;
    profile_course_t rows[16];
    profile_t p = {.courses = rows, .frame_count = LINES, .line_count = LINES};
    profile_site_t lines[LINES];
    memset(lines, 0, sizeof lines);
    p.lines = lines;
    const uint64_t at_peak[LINES] = {100, 10, 0};
    profile_without_t ask = {.count = 1, .lines = {0}};
    assert_int_equal(profile_without(&p, at_peak, &ask), 0);
    assert_false(ask.known);
    row(&p, 0, 100, 100, 0);
    row(&p, 1, 10, 10, 0);
    row(&p, LOWTIDE_NONE, 110, 110, 110);
    /* The first goes, and the last comes at once: between, there were 90 that the first had no part in. */
    row(&p, 0, 0, 0, 0);
    row(&p, 2, 60, 60, 0);
    row(&p, LOWTIDE_NONE, 70, 60, 110);
    assert_int_equal(profile_without(&p, at_peak, &ask), 0);
    assert_true(ask.known);
    assert_int_equal(ask.high_bytes, 70);
    assert_int_equal(ask.other, 2);
    assert_int_equal(ask.t_us, 7);
    assert_int_equal(ask.may_bytes, 70);
    /* Higher for a moment, of which no line can tell but the one that made so much. */
    row(&p, 2, 60, 25, 0);
    row(&p, LOWTIDE_NONE, 70, 25, 95);
    assert_int_equal(profile_without(&p, at_peak, &ask), 0);
    assert_int_equal(ask.high_bytes, 95);
    assert_int_equal(ask.other, 2);
    /* What the line itself made and dropped between was its own. */
    row(&p, 0, 0, 100, 0);
    row(&p, LOWTIDE_NONE, 70, 100, 108);
    assert_int_equal(profile_without(&p, at_peak, &ask), 0);
    assert_int_equal(ask.high_bytes, 95);
    /* It goes not to the end: a higher one may have come behind it. */
    profile_process_t cut = {.lines_until_us = 7};
    p.processes = &cut;
    p.process_count = 1;
    assert_int_equal(profile_without(&p, at_peak, &ask), 0);
    assert_false(ask.known);
    assert_int_equal(ask.other, LOWTIDE_NONE);
    p.process_count = 0;
    /* What it keeps to the end is not gone with it. */
    ask.kept_bytes[0] = 90;
    assert_int_equal(profile_without(&p, at_peak, &ask), 0);
    assert_int_equal(ask.high_bytes, 100);
    assert_int_equal(ask.other, LOWTIDE_NONE);
}

/* Two peaks, one after the other: neither line alone lowers the highest, both do. */
static void without_two_lines_the_rest_is_lower_than_without_either(void **state) {
    (void)state;
    profile_course_t rows[16];
    profile_t p = {.courses = rows, .frame_count = LINES, .line_count = LINES};
    profile_site_t lines[LINES];
    memset(lines, 0, sizeof lines);
    p.lines = lines;
    const uint64_t at_peak[LINES] = {100, 0, 10};
    row(&p, 2, 10, 10, 0);
    row(&p, 0, 100, 100, 0);
    row(&p, LOWTIDE_NONE, 110, 110, 110);
    row(&p, 0, 0, 0, 0);
    row(&p, LOWTIDE_NONE, 10, 0, 110);
    row(&p, 1, 95, 95, 0);
    row(&p, LOWTIDE_NONE, 105, 95, 105);
    row(&p, 1, 0, 0, 0);
    row(&p, LOWTIDE_NONE, 10, 0, 105);
    profile_without_t ask = {.count = 1, .lines = {0}};
    assert_int_equal(profile_without(&p, at_peak, &ask), 0);
    assert_int_equal(ask.high_bytes, 105);
    assert_int_equal(ask.other, 1);
    ask = (profile_without_t){.count = 1, .lines = {1}};
    assert_int_equal(profile_without(&p, at_peak, &ask), 0);
    assert_int_equal(ask.high_bytes, 110);
    ask = (profile_without_t){.count = 2, .lines = {0, 1}};
    assert_int_equal(profile_without(&p, at_peak, &ask), 0);
    assert_true(ask.known);
    assert_int_equal(ask.high_bytes, 10);
    /* What one of them keeps to the end is not gone with it. */
    ask.kept_bytes[1] = 20;
    assert_int_equal(profile_without(&p, at_peak, &ask), 0);
    assert_int_equal(ask.high_bytes, 30);
}

static void of_each_process_is_told_since_when_a_line_had_what_it_had_last(void **state) {
    (void)state;
    enum { PROCESSES = 4 };
    profile_course_t rows[16];
    profile_process_t processes[PROCESSES];
    profile_rise_t of[PROCESSES];
    memset(processes, 0, sizeof processes);
    processes[2].lines_until_us = 7;
    profile_t p = {.courses = rows,
                   .frame_count = LINES,
                   .line_count = LINES,
                   .processes = processes,
                   .process_count = PROCESSES};
    row(&p, 0, 80, 80, 0);
    row(&p, 0, 20, 0, 0); /* it let go of it again */
    row(&p, 1, 500, 0, 0);
    row(&p, 0, 60, 40, 0);
    row(&p, 0, 100, 40, 0);
    rows[p.course_count - 1].frame = 2; /* of another function in the same line */
    row(&p, LOWTIDE_NONE, 660, 160, 660);
    row(&p, 0, 70, 70, 0);
    rows[p.course_count - 1].process = 1;
    row(&p, 0, 70, 70, 0);
    rows[p.course_count - 1].process = 2;
    assert_int_equal(profile_rises(&p, NULL, 0, of), 0);
    assert_int_equal(of[0].had_bytes, 160);
    assert_int_equal(of[0].half_us, 6);
    assert_int_equal(of[0].whole_us, 6);
    assert_int_equal(of[1].had_bytes, 70);
    assert_int_equal(of[1].whole_us, 8);
    assert_int_equal(of[2].had_bytes, 0); /* not known to its end */
    assert_int_equal(of[3].had_bytes, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_frame_stands_in_those_that_it_was_inlined_into),
        cmocka_unit_test(the_rest_is_at_its_highest_where_a_line_has_less),
        cmocka_unit_test(of_each_process_is_told_since_when_a_line_had_what_it_had_last),
        cmocka_unit_test(without_two_lines_the_rest_is_lower_than_without_either),
        cmocka_unit_test(a_figure_is_told_where_it_is_above_the_error_that_is_shown_with_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
