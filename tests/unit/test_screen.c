#define _GNU_SOURCE
#include "view/json.h"
#include "view/screen.h"
#include "view/units.h"

#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *printed;
static size_t printed_bytes;

static screen_t screen_open(bool utf8) {
    return (screen_t){.file = open_memstream(&printed, &printed_bytes), .width = 80, .utf8 = utf8};
}

static void expect(screen_t *s, const char *text) {
    fclose(s->file);
    assert_string_equal(printed, text);
    free(printed);
}

static void expect_text(bool utf8, const char *text, int cells, const char *shown, int used) {
    screen_t s = screen_open(utf8);
    int got = screen_text(&s, text, strlen(text), cells);
    assert_int_equal(got, used);
    expect(&s, shown);
}

static void a_text_that_fits_is_printed_whole(void **state) {
    (void)state;
    expect_text(true, "app.cache", 9, "app.cache", 9);
    expect_text(true, "", 9, "", 0);
    expect_text(true, "é", 1, "é", 1);
}

static void a_long_text_loses_its_middle(void **state) {
    (void)state;
    expect_text(true, "app.cache['u17'].history[3]", 11, "app.c…ry[3]", 11);
    expect_text(false, "app.cache['u17'].history[3]", 11, "app....y[3]", 11);
    expect_text(true, "abcdef", 1, "…", 1);
    expect_text(true, "abcdef", 0, "", 0);
    expect_text(false, "abcdef", 2, "", 0);
}

static void wide_characters_take_two_cells(void **state) {
    (void)state;
    expect_text(true, "缓存缓存", 8, "缓存缓存", 8);
    expect_text(true, "缓存缓存", 5, "缓…存", 5);
    expect_text(true, "缓存缓存", 6, "缓…存", 5);
}

static void nothing_that_steers_a_terminal_gets_through(void **state) {
    (void)state;
    expect_text(true, "a\033[31mb", 40, "a\\x1b[31mb", 10);
    expect_text(true,
                "\xc2\x9b"
                "31m",
                40, "\\x9b31m", 7);
    expect_text(true, "a\xff\xc3", 40, "a\\xff\\xc3", 9);
    expect_text(true, "a\u202eb\u2066\u200b", 40, "a\\u202eb\\u2066\\u200b", 20);
    expect_text(true, "a\nb\tc\r\x7f", 40, "a\\nb\\tc\\r\\x7f", 13);
    expect_text(false, "né", 40, "n\\xe9", 5);
    expect_text(false, "😀", 40, "\\U0001f600", 10);
}

static void a_pile_of_combining_marks_is_cut(void **state) {
    (void)state;
    expect_text(true, "e\u0301\u0301\u0301\u0301", 40, "e\u0301\u0301\u0301\\u0301", 7);
}

static void wrapped_lines_stay_within_their_cells(void **state) {
    (void)state;
    screen_t s = screen_open(true);
    screen_wrapped(&s, "give the cache a bound", 2, 10);
    expect(&s, "give the\n  cache a\n  bound\n");
    s = screen_open(true);
    screen_wrapped(&s, "aaaaaaaaaaaaaaaaaaaa b", 2, 10);
    expect(&s, "aaaaa…aaaa\n  b\n");
    s = screen_open(true);
    screen_wrapped(&s, "it is 9.5 MiB, 3 MiBs", 2, 10);
    expect(&s, "it is\n  9.5 MiB, 3\n  MiBs\n");
}

static void sizes_read_in_iec_units(void **state) {
    (void)state;
    char t[UNITS_BYTES];
    assert_string_equal(units_size(t, 0), "0 B");
    assert_string_equal(units_size(t, 1023), "1023 B");
    assert_string_equal(units_size(t, 1024), "1.0 KiB");
    assert_string_equal(units_size(t, 1048575), "1.0 MiB");
    assert_string_equal(units_size(t, UINT64_MAX), "16.0 EiB");
    assert_string_equal(units_short(t, 0), "0B");
    assert_string_equal(units_short(t, 999), "999B");
    assert_string_equal(units_short(t, 1000), "1.0K");
    assert_string_equal(units_short(t, 10188), "9.9K");
    assert_string_equal(units_short(t, 10189), "10K");
    assert_string_equal(units_short(t, 412 << 20), "412M");
    assert_string_equal(units_short(t, UINT64_MAX), "16E");
    assert_string_equal(units_growth(t, INT64_MIN), "-8.0 EiB");
    assert_string_equal(units_growth(t, 2048), "+2.0 KiB");
    assert_string_equal(units_count(t, 1234567), "1,234,567");
    assert_string_equal(units_count(t, UINT64_MAX), "18,446,744,073,709,551,615");
    assert_string_equal(units_count_growth(t, -1000), "-1,000");
    assert_string_equal(units_share(t, 1, 1000), "<1 %");
    assert_string_equal(units_share(t, 999, 1000), "99 %");
    assert_string_equal(units_share(t, 5, 5), "100 %");
    assert_string_equal(units_span(t, 8077), "2 h 14 min");
    assert_string_equal(units_span(t, (double)NAN), "0.0 ms");
}

static void json_escapes_repairs_and_nests(void **state) {
    (void)state;
    screen_t s = screen_open(true);
    json_t j;
    json_init(&j, s.file);
    j.compact = true;
    json_open(&j, NULL, '{');
    json_text(&j, "a\"b", "\\ \n \x01 \xff é \u2028");
    json_uint(&j, "big", UINT64_MAX);
    json_int(&j, "small", INT64_MIN);
    json_real(&j, "nan", (double)NAN);
    json_real(&j, "r", 0.1);
    json_open(&j, "l", '[');
    json_null(&j, NULL);
    json_bool(&j, NULL, true);
    json_close(&j);
    json_open(&j, "e", '{');
    json_close(&j);
    json_close(&j);
    expect(
        &s,
        "{\"a\\\"b\": \"\\\\ \\n \\u0001 \xef\xbf\xbd é \\u2028\", \"big\": 18446744073709551615, "
        "\"small\": -9223372036854775808, \"nan\": null, \"r\": 0.1, \"l\": [null, true], "
        "\"e\": {}}\n");
}

int main(void) {
    setlocale(LC_CTYPE, "C.UTF-8");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_that_fits_is_printed_whole),
        cmocka_unit_test(a_long_text_loses_its_middle),
        cmocka_unit_test(wide_characters_take_two_cells),
        cmocka_unit_test(nothing_that_steers_a_terminal_gets_through),
        cmocka_unit_test(a_pile_of_combining_marks_is_cut),
        cmocka_unit_test(wrapped_lines_stay_within_their_cells),
        cmocka_unit_test(sizes_read_in_iec_units),
        cmocka_unit_test(json_escapes_repairs_and_nests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
