#define _GNU_SOURCE
#include "agent/free/pool_trim.h"

#include "base/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RANGES_MAX = 256, THIS_PROCESS = -10000 /* PIDFD_SELF, Linux 6.14 */ };

typedef struct trim {
    const pym_t *p;
    res_t *r;
    bool apply;
    pool_trim_t *out;
    struct iovec ranges[RANGES_MAX]; /* laid out anew already, to go with the next call */
    size_t count;
} trim_t;

static bool drop_one(const struct iovec *v) {
    return madvise(v->iov_base, v->iov_len, MADV_DONTNEED) == 0;
}

/* All in one call where the kernel takes such advice about the caller itself: one flush of the processors' address caches instead
 * of one a pool. False where the system will not: pages that stay are as they were, which does no harm to what was laid out. */
static bool flush(trim_t *t) {
    bool good = true;
    size_t i = 0;
    if (t->count > 1) {
        ssize_t done =
            syscall(SYS_process_madvise, THIS_PROCESS, t->ranges, t->count, MADV_DONTNEED, 0);
        while (done > 0 && i < t->count && (size_t)done >= t->ranges[i].iov_len)
            done -= (ssize_t)t->ranges[i++].iov_len;
    }
    for (; i < t->count; i++) good &= drop_one(&t->ranges[i]);
    t->count = 0;
    return good;
}

/* Whole pages of [begin, end). */
static bool drop(trim_t *t, uintptr_t begin, uintptr_t end, uint64_t *sum) {
    begin = (begin + RES_PAGE - 1) / RES_PAGE * RES_PAGE;
    end = end / RES_PAGE * RES_PAGE;
    if (begin >= end) return true;
    if (!t->apply) {
        *sum += res_bytes(t->r, begin, end);
        return true;
    }
    t->ranges[t->count++] = (struct iovec){(void *)begin, end - begin};
    return t->count < RANGES_MAX || flush(t);
}

/* The pools behind the last one in use. */
static bool uncarve(trim_t *t, pym_arena_t *a, const pym_map_t *map, uint32_t *kept) {
    *kept = map->carved;
    while (*kept > 1 && map->is_free[*kept - 1]) --*kept;
    if (*kept == map->carved) return true;
    uint8_t *end = a->pool_address;
    if (t->apply) {
        pym_pool_t **link = &a->freepools;
        a->pool_address = (uint8_t *)pym_pool_at(map, *kept);
        while (*link) {
            if ((uint8_t *)*link >= a->pool_address)
                *link = (*link)->next;
            else
                link = &(*link)->next;
        }
    }
    return drop(t, (uintptr_t)pym_pool_at(map, *kept), (uintptr_t)end, &t->out->pool_bytes);
}

/* Behind the last block in use everything is made virgin again. A used pool that is on pymalloc's list of used ones has a first
 * free block: where none lies before the end, one stays linked. */
static bool lay_out_again(trim_t *t, pym_pool_t *pool) {
    bool is_free[PYM_BLOCKS_MAX];
    uint32_t laid_out, listed, size = pym_block_bytes(pool);
    if (!pym_blocks(pool, is_free, &laid_out, &listed) || !listed) return true;
    uint32_t last = laid_out;
    while (last > 0 && is_free[last - 1]) last--;
    if (laid_out - last == listed) last++;
    uintptr_t begin = (uintptr_t)pool + PYM_OVERHEAD + (size_t)last * size;
    uintptr_t end = (uintptr_t)pool + PYM_POOL_BYTES;
    if (end - begin < RES_PAGE) return true;
    if (t->apply && last < laid_out) {
        uint8_t *next = NULL;
        for (uint32_t i = last; i-- > 0;) {
            if (!is_free[i]) continue;
            uint8_t *block = (uint8_t *)pool + PYM_OVERHEAD + (size_t)i * size;
            memcpy(block, &next, sizeof next);
            next = block;
        }
        pool->freeblock = next;
        pool->nextoffset = PYM_OVERHEAD + last * size;
    }
    return drop(t, begin, end, &t->out->block_bytes);
}

static bool trim_arena(trim_t *t, uint32_t index) {
    pym_arena_t *a = &t->p->arenas[index];
    pym_map_t map;
    const char *why;
    uint32_t kept;
    uint64_t used = 0;
    if (!pym_map(t->p, index, &map, &why)) return false;
    if (!uncarve(t, a, &map, &kept)) return false;
    for (uint32_t i = 0; i < map.carved; i++) {
        pym_pool_t *pool = pym_pool_at(&map, i);
        if (map.is_free[i]) {
            t->out->empty++;
            if (i >= kept) continue;
            if (t->apply) pool->szidx = PYM_DUMMY_CLASS;
            if (!drop(t, (uintptr_t)pool + RES_PAGE, (uintptr_t)pool + PYM_POOL_BYTES,
                      &t->out->pool_bytes))
                return false;
            continue;
        }
        used += (uint64_t)pool->count * pym_block_bytes(pool);
        if (!lay_out_again(t, pool)) return false;
    }
    t->out->arenas++;
    t->out->pools += map.carved;
    t->out->pinned += used * 4 < t->p->arena_bytes;
    return true;
}

void pool_trim_predict(const pym_t *p, res_t *r, uint32_t arena, pool_trim_t *sum) {
    trim_t t;
    t.p = p;
    t.r = r;
    t.apply = false;
    t.out = sum;
    trim_arena(&t, arena);
}

void pool_trim(const pym_t *p, res_t *r, bool apply, int64_t deadline_us, pool_trim_t *out) {
    trim_t t;
    t.p = p;
    t.r = r;
    t.apply = apply;
    t.out = out;
    t.count = 0;
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < p->max && !out->stopped; i++) {
        if (!p->arenas[i].address) continue;
        res_forget(r);
        out->stopped = (deadline_us && now_us() > deadline_us) || !trim_arena(&t, i);
    }
    out->stopped |= !flush(&t);
}
