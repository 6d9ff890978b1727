#define _GNU_SOURCE
#include "agent/free/pool_trim.h"
#include "agent/ledger/heaps.h"
#include "agent/ledger/maps.h"
#include "agent/ledger/stacks.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

enum { ARENA_BYTES = 1 << 20, POOLS = 63, LIVE_MAX = 20000, ROUNDS = 400 };

/* ---- smaps ---- */

static int parse(maps_t *m, const char *text) {
    err_t e;
    *m = (maps_t){.text_bytes = strlen(text) + 1};
    m->text = mem_map(m->text_bytes);
    assert_non_null(m->text);
    memcpy(m->text, text, strlen(text));
    return maps_parse(m, strlen(text), &e);
}

static void mappings_are_read_with_their_names_and_figures(void **state) {
    (void)state;
    maps_t m;
    assert_int_equal(parse(&m, "1000-3000 r-xp 00000000 fd:01 77     /usr/lib/a b.so (deleted)\n"
                               "Size:                  8 kB\nRss:                   4 kB\n"
                               "Swap:                  8 kB\nSwapPss:               1 kB\n"
                               "VmFlags: rd ex\n"
                               "7ff000-7ff800000 rw-s 00000000 00:00 0 \n"
                               "Rss: 2048 kB\nAnonHugePages:      2048 kB\n"),
                     0);
    assert_int_equal(m.entries.count, 2);
    const map_entry_t *v = m.entries.at;
    assert_string_equal(v[0].name, "/usr/lib/a b.so (deleted)");
    assert_int_equal(v[0].begin, 0x1000);
    assert_int_equal(v[0].end, 0x3000);
    assert_int_equal(v[0].inode, 77);
    assert_true(v[0].readable && v[0].executable && !v[0].writable && !v[0].shared);
    assert_int_equal(v[0].rss_bytes, 4096);
    assert_string_equal(v[1].name, "");
    assert_true(v[1].shared && v[1].writable);
    assert_int_equal(m.rss_bytes, 4096 + (2 << 20));
    assert_int_equal(m.swap_bytes, 8192);
    assert_int_equal(m.huge_bytes, 2 << 20);
    maps_free(&m);
}

static void what_is_cut_or_no_smaps_is_read_as_far_as_it_goes(void **state) {
    (void)state;
    static const char *const CASES[] = {"",
                                        "\n\n\n",
                                        "1000",
                                        "1000-",
                                        "1000-2000",
                                        "Rss:",
                                        "Rss: 4",
                                        "-",
                                        "1-2 rw",
                                        "1-2 rwxp",
                                        "1-2 rwxp 0 0 12345678901234567890123 ",
                                        "\xff\xff-\xff"};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        maps_t m;
        assert_int_equal(parse(&m, CASES[i]), 0);
        assert_int_equal(m.rss_bytes, 0);
        maps_free(&m);
    }
}

/* ---- A heap of glibc's ---- */

static uintptr_t put_chunk(uintptr_t at, size_t size, bool before_in_use) {
    size_t word = size | (before_in_use ? 1 : 0);
    memcpy((void *)(at + 8), &word, sizeof word);
    return at + size;
}

/* 40 pages in use, 30 free, 40 in use, the top. */
static uintptr_t make_heap(size_t bytes) {
    uintptr_t at = (uintptr_t)mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    uintptr_t p = at;
    for (int i = 0; i < 40; i++) p = put_chunk(p, RES_PAGE, true);
    p = put_chunk(p, 30 * (size_t)RES_PAGE, true);
    for (int i = 0; i < 40; i++) p = put_chunk(p, RES_PAGE, i > 0);
    put_chunk(p, at + bytes - p, true);
    return at;
}

static void a_heaps_free_chunks_and_top_are_told(void **state) {
    (void)state;
    size_t bytes = 128 * (size_t)RES_PAGE;
    uintptr_t at = make_heap(bytes);
    map_entry_t v = {.begin = at, .end = at + bytes, .writable = true, .name = "[heap]"};
    heap_sum_t sum = {0};
    res_t r;
    res_open(&r);
    heaps_walk(&v, true, &r, &sum);
    assert_false(sum.broken);
    assert_int_equal(sum.free_chunks, 2);
    assert_int_equal(sum.top_bytes, 18 * RES_PAGE);
    assert_int_equal(sum.free_bytes, (30 + 18) * RES_PAGE);
    assert_true(sum.returnable_bytes <= sum.free_bytes);

    size_t nonsense = 24; /* no size of a chunk */
    memcpy((void *)(at + 20 * RES_PAGE + 8), &nonsense, sizeof nonsense);
    sum = (heap_sum_t){0};
    heaps_walk(&v, true, &r, &sum);
    assert_true(sum.broken);
    assert_int_equal(sum.free_bytes, 0);
    heap_bounds_t bounds;
    assert_false(heaps_is_arena(&v));
    assert_false(heaps_bounds(at, &bounds));
    res_close(&r);
    munmap((void *)at, bytes);
}

static void a_block_mapped_for_itself_ends_where_its_size_says(void **state) {
    (void)state;
    size_t bytes = 64 * (size_t)RES_PAGE;
    uintptr_t at =
        (uintptr_t)mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t first = 40 * RES_PAGE | 2, newer = (20 * RES_PAGE - 16) | 2;
    memcpy((void *)(at + 8), &first, sizeof first);
    memcpy((void *)(at + 40 * RES_PAGE + 8), &newer, sizeof newer);
    uintptr_t second = heaps_mapped_block(at, at + bytes);
    assert_int_equal(second, at + 40 * RES_PAGE);
    assert_int_equal(heaps_mapped_block(second, at + bytes), at + 60 * RES_PAGE);
    assert_int_equal(heaps_mapped_block(second, second + 10 * RES_PAGE), second);
    assert_int_equal(heaps_mapped_block(at + RES_PAGE, at + bytes), at + RES_PAGE);
    munmap((void *)at, bytes);
}

/* ---- One arena, and pymalloc's own way with it ---- */

typedef struct live {
    uint8_t *at;
    uint32_t class;
    uint8_t byte;
} live_t;

typedef struct world {
    uint8_t *mapping;
    pym_arena_t slot;
    pym_t books;
    pym_pool_t *used[PYM_CLASSES]; /* those with a free block */
    live_t live[LIVE_MAX];
    uint32_t count;
} world_t;

static void world_open(world_t *w) {
    memset(w, 0, sizeof *w);
    w->mapping =
        mmap(NULL, 2 * ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(w->mapping, MAP_FAILED);
    uintptr_t address = ((uintptr_t)w->mapping + PYM_POOL_BYTES) / PYM_POOL_BYTES * PYM_POOL_BYTES;
    address += 4096; /* as mmap gives it: the first and the last pool are no whole ones */
    uintptr_t first = (address + PYM_POOL_BYTES - 1) / PYM_POOL_BYTES * PYM_POOL_BYTES;
    w->slot = (pym_arena_t){.address = address,
                            .pool_address = (uint8_t *)first,
                            .nfreepools = POOLS,
                            .ntotalpools = POOLS};
    w->books = (pym_t){.arenas = &w->slot, .max = 1, .allocated = 1, .arena_bytes = ARENA_BYTES};
}

static pym_pool_t *new_pool(world_t *w, uint32_t class) {
    pym_arena_t *a = &w->slot;
    pym_pool_t *pool = a->freepools;
    if (!a->nfreepools) return NULL;
    a->nfreepools--;
    if (pool) {
        a->freepools = pool->next;
    } else {
        pool = (pym_pool_t *)a->pool_address;
        pool->arenaindex = 0;
        pool->szidx = PYM_DUMMY_CLASS;
        a->pool_address += PYM_POOL_BYTES;
    }
    pool->next = w->used[class];
    pool->prev = NULL;
    if (pool->next) pool->next->prev = pool;
    w->used[class] = pool;
    if (pool->szidx == class) return pool;
    uint32_t size = (class + 1) * PYM_ALIGNMENT;
    pool->szidx = class;
    pool->count = 0;
    pool->freeblock = (uint8_t *)pool + PYM_OVERHEAD;
    memset(pool->freeblock, 0, sizeof(void *));
    pool->nextoffset = PYM_OVERHEAD + size;
    pool->maxnextoffset = PYM_POOL_BYTES - size;
    return pool;
}

static void unlink_pool(world_t *w, pym_pool_t *pool) {
    if (pool->next) pool->next->prev = pool->prev;
    if (pool->prev)
        pool->prev->next = pool->next;
    else
        w->used[pool->szidx] = pool->next;
}

static void *allocate(world_t *w, uint32_t class) {
    pym_pool_t *pool = w->used[class];
    if (!pool) pool = new_pool(w, class);
    if (!pool) return NULL;
    uint8_t *block = pool->freeblock;
    assert_non_null(block); /* pymalloc takes it without looking */
    pool->count++;
    memcpy(&pool->freeblock, block, sizeof pool->freeblock);
    if (pool->freeblock) return block;
    if (pool->nextoffset <= pool->maxnextoffset) {
        pool->freeblock = (uint8_t *)pool + pool->nextoffset;
        pool->nextoffset += pym_block_bytes(pool);
        memset(pool->freeblock, 0, sizeof(void *));
    } else {
        unlink_pool(w, pool);
    }
    return block;
}

static void release(world_t *w, uint8_t *block) {
    pym_pool_t *pool = (pym_pool_t *)((uintptr_t)block / PYM_POOL_BYTES * PYM_POOL_BYTES);
    uint8_t *before = pool->freeblock;
    memcpy(block, &before, sizeof before);
    pool->freeblock = block;
    pool->count--;
    if (!before) {
        pool->prev = NULL;
        pool->next = w->used[pool->szidx];
        if (pool->next) pool->next->prev = pool;
        w->used[pool->szidx] = pool;
    }
    if (pool->count) return;
    unlink_pool(w, pool);
    pool->next = w->slot.freepools;
    w->slot.freepools = pool;
    w->slot.nfreepools++;
}

static void check(const live_t *l) {
    for (uint32_t i = 0; i < (l->class + 1) * PYM_ALIGNMENT; i++)
        assert_int_equal(l->at[i], l->byte);
}

static void churn(world_t *w, unsigned *seed) {
    static const uint32_t CLASSES[] = {0, 2, 3, 9, 31};
    bool growing = rand_r(seed) % 2;
    for (int i = 0; i < 1500; i++) {
        if (w->count < LIVE_MAX && (uint32_t)rand_r(seed) % 10 < (growing ? 7u : 2u)) {
            live_t l = {.class = CLASSES[rand_r(seed) % 5], .byte = (uint8_t)rand_r(seed)};
            l.at = allocate(w, l.class);
            if (!l.at) continue;
            memset(l.at, l.byte, (l.class + 1) * PYM_ALIGNMENT);
            w->live[w->count++] = l;
        } else if (w->count) {
            uint32_t k = (uint32_t)rand_r(seed) % w->count;
            check(&w->live[k]);
            release(w, w->live[k].at);
            w->live[k] = w->live[--w->count];
        }
    }
}

static void whatever_is_trimmed_pymalloc_goes_on_and_every_block_keeps_its_bytes(void **state) {
    (void)state;
    static world_t w;
    unsigned seed = 4711;
    uint64_t most = 0;
    res_t r;
    world_open(&w);
    for (int round = 0; round < ROUNDS; round++) {
        pym_map_t map;
        const char *why;
        pool_trim_t would = {0}, did;
        churn(&w, &seed);
        res_open(&r);
        uint64_t before = res_bytes(&r, w.slot.address, w.slot.address + ARENA_BYTES);
        pool_trim_predict(&w.books, &r, 0, &would);
        pool_trim(&w.books, &r, true, 0, &did);
        res_close(&r);
        res_open(&r);
        uint64_t after = res_bytes(&r, w.slot.address, w.slot.address + ARENA_BYTES);
        res_close(&r);
        assert_false(did.stopped);
        assert_int_equal(before - after, would.pool_bytes + would.block_bytes);
        if (before - after > most) most = before - after;
        assert_true(pym_map(&w.books, 0, &map, &why));
        for (uint32_t i = 0; i < w.count; i++) check(&w.live[i]);
    }
    assert_true(most > 100 * 1024);
    munmap(w.mapping, 2 * ARENA_BYTES);
}

static void books_that_do_not_agree_are_refused_before_anything_is_touched(void **state) {
    (void)state;
    static world_t w;
    unsigned seed = 1;
    pym_map_t map;
    const char *why;
    pool_trim_t out;
    res_t r = {.fd = -1};
    world_open(&w);
    churn(&w, &seed);
    assert_true(pym_map(&w.books, 0, &map, &why));
    pym_pool_t *pool = map.first;
    const pym_pool_t good = *pool;
    const pym_arena_t slot = w.slot;
    struct {
        pym_pool_t pool;
        pym_arena_t slot;
    } bad[] = {{good, slot}, {good, slot}, {good, slot}, {good, slot}, {good, slot}, {good, slot}};
    bad[0].pool.arenaindex = 7;
    bad[1].pool.szidx = PYM_CLASSES;
    bad[2].pool.maxnextoffset = 1;
    bad[3].pool.count = 5000;
    bad[4].slot.nfreepools++;
    bad[5].slot.pool_address += 16;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        *pool = bad[i].pool;
        w.slot = bad[i].slot;
        assert_false(pym_map(&w.books, 0, &map, &why));
        pool_trim(&w.books, &r, true, 0, &out);
        assert_true(out.stopped);
        assert_memory_equal(pool, &bad[i].pool, sizeof *pool);
        assert_memory_equal(&w.slot, &bad[i].slot, sizeof slot);
    }
    *pool = good;
    w.slot = slot;
    for (uint32_t i = 0; i < w.count; i++) check(&w.live[i]);
    munmap(w.mapping, 2 * ARENA_BYTES);
}

static void a_stacks_pointer_is_read_where_the_kernel_tells_it(void **state) {
    (void)state;
    assert_int_equal(stacks_parse("202 0x7f01 0x189 0x0 0x0 0x0 0x0 0x7ffd10 0x7f8120\n"),
                     0x7ffd10);
    assert_int_equal(stacks_parse("-1 0x7ffd20 0x7f8120\n"), 0x7ffd20);
    const char *const none[] = {"running\n", "", " ", "nonsense here"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(stacks_parse(none[i]), 0);
    stack_points_t points = {0};
    assert_int_equal(stack_points_push(&points, 0x5000), 0);
    assert_int_equal(stacks_point(&points, 0x4000, 0x6000), 0x5000);
    assert_int_equal(stacks_point(&points, 0x6000, 0x8000), 0x6000);
    stack_points_free(&points);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mappings_are_read_with_their_names_and_figures),
        cmocka_unit_test(what_is_cut_or_no_smaps_is_read_as_far_as_it_goes),
        cmocka_unit_test(a_heaps_free_chunks_and_top_are_told),
        cmocka_unit_test(a_block_mapped_for_itself_ends_where_its_size_says),
        cmocka_unit_test(a_stacks_pointer_is_read_where_the_kernel_tells_it),
        cmocka_unit_test(whatever_is_trimmed_pymalloc_goes_on_and_every_block_keeps_its_bytes),
        cmocka_unit_test(books_that_do_not_agree_are_refused_before_anything_is_touched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
