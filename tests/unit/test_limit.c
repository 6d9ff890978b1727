#define _GNU_SOURCE
#include "agent/limit/limit_watch.h"
#include "base/clock.h"
#include "base/limit_size.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20 };

static void sizes_are_read_as_people_write_them(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } CASES[] = {
        {"1", 1},        {"2GiB", 2ull << 30}, {" 1.5 GB", 1500000000}, {"512m", 512ull * MIB},
        {"80%", 800000}, {"-200kB", 800000},   {"-25%", 750000},        {"100%", 1000000},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        uint64_t bytes = 0;
        err_t e;
        assert_int_equal(limit_size_parse(CASES[i].text, 1000000, &bytes, &e), 0);
        assert_int_equal(bytes, CASES[i].bytes);
    }
}

static void what_is_no_size_is_refused_in_one_line(void **state) {
    (void)state;
    static const char *const CASES[] = {"",
                                        "GiB",
                                        "2 Gigs",
                                        "-",
                                        "--1",
                                        "1e9",
                                        "2GiB!",
                                        "-2MB",
                                        "0",
                                        "0%",
                                        "-100%",
                                        "nan",
                                        "99999999999999999999999"};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        uint64_t bytes = 7;
        err_t e = {{0}};
        assert_int_equal(limit_size_parse(CASES[i], 1000000, &bytes, &e), -EINVAL);
        assert_int_equal(bytes, 7);
        assert_true(e.text[0] && !strchr(e.text, '\n'));
    }
}

typedef struct fake {
    char root[64], proc[128], cgroups[128];
} fake_t;

static void put(const char *directory, const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    for (char *p = path + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0755);
        *p = '/';
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int set_up(void **state) {
    static fake_t f;
    snprintf(f.root, sizeof f.root, "/tmp/lowtide-limit-XXXXXX");
    assert_non_null(mkdtemp(f.root));
    snprintf(f.proc, sizeof f.proc, "%s/proc", f.root);
    snprintf(f.cgroups, sizeof f.cgroups, "%s/cgroups", f.root);
    put(f.proc, "meminfo", "MemTotal: 1048576 kB\nMemFree: 1 kB\n");
    put(f.proc, "self/statm", "100000 2560 100 10 0 5000 0\n");
    put(f.proc, "pressure/memory",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=123\nfull total=0\n");
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", ((fake_t *)*state)->root);
    return system(command);
}

static void the_fullest_group_counts_and_spare_files_do_not(void **state) {
    fake_t *f = *state;
    gauge_places_t places;
    gauges_t g;
    put(f->proc, "self/cgroup", "1:cpu:/x\n0::/slice/app\n");
    put(f->cgroups, "slice/app/memory.current", "50000000\n");
    put(f->cgroups, "slice/app/memory.max", "max\n");
    put(f->cgroups, "slice/memory.current", "95000000\n");
    put(f->cgroups, "slice/memory.max", "100000000\n");
    put(f->cgroups, "slice/memory.stat", "anon 5\nactive_file 9\ninactive_file 15000000\n");
    put(f->cgroups, "slice/app/memory.pressure", "some avg10=0.00 total=77\n");
    put(f->cgroups, "slice/app/memory.events", "low 0\nhigh 3\nmax 4\noom 0\n");
    gauge_find(&places, f->proc, f->cgroups);
    assert_int_equal(places.group_count, 2);
    gauge_read(&places, &g);
    assert_int_equal(g.of[GAUGE_RSS].used_bytes, 2560 * sysconf(_SC_PAGESIZE));
    assert_int_equal(g.of[GAUGE_CGROUP].used_bytes, 80000000);
    assert_int_equal(g.of[GAUGE_CGROUP].hard_bytes, 100000000);
    assert_int_equal(g.stalled_us, 77);
    assert_int_equal(g.throttled, 7);
    assert_int_equal(gauge_total(&places), 100000000);
    put(f->cgroups, "slice/app/memory.high", "51000000\n");
    gauge_read(&places, &g);
    assert_int_equal(g.of[GAUGE_CGROUP].hard_bytes, 51000000);
}

static void a_group_of_version_1_and_one_outside_are_understood(void **state) {
    fake_t *f = *state;
    gauge_places_t places;
    gauges_t g;
    put(f->proc, "self/cgroup", "4:cpu,memory:/docker/abc\n0::/\n");
    put(f->cgroups, "memory/memory.usage_in_bytes", "7000\n");
    put(f->cgroups, "memory/memory.limit_in_bytes", "9223372036854771712\n");
    gauge_find(&places, f->proc, f->cgroups);
    assert_true(places.v1);
    assert_int_equal(places.group_count, 1);
    gauge_read(&places, &g);
    assert_true(g.of[GAUGE_CGROUP].hard_bytes == UINT64_MAX);
    assert_int_equal(gauge_total(&places), 1u << 30);
    put(f->cgroups, "memory/memory.limit_in_bytes", "10000\n");
    gauge_read(&places, &g);
    assert_int_equal(g.of[GAUGE_CGROUP].used_bytes, 7000);
    assert_int_equal(g.of[GAUGE_CGROUP].hard_bytes, 10000);
}

static void say_rss(const fake_t *f, uint64_t bytes) {
    char text[128];
    snprintf(text, sizeof text, "100000 %llu 0 0 0 0 0\n",
             (unsigned long long)bytes / (unsigned long long)sysconf(_SC_PAGESIZE));
    put(f->proc, "self/statm", text);
}

static void watch(const fake_t *f, limit_watch_t *w, double busy_share) {
    gauge_places_t places;
    gauge_find(&places, f->proc, f->cgroups);
    limit_watch_open(w, &places, 100 * MIB, busy_share);
}

static void pressure_comes_at_the_mark_and_aims_at_the_goal(void **state) {
    fake_t *f = *state;
    limit_watch_t w;
    limit_state_t s;
    watch(f, &w, 0.5);
    say_rss(f, 92 * MIB);
    assert_int_equal(limit_watch_wait(&w, LIMIT_PRESSURE, &s), LIMIT_PRESSURE);
    assert_int_equal(s.source, GAUGE_RSS);
    assert_int_equal(s.used_bytes, 92 * MIB);
    assert_int_equal(s.wanted_bytes, 12 * MIB);
    say_rss(f, 96 * MIB);
    assert_int_equal(limit_watch_wait(&w, LIMIT_NEAR, &s), LIMIT_NEAR);
    limit_watch_stop(&w);
    assert_int_equal(limit_watch_wait(&w, LIMIT_PRESSURE, &s), LIMIT_STOPPED);
}

/* A group of version 2 whose tasks waited so long in all, and which was held up at its high mark so often. */
static void say_stalls(const fake_t *f, uint64_t us, unsigned high) {
    char text[128];
    snprintf(text, sizeof text, "some avg10=0.00 total=%llu\nfull total=0\n",
             (unsigned long long)us);
    put(f->cgroups, "app/memory.pressure", text);
    snprintf(text, sizeof text, "low 0\nhigh %u\nmax 0\noom 0\n", high);
    put(f->cgroups, "app/memory.events", text);
}

typedef struct stall_case {
    uint64_t rss, us;
    unsigned high;
    bool pressure;
} stall_case_t;

static void *waits(void *arg) {
    limit_state_t *s = calloc(1, sizeof *s);
    assert_non_null(s);
    assert_int_equal(limit_watch_wait(arg, LIMIT_PRESSURE, s), LIMIT_PRESSURE);
    return s;
}

/* What is no stall is told from one by waiting on until the limit is full. */
static void check_stall(const fake_t *f, const stall_case_t *c) {
    const struct timespec a_while = {.tv_nsec = 10000000};
    limit_watch_t w;
    pthread_t thread;
    void *result;
    put(f->proc, "self/cgroup", "0::/app\n");
    put(f->cgroups, "app/memory.current", "1000\n");
    put(f->cgroups, "app/memory.max", "max\n");
    say_stalls(f, 1000000, 5);
    say_rss(f, c->rss);
    watch(f, &w, 0.5);
    say_stalls(f, 1000000 + c->us, 5 + c->high);
    w.stalls_read_ns -= 2000000000; /* so long ago */
    const int64_t read_ns = w.stalls_read_ns;
    assert_int_equal(pthread_create(&thread, NULL, waits, &w), 0);
    while (__atomic_load_n(&w.stalls_read_ns, __ATOMIC_RELAXED) == read_ns)
        nanosleep(&a_while, NULL);
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 60;
    if (!c->pressure || pthread_timedjoin_np(thread, &result, &end)) {
        say_rss(f, 95 * MIB);
        assert_int_equal(pthread_join(thread, &result), 0);
    }
    const limit_state_t *s = result;
    assert_int_equal(s->stalled, c->pressure);
    assert_int_equal(s->used_bytes, c->pressure ? c->rss : 95 * MIB);
    assert_int_equal(s->wanted_bytes, c->pressure ? c->rss / 20 : 15 * MIB);
    free(result);
}

static void a_stall_and_a_high_mark_are_pressure_from_half_of_the_limit_on(void **state) {
    static const stall_case_t CASES[] = {
        {60 * MIB, 1000000000000, 0, true}, /* whatever a busy machine makes of the two seconds */
        {60 * MIB, 200000, 0, false},       /* of at least two seconds: a tenth */
        {60 * MIB, 0, 1, true},
        {60 * MIB, 0, 0, false},
        {40 * MIB, 1000000000000, 1, false},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) check_stall(*state, &CASES[i]);
}

static void others_of_a_tree_count_until_their_recorder_falls_silent(void **state) {
    fake_t *f = *state;
    limit_watch_t w;
    limit_state_t s;
    static region_t tree;
    const uint64_t begun_ns = (uint64_t)now_ns();
    watch(f, &w, 0.5);
    w.tree = &tree;
    tree.tree_beside = 60 * MIB;
    tree.tree_share = REGION_SHARE_ALL / 4;
    tree.tree_ns = begun_ns + 3600000000000u; /* however long this test is kept from running */
    say_rss(f, 30 * MIB);
    limit_watch_read(&w, &s);
    assert_int_equal(s.used_bytes, 90 * MIB);
    assert_true(s.shared);
    tree.tree_ns = begun_ns - 6000000000u;
    limit_watch_read(&w, &s);
    assert_int_equal(s.used_bytes, 30 * MIB);
    assert_false(s.shared);
}

static void what_brings_nothing_is_tried_more_and_more_seldom(void **state) {
    fake_t *f = *state;
    limit_watch_t w;
    limit_state_t s = {0};
    watch(f, &w, 0.5);
    say_rss(f, 92 * MIB);
    limit_watch_wait(&w, LIMIT_PRESSURE, &s);
    int64_t idle = 0;
    for (int i = 0; i < 12; i++) {
        assert_int_equal(limit_watch_acted(&w, &s, 0, false), 0);
        assert_true(w.idle_ns > idle || w.idle_ns == 60000000000ll);
        idle = w.idle_ns;
    }
    say_rss(f, 93 * MIB + 4096 * 100); /* more than 1 % has come since: at once */
    assert_int_equal(limit_watch_wait(&w, LIMIT_PRESSURE, &s), LIMIT_PRESSURE);
    say_rss(f, 85 * MIB);
    assert_true(limit_watch_acted(&w, &s, 2000000000, false) > 8 * MIB);
    assert_int_equal(w.idle_ns, 0);
    assert_true(w.credit_ns <= -1000000000); /* two seconds of the one that was saved up */
    say_rss(f, 99 * MIB);
    w.credit_at_ns -= 1900000000;
    const int64_t at_ns = w.credit_at_ns, overdrawn_ns = -w.credit_ns;
    limit_watch_wait(&w, LIMIT_PRESSURE, &s);
    /* The rest of what is overdrawn, at half of all time; a busy machine adds to it. */
    assert_true(w.credit_ns > 0 && w.credit_at_ns - at_ns > 2 * overdrawn_ns);
}

static void a_light_action_is_followed_by_another_only_when_usage_has_grown(void **state) {
    fake_t *f = *state;
    limit_watch_t w;
    limit_state_t s = {0};
    watch(f, &w, 1);
    say_rss(f, 91 * MIB);
    limit_watch_wait(&w, LIMIT_PRESSURE, &s);
    assert_int_equal(s.light_bytes, 3 * MIB);
    assert_int_equal(s.over_bytes, MIB);
    limit_watch_acted(&w, &s, 0, true);
    assert_true(w.light);
    w.retry_ns = 0; /* the time for another attempt has come, and nothing is to be attempted */
    say_rss(f, 91 * MIB + 4096 * 200);
    assert_int_equal(limit_watch_wait(&w, LIMIT_PRESSURE, &s), LIMIT_PRESSURE);
    assert_int_equal(s.used_bytes, 91 * MIB + 4096 * 200);
    say_rss(f, 94 * MIB);
    limit_watch_read(&w, &s);
    assert_int_equal(s.light_bytes, 0);
    say_rss(f, 85 * MIB); /* and below 86 %, caches may grow again: said once */
    assert_int_equal(limit_watch_wait(&w, LIMIT_PRESSURE, &s), LIMIT_SPARE);
    assert_false(w.light);
}

static void reading_again_takes_usage_anew_and_limits_as_they_were(void **state) {
    fake_t *f = *state;
    gauge_places_t places;
    gauges_t g;
    put(f->proc, "self/cgroup", "4:memory:/\n0::/\n");
    put(f->cgroups, "memory/memory.usage_in_bytes", "7000\n");
    put(f->cgroups, "memory/memory.limit_in_bytes", "10000\n");
    gauge_find(&places, f->proc, f->cgroups);
    gauge_read(&places, &g);
    put(f->cgroups, "memory/memory.usage_in_bytes", "7500\n");
    put(f->cgroups, "memory/memory.limit_in_bytes", "20000\n");
    gauge_read_again(&places, &g);
    assert_int_equal(g.of[GAUGE_CGROUP].used_bytes, 7500);
    assert_int_equal(g.of[GAUGE_CGROUP].hard_bytes, 10000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_read_as_people_write_them),
        cmocka_unit_test(what_is_no_size_is_refused_in_one_line),
        cmocka_unit_test_setup_teardown(the_fullest_group_counts_and_spare_files_do_not, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_group_of_version_1_and_one_outside_are_understood, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(pressure_comes_at_the_mark_and_aims_at_the_goal, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            a_stall_and_a_high_mark_are_pressure_from_half_of_the_limit_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(others_of_a_tree_count_until_their_recorder_falls_silent,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_light_action_is_followed_by_another_only_when_usage_has_grown, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reading_again_takes_usage_anew_and_limits_as_they_were,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_brings_nothing_is_tried_more_and_more_seldom, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
