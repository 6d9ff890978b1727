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

/* The fields of the record at `at`, a letter at a time, each ended by '|'. Returns the next one. */
static size_t row_slow(const char *text, size_t n, size_t at, char *out) {
    enum { BEGIN, PLAIN, QUOTED, CLOSED } state = BEGIN;
    if (at < n && text[at] == '\n') return *out = '\0', at + 1;
    for (; at < n; at++) {
        char c = text[at];
        if (state == QUOTED && c == '"')
            state = CLOSED;
        else if (state == CLOSED && c == '"')
            *out++ = c, state = QUOTED;
        else if (state == QUOTED)
            *out++ = c;
        else if (c == '\n')
            break;
        else if (c == ',')
            *out++ = '|', state = BEGIN;
        else if (state == BEGIN && c == '"')
            state = QUOTED;
        else
            *out++ = c, state = PLAIN;
    }
    *out++ = '|', *out = '\0';
    return at < n ? at + 1 : n;
}

static void random_rows_are_read_as_letter_by_letter(void **state) {
    (void)state;
    uint32_t seed = 11;
    for (int round = 0; round < 20000; round++) {
        size_t n = 1 + round % 20, at = 0;
        char *text = malloc(n); /* of its very size, so that a sanitizer sees a step beyond */
        assert_non_null(text);
        for (size_t i = 0; i < n; i++) {
            seed = seed * 1664525u + 1013904223u;
            text[i] = "\",\na"[seed >> 30];
        }
        stream_row_t row = {.scratch_bytes = n};
        while (at < n) {
            char expected[64], got[64], *end = got;
            size_t next = row_slow(text, n, at, expected);
            assert_int_equal(stream_row_read(&row, text, n, at, ','), next);
            for (size_t i = 0; i < row.count; i++) {
                memcpy(end, row.fields[i].text, row.fields[i].bytes);
                end += row.fields[i].bytes;
                *end++ = '|';
            }
            *end = '\0';
            assert_string_equal(got, expected);
            at = next;
        }
        stream_row_free(&row);
        free(text);
    }
}

static void carriage_returns_before_a_newline_are_no_part_of_a_row(void **state) {
    (void)state;
    const char *text = "a,\"b\"\r\n\r\nc\rd\r";
    stream_row_t row = {.scratch_bytes = strlen(text)};
    size_t n = strlen(text), at = stream_row_read(&row, text, n, 0, ',');
    assert_int_equal(row.count, 2);
    assert_int_equal(row.fields[1].bytes, 1);
    at = stream_row_read(&row, text, n, at, ',');
    assert_int_equal(row.count, 0);
    assert_int_equal(stream_row_read(&row, text, n, at, ','), n);
    assert_int_equal(row.fields[0].bytes, 3);
    stream_row_free(&row);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_holds_the_whole_lines_that_fit),
        cmocka_unit_test(a_line_longer_than_wanted_is_cut_alone),
        cmocka_unit_test(a_newline_in_quotes_ends_no_csv_record),
        cmocka_unit_test(a_quote_inside_a_field_is_a_letter),
        cmocka_unit_test(random_csv_is_cut_as_letter_by_letter),
        cmocka_unit_test(random_rows_are_read_as_letter_by_letter),
        cmocka_unit_test(carriage_returns_before_a_newline_are_no_part_of_a_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
