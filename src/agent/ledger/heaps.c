#define _GNU_SOURCE
#include "agent/ledger/heaps.h"

#include "agent/runtime/runtime.h"

#include <string.h>

enum {
    PREV_INUSE = 1,
    IS_MMAPPED = 2,
    SIZE_BITS = 7,
    CHUNK_MIN = 32,
    LOOK_CHUNKS = 24, /* a chain that holds for so many is one */
    STATE_MIN = 2000, /* an arena's own structure, in its first heap: 2200 bytes in glibc 2.36 */
    STATE_MAX = 2400
};

typedef struct heap_head {
    uintptr_t arena, previous;
    size_t size, mprotect_size;
} heap_head_t;

typedef struct window {
    uintptr_t at;
    bool good;
    unsigned char bytes[RES_PAGE];
} window_t;

/* The size word of the chunk at p, 0 where there is none. */
static size_t size_word(window_t *w, uintptr_t p) {
    uintptr_t at = p + sizeof(size_t), page = at / RES_PAGE * RES_PAGE;
    size_t word;
    if (w->at != page) {
        w->at = page;
        w->good = rt_peek(page, w->bytes, sizeof w->bytes) == 0;
    }
    if (!w->good) return 0;
    memcpy(&word, w->bytes + (at - page), sizeof word);
    return word;
}

static bool chunk_fits(size_t word, uintptr_t p, uintptr_t end) {
    size_t size = word & ~(size_t)SIZE_BITS;
    return size >= CHUNK_MIN && size % 16 == 0 && !(word & IS_MMAPPED) && size <= end - p;
}

static bool chain_holds(window_t *w, uintptr_t p, uintptr_t end) {
    for (int i = 0; i < LOOK_CHUNKS && p + CHUNK_MIN <= end; i++) {
        size_t word = size_word(w, p);
        if (!chunk_fits(word, p, end)) return false;
        p += word & ~(size_t)SIZE_BITS;
    }
    return true;
}

/* An arena stands at the beginning of its first heap, whose header says the same. */
static bool is_arena(const heap_head_t *h) {
    heap_head_t first;
    uintptr_t at = h->arena / HEAPS_ALIGN * HEAPS_ALIGN;
    return h->arena - at >= sizeof first && h->arena - at <= HEAPS_HEADER_MAX &&
           rt_peek(at, &first, sizeof first) == 0 && first.arena == h->arena && !first.previous;
}

static bool peek_head(uintptr_t at, heap_head_t *h) {
    if (rt_peek(at, h, sizeof *h)) return false;
    return h->size >= RES_PAGE && h->size <= HEAPS_ALIGN && h->size % RES_PAGE == 0 &&
           h->mprotect_size >= h->size && h->mprotect_size <= HEAPS_ALIGN && h->arena % 16 == 0 &&
           h->arena && h->previous % HEAPS_ALIGN == 0 && is_arena(h);
}

static bool read_head(const map_entry_t *v, heap_head_t *h) {
    return v->begin % HEAPS_ALIGN == 0 && v->name[0] != '/' && v->writable &&
           peek_head(v->begin, h);
}

bool heaps_bounds(uintptr_t address, heap_bounds_t *out) {
    heap_head_t h;
    uintptr_t begin = address / HEAPS_ALIGN * HEAPS_ALIGN;
    if (!peek_head(begin, &h)) return false;
    *out = (heap_bounds_t){.begin = begin, .end = begin + h.size, .arena = h.arena};
    return address < out->end;
}

bool heaps_is_arena(const map_entry_t *v) {
    heap_head_t h;
    return read_head(v, &h) && h.size <= v->end - v->begin;
}

/* Where the first chunk of an arena's heap stands: behind the heap's header, and in the first heap behind the arena's own
 * structure, whose size is another in each glibc. */
static uintptr_t first_chunk(window_t *w, const map_entry_t *v, const heap_head_t *h) {
    uintptr_t end = v->begin + h->size;
    bool has_state = h->arena - v->begin < HEAPS_HEADER_MAX + 16;
    uintptr_t from = has_state ? h->arena + STATE_MIN : v->begin + sizeof(heap_head_t);
    uintptr_t to = has_state ? h->arena + STATE_MAX : v->begin + HEAPS_HEADER_MAX;
    for (uintptr_t p = from / 16 * 16; p <= to; p += 16)
        if (size_word(w, p) & PREV_INUSE && chain_holds(w, p, end)) return p;
    return 0;
}

static void add_free(heap_sum_t *sum, res_t *r, uintptr_t p, size_t size, bool top, bool main) {
    uintptr_t begin, end = p + size;
    sum->free_chunks++;
    uint64_t bytes = size < RES_PAGE ? size : res_bytes(r, p, end);
    sum->free_bytes += bytes;
    if (top) sum->top_bytes += bytes;
    if (top && main) /* the break goes down, by whole pages behind a smallest chunk */
        begin = p + CHUNK_MIN + 1;
    else if (!top)
        begin = p + 48; /* the links of a big chunk stay */
    else
        begin = p + 16; /* only its size stays (arena_tops.h) */
    if (begin < end) sum->returnable_bytes += res_bytes(r, begin, end);
}

void heaps_walk(const map_entry_t *v, bool main, res_t *r, heap_sum_t *sum) {
    window_t w = {.at = 1};
    heap_head_t h;
    uintptr_t p = v->begin, end = v->end;
    if (!main) {
        if (!read_head(v, &h)) return;
        p = first_chunk(&w, v, &h);
        end = v->begin + h.size;
    }
    if (!p || !chain_holds(&w, p, end)) {
        sum->broken = true;
        return;
    }
    while (p + CHUNK_MIN <= end) {
        size_t word = size_word(&w, p), size = word & ~(size_t)SIZE_BITS;
        if (!chunk_fits(word, p, end)) {
            /* A fence behind the last chunk of a heap that another follows is no break. */
            sum->broken |= end - p > RES_PAGE;
            return;
        }
        bool top = p + size + CHUNK_MIN > end;
        if (top || !(size_word(&w, p + size) & PREV_INUSE))
            add_free(sum, r, p, size, top, main);
        else if (sum->large && size >= HEAPS_LARGE_MIN)
            sum->large(sum->arg, p, p + size);
        p += size;
    }
}

uintptr_t heaps_mapped_block(uintptr_t begin, uintptr_t reach) {
    size_t words[2];
    if (begin + RES_PAGE > reach || rt_peek(begin, words, sizeof words)) return begin;
    size_t size = words[1] & ~(size_t)SIZE_BITS;
    if (size % RES_PAGE == RES_PAGE - sizeof words) size += sizeof words; /* since glibc 2.43 */
    if ((words[1] & SIZE_BITS) != IS_MMAPPED || size % RES_PAGE || size < RES_PAGE ||
        size > reach - begin || words[0] >= RES_PAGE)
        return begin;
    return begin + size;
}

void heaps_walk_all(const maps_t *m, res_t *r, heap_sum_t *sum) {
    for (size_t i = 0; i < m->entries.count; i++) {
        map_entry_t v = m->entries.at[i];
        if (strcmp(v.name, "[heap]") == 0) {
            for (; i + 1 < m->entries.count && strcmp(m->entries.at[i + 1].name, "[heap]") == 0;
                 i++)
                v.end = m->entries.at[i + 1].end;
            heaps_walk(&v, true, r, sum);
            continue;
        }
        uintptr_t end = v.end;
        v.begin = (v.begin + HEAPS_ALIGN - 1) / HEAPS_ALIGN * HEAPS_ALIGN;
        for (; v.begin < end && v.rss_bytes; v.begin += HEAPS_ALIGN)
            if (heaps_is_arena(&v)) heaps_walk(&v, false, r, sum);
    }
}
