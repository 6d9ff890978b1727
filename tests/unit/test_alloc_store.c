#include "agent/alloc/alloc_store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 20000, SITES = 50 };

static uint32_t cell_at(uint32_t line) {
    region_frame_t f = {.kind = REGION_FRAME_PYTHON,
                        .function = store_text("f", 1),
                        .file = store_text("a.py", 4),
                        .line = line};
    return store_cell(store_stack(0, store_frame(&f)), REGION_LIBC);
}

static const region_cell_t *cell_of(uint32_t n) {
    const region_t *r = store_region();
    return (const region_cell_t *)((const char *)r + r->cells.offset) + n;
}

static int open_store(void **state) {
    int fd;
    (void)state;
    err_t e;
    if (store_open(REGION_SAMPLED, 1 << 19, &fd, &e)) return -1;
    return close(fd);
}

static int close_store(void **state) {
    (void)state;
    store_close();
    return 0;
}

static void test_the_same_site_is_the_same_cell(void **state) {
    (void)state;
    uint32_t first = cell_at(1);
    for (uint32_t line = 2; line < 20000; line++) assert_int_not_equal(cell_at(line), first);
    assert_int_equal(cell_at(1), first);
    assert_int_equal(store_region()->lost_stacks, 0);
}

/* Recursion, and one library's line reached from everywhere. */
static void test_one_frame_below_many_others_loses_no_stack(void **state) {
    (void)state;
    uint32_t parent = 0;
    for (uint32_t depth = 0; depth < 1000; depth++) {
        uint32_t stack = store_stack(parent, 7);
        assert_int_equal(store_cell(stack, REGION_LIBC), store_cell(stack, REGION_LIBC));
        parent = stack + 1;
    }
    for (uint32_t frame = 100; frame < 50000; frame++) store_stack(store_stack(0, frame) + 1, 7);
    assert_int_equal(store_region()->lost_stacks, 0);
}

static void test_a_peak_keeps_what_was_live_at_it(void **state) {
    (void)state;
    uint32_t a = cell_at(1), b = cell_at(2);
    const region_t *r = store_region();
    store_change_t ten = {.bytes = 10, .blocks = 1}, five = {.bytes = 5, .blocks = 1};
    store_born(a, &ten);
    store_born(b, &ten); /* the peak: 20 */
    assert_int_equal(r->heap_epoch & 1, 0);
    store_died(a, &ten);
    store_born(a, &five); /* 15 */
    assert_int_equal(r->heap_peak_bytes, 20);
    assert_int_equal(cell_of(a)->heap_epoch, r->heap_epoch);
    assert_int_equal(cell_of(a)->peak.bytes, 10);
    assert_int_not_equal(cell_of(b)->heap_epoch, r->heap_epoch); /* live is the peak's */
    store_born(b, &ten);                                         /* a new one: 25 */
    assert_int_equal(r->heap_peak_bytes, 25);
    assert_int_not_equal(cell_of(a)->heap_epoch, r->heap_epoch);
    assert_int_equal(cell_of(a)->live.bytes, 5);
}

static void test_blocks_are_found_until_they_are_taken(void **state) {
    (void)state;
    region_block_t b;
    for (uintptr_t i = 1; i <= 20000; i++) assert_true(store_block_put(i * 48, i, 7, &b));
    for (uintptr_t i = 1; i <= 20000; i += 2) {
        assert_true(store_block_take(i * 48, &b));
        assert_int_equal(b.bytes, i);
    }
    for (uintptr_t i = 1; i <= 20000; i++)
        assert_int_equal(store_block_take(i * 48, &b), i % 2 == 0);
}

static void *work(void *arg) {
    uintptr_t base = (uintptr_t)arg << 32;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        store_change_t c = {.bytes = 100, .blocks = 1, .variance = 1};
        uint32_t cell = cell_at(i % SITES);
        region_block_t b;
        store_born(cell, &c);
        store_block_put(base + i * 16, 100, cell, &b);
        if (i % 2 && store_block_take(base + i * 16, &b)) store_died(b.cell, &c);
    }
    return NULL;
}

static void test_many_threads_lose_nothing(void **state) {
    (void)state;
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)(i + 1));
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    int64_t live = 0, total = 0;
    for (uint32_t line = 0; line < SITES; line++) {
        live += cell_of(cell_at(line))->live.bytes;
        total += cell_of(cell_at(line))->total.bytes;
    }
    assert_int_equal(total, 100ll * THREADS * ROUNDS);
    assert_int_equal(live, total / 2);
}

static uint32_t frame_at(uint32_t line, uint32_t kind) {
    region_frame_t f = {.kind = kind, .function = store_text("f", 1), .line = line};
    return store_frame(&f);
}

/* Beyond the table the callers are lost, and never the line. */
static void test_a_stack_that_finds_no_room_keeps_its_line(void **state) {
    (void)state;
    uint32_t outer = frame_at(1, REGION_FRAME_PYTHON), other = frame_at(2, REGION_FRAME_PYTHON),
             native = frame_at(3, REGION_FRAME_NATIVE), last = 0;
    for (uint32_t stack = 0; !store_region()->lost_stacks; stack = store_stack(last + 1, outer))
        last = stack;
    assert_in_range(last, 400000, 1u << 19);
    uint64_t lost = store_region()->lost_stacks;
    uint32_t folded = store_stack(last + 1, other);
    assert_int_not_equal(folded, 0);
    assert_int_equal(folded, store_stack(0, other));
    assert_int_equal(store_stack(folded + 1, native), folded);
    assert_true(store_region()->lost_stacks > lost);
    assert_int_equal(store_stack_of(store_cell(folded, REGION_LIBC)), folded);
}

static void test_a_cell_that_finds_no_room_keeps_its_line(void **state) {
    (void)state;
    uint32_t line = frame_at(1, REGION_FRAME_PYTHON), native = frame_at(2, REGION_FRAME_NATIVE);
    uint32_t stack = store_stack(0, line), cell = 0;
    for (uint32_t domain = 100; !store_region()->lost_stacks; domain++) /* more than there are */
        cell = store_cell(store_stack(stack + 1, native), domain);
    assert_int_not_equal(cell, 0);
    assert_int_equal(store_stack_of(cell), stack);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_store, close_store)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_the_same_site_is_the_same_cell),
        TEST(test_one_frame_below_many_others_loses_no_stack),
        TEST(test_a_peak_keeps_what_was_live_at_it),
        TEST(test_blocks_are_found_until_they_are_taken),
        TEST(test_many_threads_lose_nothing),
        cmocka_unit_test_setup_teardown(test_a_stack_that_finds_no_room_keeps_its_line, open_store,
                                        close_store),
        cmocka_unit_test_setup_teardown(test_a_cell_that_finds_no_room_keeps_its_line, open_store,
                                        close_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
