#include "agent/trace/trace_blocks.h"
#include "agent/trace/trace_tracks.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { ROUNDS = 20000, PLACES = 500 };

static uintptr_t at(unsigned n) {
    return 0x7f0000000000u + 16ul * n;
}

static uint32_t *word_of(uintptr_t block) {
    uint32_t *word = blocks_word(block);
    return word ? word : blocks_make(block);
}

/* ── Blocks ── */

static void a_block_of_any_size_is_taken_as_it_was_put(void **state) {
    static const uint64_t sizes[] = {
        0,         1, 15, 16, 17, 31, 32, 512, 1 << 20, UINT32_MAX, 1ull << 32, (1ull << 32) + 1,
        5ull << 40};
    (void)state;
    assert_true(blocks_open());
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint32_t *word = word_of(at(0));
        blocks_put(word, sizes[i], BLOCKS_SITES_MAX - (uint32_t)i);
        assert_true(blocks_is_traced(*word));
        assert_int_equal(blocks_site(*word), BLOCKS_SITES_MAX - i);
        blocks_set_site(word, (uint32_t)i);
        assert_int_equal(blocks_site(*word), i);
        assert_true(blocks_bytes(word) == sizes[i]);
        assert_true(blocks_take(word) == sizes[i]);
        for (int k = 0; k < 4; k++) assert_int_equal(word[k], 0);
    }
}

static void a_watched_word_without_a_block_is_nobodys(void **state) {
    (void)state;
    assert_true(blocks_open());
    uint32_t *word = word_of(at(0));
    *word |= BLOCKS_WATCHED;
    assert_false(blocks_is_traced(*word));
    assert_int_equal(blocks_take(word), 0);
    blocks_put(word, 100, 7);
    *word |= BLOCKS_WATCHED;
    assert_int_equal(blocks_site(*word), 7);
    blocks_set_site(word, 8);
    assert_true(*word & BLOCKS_WATCHED && blocks_site(*word) == 8 && blocks_bytes(word) == 100);
    blocks_take(word);
}

static void add_up(void *arg, uint32_t site, uint64_t bytes) {
    uint64_t *sum = arg;
    sum[0]++;
    sum[1] += bytes;
    sum[2] += site;
}

/* The last of them ends at a leaf's end: its size lies behind it. */
static void each_block_is_told_once_and_none_is_after_a_clear(void **state) {
    const uintptr_t leaf = (uintptr_t)1 << BLOCKS_LEAF_BITS;
    static const uint64_t sizes[] = {16, 6ull << 32, 33, 0};
    const uintptr_t places[] = {at(1), at(2), 3 * leaf - 16, 3 * leaf};
    (void)state;
    assert_true(blocks_open());
    uint64_t sum[3] = {0};
    for (uint32_t i = 0; i < 4; i++) blocks_put(word_of(places[i]), sizes[i], i + 1);
    blocks_each(add_up, sum);
    assert_true(sum[0] == 4 && sum[1] == (6ull << 32) + 49 && sum[2] == 10);
    assert_true(blocks_own_bytes() >= 3 * 4096);
    blocks_clear();
    sum[0] = 0;
    blocks_each(add_up, sum);
    assert_int_equal(sum[0], 0);
}

static void an_address_that_no_program_has_has_no_word(void **state) {
    (void)state;
    assert_true(blocks_open());
    assert_null(blocks_word(UINTPTR_MAX & ~15ul));
    assert_null(blocks_make(UINTPTR_MAX & ~15ul));
}

static void no_memory_for_a_leaf_is_said(void **state) {
    (void)state;
    assert_true(blocks_open());
    mem_fail_at(1);
    assert_null(blocks_make((uintptr_t)1 << 40));
    assert_null(blocks_word((uintptr_t)1 << 40));
    assert_non_null(blocks_make((uintptr_t)1 << 40));
}

/* ── Tracks ── */

typedef struct model {
    bool there;
    uint64_t bytes;
} model_t;

static void count_track(void *arg, const track_t *t) {
    *(uint64_t *)arg += t->bytes;
}

static void tracks_are_what_a_plain_array_says(void **state) {
    static model_t model[PLACES][3];
    uint64_t live = 0, bytes = 0, told = 0;
    (void)state;
    srandom(1);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        unsigned place = (unsigned)random() % PLACES, domain = (unsigned)random() % 3;
        model_t *m = &model[place][domain];
        track_t taken;
        if (random() % 2) {
            assert_int_equal(tracks_take(domain, at(place), &taken), m->there);
            if (m->there) assert_true(taken.bytes == m->bytes);
            live -= m->there;
            bytes -= m->bytes;
            *m = (model_t){0};
        } else {
            track_t *t = tracks_put(domain, at(place));
            assert_int_equal(t->site != 0, m->there);
            t->site = 1;
            live += !m->there;
            bytes += i - m->bytes;
            *m = (model_t){true, t->bytes = i};
        }
        const track_t *found = tracks_get(domain, at(place));
        assert_int_equal(found != NULL, m->there);
        assert_int_equal(tracks_count(), live);
    }
    tracks_each(count_track, &told);
    assert_true(told == bytes);
    tracks_clear();
    assert_null(tracks_get(0, at(0)));
    assert_int_equal(tracks_own_bytes(), 0);
}

static void no_memory_for_tracks_leaves_them_as_they_were(void **state) {
    unsigned n = 0;
    (void)state;
    do {
        mem_fail_at(1);
        track_t *t = tracks_put(1, at(n));
        if (mem_fail_at(0) == 0) { /* it came to grow */
            assert_null(t);
            assert_int_equal(tracks_count(), n);
            t = tracks_put(1, at(n));
        }
        t->site = 1;
    } while (++n < 1000);
    for (unsigned i = 0; i < n; i++) assert_non_null(tracks_get(1, at(i)));
    tracks_clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_of_any_size_is_taken_as_it_was_put),
        cmocka_unit_test(a_watched_word_without_a_block_is_nobodys),
        cmocka_unit_test(each_block_is_told_once_and_none_is_after_a_clear),
        cmocka_unit_test(an_address_that_no_program_has_has_no_word),
        cmocka_unit_test(no_memory_for_a_leaf_is_said),
        cmocka_unit_test(tracks_are_what_a_plain_array_says),
        cmocka_unit_test(no_memory_for_tracks_leaves_them_as_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
