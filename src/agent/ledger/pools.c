#define _GNU_SOURCE
#include "agent/ledger/pools.h"

#include "agent/free/pool_trim.h"
#include "agent/ledger/pins.h"
#include "agent/ledger/resident.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>

enum { THREADS_MAX = 100000, CHUNKS_MAX = 10000 };

typedef struct work {
    pins_t pins;
    res_t resident;
    bool huge; /* arenas are huge pages, which go whole or not at all */
} work_t;

static int add_arena(pools_t *p, const pym_t *books, uint32_t index, work_t *w) {
    pym_map_t map;
    const char *why;
    if (!pym_map(books, index, &map, &why)) return 0;
    uint64_t live = 0, used = 0;
    uintptr_t begin = books->arenas[index].address, end = begin + books->arena_bytes;
    for (uint32_t i = 0; i < map.carved; i++) {
        const pym_pool_t *pool = pym_pool_at(&map, i);
        if (map.is_free[i]) {
            p->empty_pools++;
            continue;
        }
        live += (uint64_t)pool->count * pym_block_bytes(pool);
        used += res_bytes(&w->resident, (uintptr_t)pool, (uintptr_t)pool + PYM_POOL_BYTES);
    }
    uint64_t resident = res_bytes(&w->resident, begin, end);
    pool_trim_t trim = {0};
    if (!w->huge) pool_trim_predict(books, &w->resident, index, &trim);
    p->live_bytes += live;
    p->used_pool_bytes += used;
    p->empty_pool_bytes += resident - used;
    p->block_returnable_bytes += trim.block_bytes;
    p->pool_returnable_bytes += trim.pool_bytes;
    p->pool_count += map.carved;
    p->arena_count++;
    pools_arena_t one = {.address = begin,
                         .bytes = books->arena_bytes,
                         .resident_bytes = resident,
                         .live_bytes = live,
                         .returnable_bytes = trim.block_bytes + trim.pool_bytes};
    if (live * 4 < books->arena_bytes) {
        p->pinned++;
        pins_add(&w->pins, &map, resident, one.returnable_bytes);
    }
    return pools_arenas_push(&p->books, one);
}

static int by_begin(const void *a, const void *b) {
    const pools_range_t *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* Heap sort: qsort may call malloc. */
static void sort_ranges(pools_ranges_t *v) {
    size_t n = v->count;
    for (size_t start = n / 2, end = n; end > 1;) {
        pools_range_t moved;
        if (start) {
            moved = v->at[--start];
        } else {
            moved = v->at[--end];
            v->at[end] = v->at[0];
        }
        size_t root = start;
        for (size_t child; (child = 2 * root + 1) < end; root = child) {
            if (child + 1 < end && by_begin(&v->at[child], &v->at[child + 1]) < 0) child++;
            if (by_begin(&moved, &v->at[child]) >= 0) break;
            v->at[root] = v->at[child];
        }
        v->at[root] = moved;
    }
}

/* The chunks in which each thread's Python frames lie. */
static int add_frames(pools_t *p, const rt_t *rt) {
    const layout_t *l = rt->layout;
    int threads = 0, chunks = 0;
    if (!rt_has(l->thread_datastack_chunk) || !rt_has(l->stack_chunk_size)) return 0;
    for (rt_addr_t i = rt_interp_first(rt); i; i = rt_interp_next(rt, i)) {
        rt_addr_t t = rt_ptr(i, l->interp_threads_head);
        for (; t && threads++ < THREADS_MAX; t = rt_ptr(t, l->thread_next)) {
            rt_addr_t c = rt_ptr(t, l->thread_datastack_chunk);
            for (; c && chunks++ < CHUNKS_MAX; c = rt_ptr(c, l->stack_chunk_previous)) {
                size_t size = (size_t)rt_i64(c, l->stack_chunk_size);
                if (pools_ranges_push(&p->frames, (pools_range_t){c, c + size})) return -ENOMEM;
            }
        }
    }
    return 0;
}

int pools_read(pools_t *p, rt_t *rt, err_t *e) {
    memset(p, 0, sizeof *p);
    pym_t books;
    err_t why;
    work_t *w = mem_map(sizeof *w);
    if (!w) return err_set(e, -ENOMEM, "out of memory");
    w->pins.rt = rt;
    w->huge = rt_arenas_huge(rt);
    res_open(&w->resident);
    int status = add_frames(p, rt);
    bool found = pym_find(&books, rt, &why) == 0;
    if (!found) snprintf(p->why, sizeof p->why, "%.200s", why.text);
    for (uint32_t i = 0; found && !status && i < books.max; i++) {
        uintptr_t at = books.arenas[i].address;
        if (!at) continue;
        status = pools_ranges_push(&p->arenas, (pools_range_t){at, at + books.arena_bytes});
        if (!status) status = add_arena(p, &books, i, w);
    }
    p->pin_count = pins_lines(&w->pins, p->pins);
    sort_ranges(&p->arenas);
    sort_ranges(&p->frames);
    res_close(&w->resident);
    mem_unmap(w, sizeof *w);
    if (status) pools_free(p);
    return status ? err_set(e, status, "out of memory") : 0;
}

void pools_free(pools_t *p) {
    pools_ranges_free(&p->arenas);
    pools_ranges_free(&p->frames);
    pools_arenas_free(&p->books);
}
