#define _GNU_SOURCE
#include "agent/ledger/pymalloc.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

enum {
    NEAR_BYTES = 4096, /* the statics of one source file lie together */
    ARENAS_FIRST = 16, /* slots; doubled as needed */
    ARENAS_MAX = 1 << 24,
    OBMALLOC_POINTER = sizeof(void *)
};
#define ARENA_BYTES_311 ((size_t)1 << 20)

static int differs(err_t *e, const char *what) {
    return err_set(e, -EBADMSG, "pymalloc's books are not as this version's layout says (%s)",
                   what);
}

/* What the tables measured must be what this file was compiled for. */
static int check_layout(const layout_t *l, err_t *e) {
    if (!rt_has(l->arena_size)) return 0; /* 3.11: no header tells; proven by the walk alone */
#define SAME(field, value)                                                                         \
    if (l->field != (int32_t)(value)) return differs(e, #field)
    SAME(obmalloc_pool_bytes, PYM_POOL_BYTES);
    SAME(obmalloc_alignment, PYM_ALIGNMENT);
    SAME(obmalloc_dummy_class, PYM_DUMMY_CLASS);
    SAME(arena_size, sizeof(pym_arena_t));
    SAME(arena_address, offsetof(pym_arena_t, address));
    SAME(arena_pool_address, offsetof(pym_arena_t, pool_address));
    SAME(arena_nfreepools, offsetof(pym_arena_t, nfreepools));
    SAME(arena_ntotalpools, offsetof(pym_arena_t, ntotalpools));
    SAME(arena_freepools, offsetof(pym_arena_t, freepools));
    SAME(arena_next, offsetof(pym_arena_t, next));
    SAME(pool_size, sizeof(pym_pool_t));
    SAME(pool_count, offsetof(pym_pool_t, count));
    SAME(pool_freeblock, offsetof(pym_pool_t, freeblock));
    SAME(pool_next, offsetof(pym_pool_t, next));
    SAME(pool_arenaindex, offsetof(pym_pool_t, arenaindex));
    SAME(pool_szidx, offsetof(pym_pool_t, szidx));
    SAME(pool_nextoffset, offsetof(pym_pool_t, nextoffset));
    SAME(pool_maxnextoffset, offsetof(pym_pool_t, maxnextoffset));
#undef SAME
    return 0;
}

static bool pools_agree(const pym_t *p, uint32_t arena, const pym_map_t *map, const char **why) {
    for (uint32_t i = 0; i < map->carved; i++) {
        const pym_pool_t *pool = pym_pool_at(map, i);
        bool fresh = map->is_free[i] && pool->szidx == PYM_DUMMY_CLASS;
        if (pool->arenaindex != arena)
            *why = "a pool names another arena";
        else if (map->is_free[i] != (pool->count == 0))
            *why = "a pool is neither free nor in use";
        else if (!fresh && pool->szidx >= PYM_CLASSES)
            *why = "a pool is of no size class";
        else if (!fresh && pool->maxnextoffset != PYM_POOL_BYTES - pym_block_bytes(pool))
            *why = "a pool ends where it should not";
        else if (!fresh && pool->count > (PYM_POOL_BYTES - PYM_OVERHEAD) / pym_block_bytes(pool))
            *why = "a pool has more blocks than fit";
        else
            continue;
        return false;
    }
    (void)p;
    return true;
}

bool pym_map(const pym_t *p, uint32_t arena, pym_map_t *map, const char **why) {
    const pym_arena_t *a = &p->arenas[arena];
    uintptr_t first = (a->address + PYM_POOL_BYTES - 1) & ~(uintptr_t)(PYM_POOL_BYTES - 1);
    uintptr_t end = (uintptr_t)a->pool_address;
    uint32_t total = (uint32_t)((a->address + p->arena_bytes - first) / PYM_POOL_BYTES);
    memset(map, 0, sizeof *map);
    map->first = (pym_pool_t *)first;
    *why = "an arena's bounds";
    if (total > PYM_POOLS_MAX || total != a->ntotalpools || a->nfreepools > total) return false;
    if (end < first || end > first + (uintptr_t)total * PYM_POOL_BYTES || end % PYM_POOL_BYTES)
        return false;
    map->carved = (uint32_t)((end - first) / PYM_POOL_BYTES);
    *why = "an arena's list of free pools";
    for (pym_pool_t *f = a->freepools; f; f = f->next) {
        uintptr_t at = (uintptr_t)f;
        if (at < first || at >= end || at % PYM_POOL_BYTES) return false;
        size_t i = (at - first) / PYM_POOL_BYTES;
        if (map->is_free[i]) return false;
        map->is_free[i] = true;
        map->free_count++;
    }
    *why = "an arena's count of free pools";
    if (map->free_count + total - map->carved != a->nfreepools) return false;
    return pools_agree(p, arena, map, why);
}

bool pym_blocks(const pym_pool_t *pool, bool is_free[PYM_BLOCKS_MAX], uint32_t *laid_out,
                uint32_t *free_count) {
    uint32_t size = pym_block_bytes(pool), listed = 0;
    if (pool->nextoffset < PYM_OVERHEAD + size || pool->nextoffset > PYM_POOL_BYTES) return false;
    if ((pool->nextoffset - PYM_OVERHEAD) % size) return false;
    *laid_out = (pool->nextoffset - PYM_OVERHEAD) / size;
    memset(is_free, 0, *laid_out * sizeof *is_free);
    for (const uint8_t *b = pool->freeblock; b;) {
        size_t offset = (size_t)(b - (const uint8_t *)pool) - PYM_OVERHEAD, i = offset / size;
        if (offset % size || i >= *laid_out || is_free[i]) return false;
        is_free[i] = true;
        listed++;
        uintptr_t next;
        memcpy(&next, b, sizeof next);
        b = (const uint8_t *)next;
    }
    *free_count = listed;
    return listed + pool->count == *laid_out;
}

/* The slots alone, by rt_peek: the first look at what may be no arenas at all. Those not in use are one list, so at most one of
 * them has no next. */
static bool slots_plausible(const pym_arena_t *arenas, uint32_t max, size_t arena_bytes,
                            uint32_t *allocated) {
    pym_arena_t a;
    uint32_t ends = 0;
    *allocated = 0;
    for (uint32_t i = 0; i < max; i++) {
        if (rt_peek((rt_addr_t)(arenas + i), &a, sizeof a)) return false;
        if (!a.address) {
            size_t offset = (uintptr_t)a.next - (uintptr_t)arenas;
            if (a.next ? offset >= max * sizeof a || offset % sizeof a : ++ends > 1) return false;
            continue;
        }
        ++*allocated;
        uintptr_t at = (uintptr_t)a.pool_address;
        if (a.address % 4096 || at < a.address || at > a.address + arena_bytes ||
            a.nfreepools > a.ntotalpools || a.ntotalpools > arena_bytes / PYM_POOL_BYTES)
            return false;
    }
    return true;
}

/* The pool of an object that each Python has: sys.modules, made by its object allocator. */
static bool anchor(const rt_t *rt, rt_addr_t *pool, pym_pool_t *header) {
    rt_addr_t main = (rt_addr_t)rt->PyInterpreterState_Main();
    *pool = rt_ptr(main, rt->layout->interp_modules) & ~(rt_addr_t)(PYM_POOL_BYTES - 1);
    return rt_peek(*pool, header, sizeof *header) == 0 && header->szidx < PYM_CLASSES &&
           header->arenaindex < ARENAS_MAX;
}

static bool holds(const pym_arena_t *arenas, uint32_t index, rt_addr_t pool, size_t arena_bytes) {
    pym_arena_t a;
    return rt_peek((rt_addr_t)(arenas + index), &a, sizeof a) == 0 && a.address &&
           pool - a.address < arena_bytes;
}

static bool word_nearby(uintptr_t at, uintptr_t begin, uintptr_t end, uint64_t value,
                        size_t bytes) {
    uintptr_t from = at - begin > NEAR_BYTES ? at - NEAR_BYTES : begin;
    uintptr_t to = end - at > NEAR_BYTES ? at + NEAR_BYTES : end;
    for (uintptr_t w = from; w + bytes <= to; w += bytes) {
        uint64_t v = 0;
        memcpy(&v, (void *)w, bytes);
        if (v == value) return true;
    }
    return false;
}

/* The count of slots is a power of two from 16 on and stands nearby, as does the count of arenas in them. The largest that fits:
 * a smaller one may too, where its slots are all in use. */
static bool measure_slots(pym_t *p, uint32_t index, uintptr_t at, const rt_range_t *statics) {
    p->max = 0;
    for (uint32_t max = ARENAS_FIRST; max <= ARENAS_MAX; max *= 2) {
        uint32_t allocated;
        if (max <= index || !word_nearby(at, statics->begin, statics->end, max, 4)) continue;
        if (!slots_plausible(p->arenas, max, p->arena_bytes, &allocated)) continue;
        if (!word_nearby(at, statics->begin, statics->end, allocated, 8)) continue;
        p->max = max;
        p->allocated = allocated;
    }
    return p->max != 0;
}

static int find_statics(pym_t *p, rt_t *rt, err_t *e) {
    static uintptr_t found; /* where the pointer to the arenas stands: the same for good */
    rt_addr_t pool;
    pym_pool_t header;
    p->arena_bytes = ARENA_BYTES_311;
    if (!anchor(rt, &pool, &header)) goto none;
    int status = rt->range_count ? 0 : rt_refresh(rt, e);
    if (status) return status;
    for (uint32_t i = 0; i < rt->range_count; i++) {
        const rt_range_t *r = &rt->ranges[i];
        if (r->kind != RT_RANGE_DATA || rt->runtime - r->begin >= r->end - r->begin) continue;
        uintptr_t from = found ? found : (r->begin + 7) & ~(uintptr_t)7;
        uintptr_t to = found ? found + 8 : r->end & ~(uintptr_t)7;
        /* From the end, where the data is that began as zeros, this pointer among it: each guess costs a system call. */
        for (uintptr_t at = to - 8; at >= from; at -= 8) {
            memcpy(&p->arenas, (void *)at, sizeof p->arenas);
            uintptr_t v = (uintptr_t)p->arenas;
            if (v % 16 || v < 65536 || v - r->begin < r->end - r->begin) continue;
            if (!holds(p->arenas, header.arenaindex, pool, p->arena_bytes)) continue;
            if (!measure_slots(p, header.arenaindex, at, r)) continue;
            found = at;
            return 0;
        }
    }
none:
    return err_set(e, -ENODATA, "this Python's objects are in no pools of pymalloc");
}

/* Since 3.12: on the interpreter; embedded until 3.12.1, behind a pointer after it. */
static bool books_at(const layout_t *l, rt_addr_t interp, bool embedded, rt_addr_t *books) {
    rt_addr_t at = interp + (rt_addr_t)l->interp_obmalloc;
    *books = at;
    return embedded || (rt_peek(at, books, sizeof *books) == 0 && *books && *books % 8 == 0);
}

static bool read_books(pym_t *p, const layout_t *l, rt_addr_t books) {
    uint64_t counted;
    uint32_t allocated;
    p->arena_bytes = (size_t)l->obmalloc_arena_bytes;
    if (rt_peek(books + (rt_addr_t)l->obmalloc_arenas, &p->arenas, sizeof p->arenas) ||
        rt_peek(books + (rt_addr_t)l->obmalloc_maxarenas, &p->max, sizeof p->max) ||
        rt_peek(books + (rt_addr_t)l->obmalloc_allocated, &counted, sizeof counted))
        return false;
    if (!p->arenas) return !p->max && !counted;
    if (p->max < ARENAS_FIRST || p->max > ARENAS_MAX || p->max % ARENAS_FIRST || counted > p->max)
        return false;
    if (!slots_plausible(p->arenas, p->max, p->arena_bytes, &allocated)) return false;
    p->allocated = allocated;
    return allocated == counted;
}

static int find_books(pym_t *p, const rt_t *rt, err_t *e) {
    const layout_t *l = rt->layout;
    rt_addr_t main = (rt_addr_t)rt->PyInterpreterState_Main(), mine, books, pool;
    pym_pool_t header;
    bool embedded = l->interp_obmalloc_bytes > OBMALLOC_POINTER;
    if (!books_at(l, main, embedded, &mine) || !read_books(p, l, mine)) {
        embedded = !embedded;
        if (!books_at(l, main, embedded, &mine) || !read_books(p, l, mine))
            return differs(e, "where they are");
    }
    if (!p->allocated)
        return err_set(e, -ENODATA, "this Python's objects are in no pools of pymalloc");
    if (!anchor(rt, &pool, &header) || header.arenaindex >= p->max ||
        !holds(p->arenas, header.arenaindex, pool, p->arena_bytes))
        return differs(e, "a known object is in none of its arenas");
    for (rt_addr_t i = rt_interp_first(rt); i; i = rt_interp_next(rt, i)) {
        if (i == main) continue;
        pym_t other;
        if (books_at(l, i, embedded, &books) && books != mine && read_books(&other, l, books) &&
            other.allocated)
            p->own_books++;
    }
    return 0;
}

int pym_find(pym_t *p, rt_t *rt, err_t *e) {
    memset(p, 0, sizeof *p);
    int status = check_layout(rt->layout, e);
    if (status) return status;
    status = rt_has(rt->layout->interp_obmalloc) ? find_books(p, rt, e) : find_statics(p, rt, e);
    for (uint32_t i = 0; !status && i < p->max; i++) {
        pym_map_t map;
        const char *why;
        if (p->arenas[i].address && !pym_map(p, i, &map, &why)) status = differs(e, why);
    }
    return status;
}
