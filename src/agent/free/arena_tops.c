#define _GNU_SOURCE
#include "agent/free/arena_tops.h"

#include "agent/ledger/heaps.h"
#include "agent/runtime/runtime.h"

#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    TOP = 96,
    BINS = 112,
    BIN_COUNT = 127, /* each two words: the first and the last chunk of a ring */
    CHUNK_LINKS = 16,
    SIZE_BITS = 7
};

typedef struct top {
    uintptr_t at;
    size_t bytes;
} top_t;

static uintptr_t word_at(uintptr_t at) {
    uintptr_t word;
    memcpy(&word, (void *)at, sizeof word);
    return word;
}

/* A bin stands for a chunk whose links are its two words: empty, both lead to itself; else the first chunk leads back to it. */
static bool rings_hold(uintptr_t arena) {
    unsigned empty = 0;
    for (uintptr_t i = 0; i < BIN_COUNT; i++) {
        uintptr_t bin = arena + BINS + i * 2 * sizeof(uintptr_t) - CHUNK_LINKS, first, back;
        first = word_at(bin + CHUNK_LINKS);
        if ((first == bin) != (word_at(bin + CHUNK_LINKS + sizeof first) == bin)) return false;
        if (first == bin)
            empty++;
        else if (first % 16 || rt_peek(first + CHUNK_LINKS + sizeof first, &back, sizeof back) ||
                 back != bin)
            return false;
    }
    return empty > 0;
}

static bool find_top(uintptr_t arena, top_t *top) {
    heap_bounds_t heap;
    uintptr_t word;
    top->at = word_at(arena + TOP);
    if (top->at % 16 || !heaps_bounds(top->at, &heap) || heap.arena != arena) return false;
    if (rt_peek(top->at + sizeof word, &word, sizeof word)) return false;
    top->bytes = word & ~(size_t)SIZE_BITS;
    return top->at + top->bytes == heap.end;
}

static bool lock(uint32_t *mutex) {
    uint32_t open = 0;
    return __atomic_compare_exchange_n(mutex, &open, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static void unlock(uint32_t *mutex) {
    if (__atomic_exchange_n(mutex, 0, __ATOMIC_RELEASE) > 1)
        syscall(SYS_futex, mutex, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

bool arena_top_trim(uintptr_t arena) {
    uint32_t *mutex = (void *)arena;
    top_t top;
    if (!find_top(arena, &top) || !lock(mutex)) return false;
    bool good = find_top(arena, &top) && rings_hold(arena);
    if (good) {
        uintptr_t begin = (top.at + 2 * sizeof(uintptr_t) + RES_PAGE - 1) / RES_PAGE * RES_PAGE;
        uintptr_t end = top.at + top.bytes;
        if (begin < end) good = madvise((void *)begin, end - begin, MADV_DONTNEED) == 0;
    }
    unlock(mutex);
    return good;
}

void arena_tops_trim(void) {
    maps_t maps;
    err_t e;
    if (maps_read(&maps, 0, &e)) return;
    for (size_t i = 0; i < maps.entries.count; i++) {
        const map_entry_t *v = &maps.entries.at[i];
        heap_bounds_t heap;
        if (v->name[0] || !v->writable || !v->rss_bytes) continue;
        uintptr_t at = (v->begin + HEAPS_ALIGN - 1) / HEAPS_ALIGN * HEAPS_ALIGN;
        for (; at < v->end && v->end - v->begin < HEAPS_RESERVED_MIN; at += HEAPS_ALIGN)
            if (heaps_bounds(at, &heap) && heap.arena - at < HEAPS_HEADER_MAX)
                arena_top_trim(heap.arena);
    }
    maps_free(&maps);
}
