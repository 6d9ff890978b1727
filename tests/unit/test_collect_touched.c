/* Which memory was touched: what a peak is told of that was between two looks, and of pages that nobody wrote to. */
#define _GNU_SOURCE
#include "collect_sample.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/utsname.h>

/* A test before may have been as high as this one gets. */
static void forget_the_highest_rss(void) {
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "5", 1), 1);
    close(fd);
}

enum {
    MAPPED_BYTES = 256 << 20,
    BESIDE_BYTES = 32 << 20,
    PAGE_BYTES = 4096,
    SMALL_BYTES = 8 << 20
};

/* A process, this one, whose second cell has a large block, with some memory behind it that is no block's. */
typedef struct mapped {
    region_sample_t *r;
    collect_t c;
    collect_process_t *p;
    volatile char *at;
} mapped_t;

static void mapped_begin(mapped_t *m) {
    forget_the_highest_rss();
    m->p = begin(&m->c, &m->r);
    m->at = mmap(NULL, MAPPED_BYTES + BESIDE_BYTES, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(m->at != MAP_FAILED);
    madvise((void *)m->at, MAPPED_BYTES + BESIDE_BYTES, MADV_NOHUGEPAGE);
    m->r->cells[1].domain = REGION_MMAP;
    m->r->cells[1].live.bytes = MAPPED_BYTES;
    m->r->head.heap_bytes = m->r->head.heap_peak_bytes = MAPPED_BYTES;
    m->r->blocks[5].bytes = MAPPED_BYTES;
    m->r->blocks[5].address = (uint64_t)(uintptr_t)m->at;
}

static void mapped_touch(const mapped_t *m, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i += PAGE_BYTES) m->at[i] = 1;
}

/* The block, which was there at the heap's peak, is counted no more; its pages are there still. */
static void mapped_uncount(mapped_t *m) {
    m->r->blocks[5].address = 0;
    m->r->cells[1].peak.bytes = MAPPED_BYTES;
    m->r->cells[1].heap_epoch = m->r->head.heap_epoch;
    m->r->cells[1].live.bytes = 0;
    m->r->head.heap_bytes = 3000;
}

static void mapped_drop(mapped_t *m) {
    mapped_uncount(m);
    munmap((void *)m->at, MAPPED_BYTES + BESIDE_BYTES);
}

static uint64_t mapped_untouched_at_peak(const mapped_t *m) {
    return m->p->seen.cells.at[1].peak_untouched;
}

static void mapped_look(mapped_t *m) {
    m->p->looked_us = 0;
    collect_tick(&m->c);
}

/* Seen half touched, touched whole, and gone before the next look. */
static void a_peak_between_two_looks_is_told(void **state) {
    (void)state;
    mapped_t m;
    mapped_begin(&m);
    mapped_touch(&m, 0, MAPPED_BYTES / 2);
    collect_drain(&m.c);
    uint64_t whole = m.p->rss_peak_bytes + MAPPED_BYTES / 2;
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES / 2);
    mapped_touch(&m, MAPPED_BYTES / 2, MAPPED_BYTES);
    mapped_drop(&m);
    m.r->head.heap_peak_bytes = MAPPED_BYTES + PAGE_BYTES;
    collect_drain(&m.c);
    assert_in_range(m.p->rss_peak_bytes, whole - SMALL_BYTES, whole + SMALL_BYTES);
    assert_in_range(mapped_untouched_at_peak(&m), 0, SMALL_BYTES);
    const collect_point_t *highest = m.c.timeline.at;
    for (size_t i = 0; i < m.c.timeline.count; i++)
        if (m.c.timeline.at[i].rss_bytes > highest->rss_bytes) highest = &m.c.timeline.at[i];
    assert_int_equal(highest->rss_bytes, m.p->rss_peak_bytes);
    assert_in_range(highest->heap_bytes, MAPPED_BYTES - SMALL_BYTES, MAPPED_BYTES + PAGE_BYTES);
    end(&m.c, m.r);
}

static void what_was_never_touched_is_no_memory_when_it_is_gone_either(void **state) {
    (void)state;
    mapped_t m;
    mapped_begin(&m);
    collect_drain(&m.c);
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES);
    mapped_drop(&m);
    collect_drain(&m.c);
    assert_int_equal(m.p->seen.cells.at[1].untouched, 0);
    assert_in_range(mapped_untouched_at_peak(&m), MAPPED_BYTES - SMALL_BYTES, MAPPED_BYTES);
    end(&m.c, m.r);
}

/* Its rest is touched while nobody reads its pages, and the RSS falls once while it lives: what was higher by then is told of it when
 * it is gone. */
static void what_was_touched_before_a_dip_is_told_of_what_goes_later(void **state) {
    (void)state;
    mapped_t m;
    mapped_begin(&m);
    mapped_touch(&m, 0, MAPPED_BYTES / 2);
    collect_drain(&m.c);
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES / 2);
    mapped_touch(&m, MAPPED_BYTES / 2, MAPPED_BYTES + BESIDE_BYTES);
    m.p->untouched_due_us = UINT64_MAX;
    mapped_look(&m);
    madvise((void *)(m.at + MAPPED_BYTES), BESIDE_BYTES, MADV_DONTNEED);
    mapped_look(&m);
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES / 2);
    mapped_drop(&m);
    m.p->back_due_us = 0;
    mapped_look(&m);
    assert_in_range(mapped_untouched_at_peak(&m), 0, SMALL_BYTES);
    end(&m.c, m.r);
}

/* Seen half touched; touched whole; and seen again when it is counted no more and some of its pages are still there. */
static void what_is_seen_while_it_goes_is_told_as_it_was_before(void **state) {
    (void)state;
    mapped_t m;
    mapped_begin(&m);
    mapped_touch(&m, 0, MAPPED_BYTES / 2);
    collect_drain(&m.c);
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES / 2);
    mapped_touch(&m, MAPPED_BYTES / 2, MAPPED_BYTES);
    mapped_uncount(&m);
    madvise((void *)(m.at + MAPPED_BYTES / 4 * 3), MAPPED_BYTES / 4, MADV_DONTNEED);
    m.p->back_due_us = UINT64_MAX;
    m.p->untouched_due_us = 0;
    mapped_look(&m);
    munmap((void *)m.at, MAPPED_BYTES + BESIDE_BYTES);
    m.p->back_due_us = 0;
    mapped_look(&m);
    assert_in_range(mapped_untouched_at_peak(&m), 0, SMALL_BYTES);
    end(&m.c, m.r);
}

static bool kernel_tells_zero_pages(void) {
    struct utsname name;
    unsigned major = 0, minor = 0;
    return uname(&name) == 0 && sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 7));
}

/* numpy.zeros of which a copy is made: its pages are there, and all are the one of zeros. */
static void what_was_only_read_is_no_memory(void **state) {
    (void)state;
    mapped_t m;
    if (!kernel_tells_zero_pages()) skip();
    mapped_begin(&m);
    mapped_touch(&m, 0, MAPPED_BYTES / 4);
    for (size_t i = 0; i < MAPPED_BYTES; i += PAGE_BYTES) (void)m.at[i];
    collect_drain(&m.c);
    assert_int_equal(m.p->seen.cells.at[1].untouched, MAPPED_BYTES / 4 * 3);
    munmap((void *)m.at, MAPPED_BYTES + BESIDE_BYTES);
    end(&m.c, m.r);
}

/* Something large came and went beside it; then it is touched, and the RSS is higher than any look saw it. */
static void what_is_touched_after_the_heaps_highest_was_not_touched_then(void **state) {
    (void)state;
    mapped_t m;
    mapped_begin(&m);
    collect_drain(&m.c);
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES);
    m.r->cells[1].peak.bytes = MAPPED_BYTES;
    m.r->cells[1].heap_epoch = m.r->head.heap_epoch;
    m.r->head.heap_peak_bytes = INT64_C(3) * MAPPED_BYTES;
    mapped_touch(&m, 0, MAPPED_BYTES);
    collect_drain(&m.c);
    assert_int_equal(m.p->seen.cells.at[1].untouched, 0);
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES);
    munmap((void *)m.at, MAPPED_BYTES + BESIDE_BYTES);
    end(&m.c, m.r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_peak_between_two_looks_is_told),
        cmocka_unit_test(what_was_only_read_is_no_memory),
        cmocka_unit_test(what_was_never_touched_is_no_memory_when_it_is_gone_either),
        cmocka_unit_test(what_was_touched_before_a_dip_is_told_of_what_goes_later),
        cmocka_unit_test(what_is_seen_while_it_goes_is_told_as_it_was_before),
        cmocka_unit_test(what_is_touched_after_the_heaps_highest_was_not_touched_then),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
