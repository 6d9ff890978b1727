#include "agent/alloc/alloc_count.h"
#include "agent/alloc/alloc_libc.h"
#include "agent/alloc/alloc_sample.h"
#include "agent/alloc/alloc_stack.h"
#include "agent/alloc/alloc_store.h"

#include "alloc_calls.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#if defined __has_feature && !defined __SANITIZE_THREAD__
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ /* as gcc says it */
#endif
#endif

enum { THREADS = 6, ROUNDS = 40000, SLOTS = 4096, APART = 64, INTERVAL = 4096, PAGES = 16 };

/* Addresses that are never touched, handed from thread to thread as an allocator does it: whoever takes one sees all that was
 * done with it before. */
static struct slot {
    _Atomic int state; /* 0: free, 1: allocated, 2: somebody's */
    uint32_t bytes, domain;
} slots[SLOTS];
static enum region_mode mode;
static _Atomic int working;

static void *address_of(size_t slot) {
    return (void *)(0x10000000 + slot * APART);
}

static void *thread_of_nothing(void) {
    return NULL; /* no Python state, as threads of C have none */
}

static rt_t runtime;

static int open_all(enum region_mode as) {
    int fd;
    err_t e;
    mode = as;
    count_me = (count_thread_t){0};
    runtime.PyGILState_GetThisThreadState = thread_of_nothing;
    static layout_t layout;
    runtime.layout = &layout;
    if (store_open(as, INTERVAL, &fd, &e) || close(fd)) return -1;
    return stack_open(&runtime, false) ? count_open(as, INTERVAL, &e) : -1;
}

static int open_sampled(void **state) {
    (void)state;
    return open_all(REGION_SAMPLED);
}

static int open_exact(void **state) {
    (void)state;
    return open_all(REGION_EXACT);
}

static int close_all(void **state) {
    (void)state;
    count_close();
    stack_close();
    store_close();
    return 0;
}

static void begin(struct slot *s, uint64_t random) {
    void *block = address_of((size_t)(s - slots));
    s->bytes = random % 7 ? (uint32_t)(random >> 40) % 300 : (uint32_t)(random >> 40) % 60000;
    s->domain = random % 5 ? REGION_LIBC : REGION_RAW;
    if (mode == REGION_EXACT)
        count_born(block, s->bytes, s->domain, false);
    else if (count_reaches(s->bytes))
        count_sample(block, s->bytes, s->domain);
}

static void end(struct slot *s) {
    void *block = address_of((size_t)(s - slots));
    if (mode == REGION_EXACT)
        assert_int_equal(count_died(block, false).bytes, s->bytes);
    else if (count_may_have(block))
        count_take(block);
}

static void *allocate(void *arg) {
    uint64_t random = 0x9e3779b97f4a7c15ull * ((uintptr_t)arg + 1);
    char *mine = (char *)0x7e0000000000 + ((uintptr_t)arg << 24);
    for (int i = 0; i < ROUNDS; i++) {
        struct slot *s = &slots[(sample_random(&random) >> 20) % SLOTS];
        int seen = atomic_load_explicit(&s->state, memory_order_relaxed);
        if (seen == 2 || !atomic_compare_exchange_strong(&s->state, &seen, 2)) continue;
        if (seen)
            end(s);
        else
            begin(s, random);
        atomic_store_explicit(&s->state, !seen, memory_order_release);
        if (i % 64 == 0) count_mapped(mine, PAGES * 4096);
        if (i % 64 == 32) count_unmapped(mine + 4096, (PAGES - 2) * 4096); /* its two ends stay */
        if (i % 64 == 48) count_unmapped(mine, PAGES * 4096);
    }
    count_unmapped(mine, PAGES * 4096);
    atomic_fetch_sub(&working, 1);
    return NULL;
}

/* What the recorder does meanwhile, in another process: a new peak of the RSS, and marks. */
static void *record(void *arg) {
    (void)arg;
    while (atomic_load(&working)) {
        atomic_fetch_add(&store_region()->rss_epoch, 1);
        store_event(REGION_EVENT_MARK, 0, 0, "mark");
        usleep(500);
    }
    return NULL;
}

static void run_threads(void *(*what)(void *)) {
    pthread_t threads[THREADS], recorder;
    working = THREADS;
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, what, (void *)i), 0);
    assert_int_equal(pthread_create(&recorder, NULL, record, NULL), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    pthread_join(recorder, NULL);
}

static void assert_nothing_lives(void) {
    const region_t *r = store_region();
    const region_cell_t *cells = (const region_cell_t *)((const char *)r + r->cells.offset);
    int64_t made = 0;
    for (uint64_t i = 0; i < r->cells.used; i++) {
        assert_int_equal(cells[i].live.bytes, 0);
        assert_int_equal(cells[i].live.blocks, 0);
        assert_int_equal(cells[i].live.variance, 0);
        made += cells[i].total.bytes;
    }
    assert_true(made > 0);
    assert_int_equal(r->heap_bytes, 0);
    assert_true(r->heap_peak_bytes > 0 && r->heap_peak_bytes < made);
    assert_int_equal(r->lost_blocks + r->lost_stacks, 0);
}

static void test_blocks_of_many_threads_are_counted_from_their_begin_to_their_end(void **state) {
    (void)state;
    run_threads(allocate);
    for (size_t i = 0; i < SLOTS; i++)
        if (atomic_exchange(&slots[i].state, 0)) end(&slots[i]);
    assert_nothing_lives();
}

static void test_null_is_no_block(void **state) {
    (void)state;
    count_thread_t before = count_me;
    count_me.left = -1;
    count_sample(address_of(1), 100, REGION_LIBC); /* the thread's first: it may pass */
    count_me.left = -1;
    count_sample(address_of(2), 100, REGION_LIBC);
    int64_t bytes = store_region()->heap_bytes;
    assert_true(bytes > 0);
    count_take(address_of(2)); /* leaves a place that is free and says what it held */
    assert_true(store_region()->heap_bytes < bytes);
    bytes = store_region()->heap_bytes;
    assert_false(count_take(NULL).known);
    assert_int_equal(store_region()->heap_bytes, bytes);
    count_me = before;
}

static void test_an_end_that_is_awaited_is_seen_once_and_leaves_no_trace(void **state) {
    (void)state;
    assert_false(count_awaits());
    count_await(address_of(3));
    assert_true(count_may_have(address_of(3)));
    assert_false(count_take(address_of(4)).known); /* another's */
    assert_false(count_take(address_of(3)).known);
    assert_false(count_awaits());
    assert_false(count_may_have(address_of(3)));
    count_await(address_of(3)); /* and that does not come */
    assert_true(count_awaits());
    assert_false(count_awaits());
    assert_false(count_may_have(address_of(3)));
}

#ifndef __SANITIZE_THREAD__ /* its runtime takes no call of ours from inside libc's pthread_create */
/* Through the hooks of libc's functions, as another library calls them. */
static void *call_libc(void *arg) {
    alloc_calls(0x2545f4914f6cdd1dull * ((uintptr_t)arg + 1), ROUNDS / 4);
    atomic_fetch_sub(&working, 1);
    return NULL;
}

static void test_the_hooks_may_come_and_go_while_threads_allocate(void **state) {
    (void)state;
    err_t e;
    pthread_t threads[THREADS];
    working = THREADS;
    assert_int_equal(libc_hook(mode, false, &e), 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, call_libc, (void *)i), 0);
    while (working > THREADS / 2) usleep(100);
    libc_unhook();
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    while (libc_inside()) usleep(100);
    const region_t *r = store_region();
    assert_true(r->heap_peak_bytes > 0 && r->cells.used > 1);
    assert_int_equal(r->lost_blocks + r->lost_stacks, 0);
}

static int64_t lives_more_than(int64_t before) {
    return store_region()->heap_bytes - before;
}

/* A block as large as that is always sampled; C++ rounds the little one up to its alignment. */
static void test_every_way_to_a_block_is_counted_from_its_begin_to_its_end(void **state) {
    (void)state;
    enum { BYTES = 10 << 20, A_LITTLE = 1024 };
    err_t e;
    size_t count;
    const alloc_way_t *ways = alloc_ways(&count);
    int64_t large[16] = {0}, little[16] = {0}, left[16] = {0};
    assert_true(count <= 16);
    assert_int_equal(libc_hook(mode, false, &e), 0);
    ways[0].end(ways[0].make(BYTES)); /* the thread's first may pass */
    for (size_t i = 0; i < count; i++) {
        int64_t before = store_region()->heap_bytes;
        void *p = ways[i].make(BYTES);
        large[i] = lives_more_than(before);
        ways[i].end(p);
        left[i] = lives_more_than(before);
        p = ways[i].make(A_LITTLE);
        little[i] = lives_more_than(before);
        ways[i].end(p);
        left[i] += lives_more_than(before);
    }
    libc_unhook();
    while (libc_inside()) usleep(100);
    for (size_t i = 0; i < count; i++) {
        bool told =
            large[i] == BYTES && left[i] == 0 && (mode == REGION_SAMPLED || little[i] == A_LITTLE);
        if (!told)
            fail_msg("%s: %d and %d bytes are told as %lld and %lld, and %lld of them stay",
                     ways[i].name, BYTES, A_LITTLE, (long long)large[i], (long long)little[i],
                     (long long)left[i]);
    }
    if (count < 12) print_message("no libstdc++.so.6 here: operator new is not tested\n");
}

/* ── Address space, and memory out of it ── */

enum { PAGE = 4096, RESERVED_PAGES = 1 << 18, USABLE = PROT_READ | PROT_WRITE };
#define FAR (INT64_MAX / 8) /* to the next sample, of a thread that is not muted */

static int64_t lives(void) {
    return store_region()->heap_bytes;
}

static int64_t blocks_alive(void) {
    const region_t *r = store_region();
    const region_cell_t *cells = (const region_cell_t *)((const char *)r + r->cells.offset);
    int64_t blocks = 0;
    for (uint64_t i = 0; i < r->cells.used; i++)
        blocks += cells[i].domain == REGION_MMAP ? cells[i].live.blocks : 0;
    return blocks;
}

static char *reserve(void) {
    err_t e;
    assert_int_equal(libc_hook(mode, false, &e), 0);
    count_me.left = FAR;
    return alloc_reserve((size_t)RESERVED_PAGES * PAGE);
}

static void end_reserve(char *at) {
    alloc_unmap(at, (size_t)RESERVED_PAGES * PAGE);
    libc_unhook();
    while (libc_inside()) usleep(100);
    assert_int_equal(lives(), 0);
    assert_int_equal(blocks_alive(), 0);
}

static void test_what_is_reserved_is_memory_from_when_it_may_be_used(void **state) {
    (void)state;
    char *at = reserve();
    assert_int_equal(lives(), 0);
    alloc_protect(at + PAGE, 1, USABLE); /* to the end of its page */
    assert_int_equal(lives(), PAGE);
    alloc_protect(at, 4 * PAGE, USABLE); /* a part is so already */
    assert_int_equal(lives(), 4 * PAGE);
    alloc_protect(at, 4 * PAGE, PROT_NONE); /* its pages stay */
    alloc_protect(at, 4 * PAGE, PROT_READ);
    assert_int_equal(lives(), 4 * PAGE);
    alloc_unmap(at, 2 * PAGE);
    assert_int_equal(lives(), 2 * PAGE);
    end_reserve(at);
}

static void test_what_grows_piece_by_piece_is_one_block(void **state) {
    (void)state;
    char *at = reserve();
    for (int i = 0; i < 20000; i++) alloc_protect(at + (size_t)i * PAGE, PAGE, USABLE);
    assert_int_equal(lives(), 20000 * PAGE);
    assert_int_equal(blocks_alive(), 1);
    assert_int_equal(store_region()->lost_blocks, 0);
    end_reserve(at);
}

static void test_pieces_beyond_the_table_are_lost_and_said_to_be(void **state) {
    (void)state;
    char *at = reserve();
    for (int i = 0; i < 20000; i++) alloc_protect(at + (size_t)i * 2 * PAGE, PAGE, USABLE);
    assert_true(blocks_alive() < 20000);
    assert_true(store_region()->lost_blocks >= 20000 - (uint64_t)blocks_alive());
    assert_int_equal(lives(), blocks_alive() * PAGE);
    end_reserve(at);
}

static void test_a_hole_in_a_mapping_when_the_table_is_full_keeps_its_longer_side(void **state) {
    (void)state;
    char *at = reserve(), *mapped = (char *)0x600000000000;
    count_mapped(mapped, 10 * PAGE);
    for (int i = 0; i < 20000; i++) alloc_protect(at + (size_t)i * 2 * PAGE, PAGE, USABLE);
    int64_t before = lives();
    uint64_t lost = store_region()->lost_blocks;
    count_unmapped(mapped + 2 * PAGE, PAGE);
    assert_int_equal(before - lives(), 3 * PAGE);
    assert_int_equal(store_region()->lost_blocks, lost + 1);
    count_reserved(mapped + 20 * PAGE, PAGE);
    assert_int_equal(store_region()->lost_blocks, lost + 2);
    count_unmapped(mapped, 10 * PAGE);
    end_reserve(at);
}

static void test_a_forked_child_knows_what_was_reserved(void **state) {
    (void)state;
    char *at = reserve();
    alloc_protect(at, PAGE, USABLE);
    int64_t before = lives(), counted;
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (!child) {
        count_restart(true); /* its region is its parent's here */
        count_me.left = FAR;
        alloc_protect(at, 3 * PAGE, USABLE);
        counted = lives() - before;
        _exit(write(pipes[1], &counted, sizeof counted) != sizeof counted);
    }
    assert_int_equal(read(pipes[0], &counted, sizeof counted), sizeof counted);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(counted, 2 * PAGE);
    close(pipes[0]);
    close(pipes[1]);
    libc_unhook();
}

#endif

#define SAMPLED(name) cmocka_unit_test_setup_teardown(name, open_sampled, close_all)
#define EXACT(name)   cmocka_unit_test_setup_teardown(name, open_exact, close_all)

int main(void) {
    const struct CMUnitTest tests[] = {
        SAMPLED(test_blocks_of_many_threads_are_counted_from_their_begin_to_their_end),
        EXACT(test_blocks_of_many_threads_are_counted_from_their_begin_to_their_end),
        SAMPLED(test_null_is_no_block),
        SAMPLED(test_an_end_that_is_awaited_is_seen_once_and_leaves_no_trace),
#ifndef __SANITIZE_THREAD__
        SAMPLED(test_the_hooks_may_come_and_go_while_threads_allocate),
        EXACT(test_the_hooks_may_come_and_go_while_threads_allocate),
        SAMPLED(test_every_way_to_a_block_is_counted_from_its_begin_to_its_end),
        EXACT(test_every_way_to_a_block_is_counted_from_its_begin_to_its_end),
        SAMPLED(test_what_is_reserved_is_memory_from_when_it_may_be_used),
        EXACT(test_what_is_reserved_is_memory_from_when_it_may_be_used),
        SAMPLED(test_what_grows_piece_by_piece_is_one_block),
        SAMPLED(test_pieces_beyond_the_table_are_lost_and_said_to_be),
        SAMPLED(test_a_hole_in_a_mapping_when_the_table_is_full_keeps_its_longer_side),
        SAMPLED(test_a_forked_child_knows_what_was_reserved),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
