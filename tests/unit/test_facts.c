#define _GNU_SOURCE
#include "agent/facts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static void dates_are_those_of_libc(void **state) {
    (void)state;
    srandom(1);
    for (int i = 0; i < 20000; i++) {
        time_t t = i < 400 ? i * 43200 : (time_t)(random() % 250000000) * 1000 + random() % 1000;
        struct tm tm;
        char ours[32], theirs[64];
        gmtime_r(&t, &tm);
        if (tm.tm_year + 1900 > 9999) continue;
        strftime(theirs, sizeof theirs, "%Y-%m-%dT%H:%M:%SZ", &tm);
        if (t > 18000000000) continue; /* nanoseconds since 1970 fit until 2554 */
        facts_iso8601((uint64_t)t * 1000000000 + 999999999, ours);
        assert_string_equal(ours, theirs);
    }
}

static void the_process_knows_itself(void **state) {
    (void)state;
    static facts_t f;
    char host[256];
    gethostname(host, sizeof host);
    facts_gather(&f, 0);
    assert_int_equal(f.pid, getpid());
    assert_string_equal(f.hostname, host);
    assert_true(f.peak_rss_bytes >= f.rss_bytes && f.rss_bytes > 100000);
    assert_true(f.age_ms < 600000);
    assert_non_null(strstr(f.command, "test_facts"));
    facts_gather(&f, 4711);
    assert_int_equal(f.pid, 4711);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dates_are_those_of_libc),
        cmocka_unit_test(the_process_knows_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
