#include "keep/stream_records.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void expect(stream_cut_t cut, size_t end, size_t records) {
    assert_int_equal(cut.end, end);
    assert_int_equal(cut.records, records);
}

static stream_cut_t lines(const char *text, size_t want) {
    return stream_cut_lines(text, strlen(text), want);
}

static stream_cut_t csv(const char *text, size_t want) {
    return stream_cut_csv(text, strlen(text), want, ',');
}

static void a_cut_holds_the_whole_lines_that_fit(void **state) {
    (void)state;
    expect(lines("ab\ncd\nef", 7), 6, 2);
    expect(lines("ab\ncd\nef", 5), 3, 1);
    expect(lines("ab\ncd\n", 100), 6, 2);
}

static void a_line_longer_than_wanted_is_cut_alone(void **state) {
    (void)state;
    expect(lines("abcdef\ngh\n", 2), 7, 1);
    expect(lines("abcdef", 2), 0, 0);
    expect(lines("", 2), 0, 0);
    expect(lines("\n", 0), 1, 1);
}

static void a_newline_in_quotes_ends_no_csv_record(void **state) {
    (void)state;
    expect(csv("a,\"b\nc\",d\ne,f\n", 100), 14, 2);
    expect(csv("a,\"b\nc\",d\ne,f\n", 12), 10, 1);
    expect(csv("a,\"b\nc", 100), 0, 0);
    expect(csv("\"x\"\"\ny\"\nz\n", 100), 10, 2);
}

static void a_quote_inside_a_field_is_a_letter(void **state) {
    (void)state;
    expect(csv("5\" pipe,1\n6\" pipe,2\n", 100), 20, 2);
}

/* The same automaton, a letter at a time: what the quick one is held against. */
static stream_cut_t csv_slow(const char *text, size_t n, size_t want) {
    enum { BEGIN, PLAIN, QUOTED, CLOSED } at = BEGIN;
    stream_cut_t cut = {0, 0};
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (at == QUOTED) {
            if (c == '"') at = CLOSED;
        } else if (at == CLOSED && c == '"') {
            at = QUOTED;
        } else if (c == '\n') {
            if (cut.end && i + 1 > want) return cut;
            cut = (stream_cut_t){i + 1, cut.records + 1};
            at = BEGIN;
        } else if (c == ',') {
            at = BEGIN;
        } else {
            at = at == BEGIN && c == '"' ? QUOTED : PLAIN;
        }
    }
    return cut;
}

static void random_csv_is_cut_as_letter_by_letter(void **state) {
    (void)state;
    uint32_t seed = 7;
    for (int round = 0; round < 20000; round++) {
        char text[24];
        size_t n = 0;
        for (; n < sizeof text; n++) {
            seed = seed * 1664525u + 1013904223u;
            text[n] = "\",\na"[seed >> 30];
        }
        size_t want = seed % 30;
        stream_cut_t slow = csv_slow(text, n, want);
        expect(stream_cut_csv(text, n, want, ','), slow.end, slow.records);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_holds_the_whole_lines_that_fit),
        cmocka_unit_test(a_line_longer_than_wanted_is_cut_alone),
        cmocka_unit_test(a_newline_in_quotes_ends_no_csv_record),
        cmocka_unit_test(a_quote_inside_a_field_is_a_letter),
        cmocka_unit_test(random_csv_is_cut_as_letter_by_letter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
