/* When a snapshot of a peak is worth its cost, and when it is given up. */
#define _GNU_SOURCE
#include "collect/collect_peak.h"
#include "collect_sample.h"

#include <errno.h>

static void a_snapshot_is_wanted_once_it_is_worth_its_cost(void **state) {
    (void)state;
    region_sample_t *r;
    collect_t c;
    collect_process_t *p = begin(&c, &r);
    c.peaks = true;
    c.copy_ns = 1000000; /* so dear that it has just begun however long this took */
    peaks_aim(&c);       /* nothing may be spent */
    assert_int_equal(r->head.snapshot_above, INT64_MAX);
    c.copy_ns = 0; /* to be measured */
    c.begin_ns -= UINT64_C(60) * 1000000000;
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, 32 << 20);
    r->head.heap_bytes = 40 << 20;
    assert_true(peak_begin(&c, getpid(), memfd_create("peak", 0)));
    ctl_result_t failed = {.status = -EIO}, done = {0};
    peak_done(&c, getpid(), &failed);
    assert_int_equal(p->peak.fd, 0);
    assert_true(peak_begin(&c, getpid(), memfd_create("peak", 0)));
    peak_done(&c, getpid(), &done);
    assert_true(p->peak.fd > 0);
    assert_int_equal(p->peak.samples.count, 1);
    c.begin_ns += UINT64_C(30) * 1000000000; /* before a second has passed, on any machine */
    peaks_aim(&c);                           /* what it costs is not all known yet */
    assert_int_equal(r->head.snapshot_above, INT64_MAX);
    assert_true(c.peaks_us > 0);
    c.begin_ns -= UINT64_C(32) * 1000000000;
    p->peak.rss_bytes = 64 << 20; /* of a process that has those 40 MiB */
    peaks_aim(&c);
    assert_true(r->head.snapshot_above >= 50 << 20);
    assert_true(r->head.snapshot_above < INT64_MAX);
    p->peak.rss_bytes = 8 << 20; /* most of it was reserved and never touched */
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, 32 << 20);
    p->untouched_bytes = 30 << 20; /* and still is */
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, 62 << 20);
    c.peaks_us = UINT64_C(1) << 40; /* all is spent */
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, INT64_MAX);
    end(&c, r);
}

/* Half a GiB: half a second where all is copied, and less than a tenth of that where it is rather read. */
static void a_snapshot_of_large_blocks_is_cheaper_and_waiting_earns_nothing(void **state) {
    (void)state;
    region_sample_t sample, *r;
    collect_t c;
    err_t e;
    region_sample(&sample);
    assert_int_equal(collect_begin(&c, &e), 0);
    collect_process_t *p = add(&c, share(&sample, &r));
    c.peaks = true;
    c.copy_ns = 4000;
    c.begin_ns -= UINT64_C(20) * 1000000000; /* earns 200 ms */
    p->private_bytes = UINT64_C(512) << 20;
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, INT64_MAX);
    p->large_bytes = UINT64_C(500) << 20;
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, 32 << 20);
    p->waited_us = 18 * 1000000;
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, INT64_MAX);
    p->waited_past_us = UINT64_MAX; /* whatever it waited was before it was recorded */
    p->private_bytes = p->rss_bytes = UINT64_C(512) << 20;
    peaks_aim(&c);
    assert_int_equal(p->waited_us, 0);
    p->waited_us = p->large_bytes = 0;
    c.copy_ns = UINT64_C(1) << 32; /* as if it had grown since */
    int fd = memfd_create("peak", 0);
    assert_false(peak_begin(&c, getpid(), fd));
    close(fd);
    collect_end(&c);
    munmap(r, sizeof *r);
}

/* Its process writes to all its pages while it is being written. */
static void a_snapshot_that_costs_too_much_is_given_up(void **state) {
    (void)state;
    enum { BYTES = 256 << 20, PAGE = 4096 };
    region_sample_t *r;
    collect_t c;
    collect_process_t *p = begin(&c, &r);
    c.peaks = true;
    c.copy_ns = 10000; /* of all pages more than is earned in a minute: as long this may take */
    c.begin_ns -= UINT64_C(30) * 1000000000;
    r->head.heap_bytes = BYTES;
    peaks_aim(&c);
    assert_true(peak_begin(&c, getpid(), memfd_create("peak", 0)));
    p->peak_cost.begin.rss_bytes = BYTES; /* as if it had been there before */
    p->peak_cost.pages = p->peak_cost.object_pages = BYTES / PAGE;
    assert_true(peaks_aim(&c));
    assert_false(peak_dear(&c, getpid()));
    volatile char *at =
        mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise((void *)at, BYTES, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < BYTES; i += PAGE) at[i] = 1;
    munmap((void *)at, BYTES);
    assert_true(peaks_aim(&c));
    assert_true(peak_dear(&c, getpid()));
    uint64_t spent_us = c.peaks_us;
    peak_done(&c, getpid(), NULL);
    c.begin_ns -= UINT64_C(2) * 1000000000;
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, INT64_MAX); /* known to be dear by now */
    assert_true(c.peaks_us >= spent_us);
    c.begin_ns -= UINT64_C(1000) * 1000000000;
    peaks_aim(&c);
    assert_true(r->head.snapshot_above < INT64_MAX);
    end(&c, r);
}

/* A fifth of it must have been held, and be gone or garbage. */
static void a_peak_is_written_beside_the_heap_at_the_end_where_it_tells_more(void **state) {
    (void)state;
    region_sample_t *r;
    collect_t c;
    collect_process_t *p = begin(&c, &r);
    assert_null(peak_in_doubt(&c)); /* there is none */
    p->peak.fd = memfd_create("peak", 0);
    p->peak.heap_bytes = 100 << 20;
    p->end_heap_bytes = 70 << 20;
    assert_null(peak_in_doubt(&c));
    p->end_heap_bytes = 90 << 20;
    assert_ptr_equal(peak_in_doubt(&c), &p->peak);
    c.heap_garbage_bytes = 20 << 20;
    assert_null(peak_in_doubt(&c));
    p->peak.garbage_bytes = 20 << 20; /* then already */
    assert_ptr_equal(peak_in_doubt(&c), &p->peak);
    c.heap_garbage_bytes = 200 << 20; /* sizes of objects are not those of blocks */
    assert_null(peak_in_doubt(&c));
    p->peak.garbage_bytes = 200 << 20;
    assert_ptr_equal(peak_in_doubt(&c), &p->peak);
    end(&c, r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_is_wanted_once_it_is_worth_its_cost),
        cmocka_unit_test(a_snapshot_of_large_blocks_is_cheaper_and_waiting_earns_nothing),
        cmocka_unit_test(a_snapshot_that_costs_too_much_is_given_up),
        cmocka_unit_test(a_peak_is_written_beside_the_heap_at_the_end_where_it_tells_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
