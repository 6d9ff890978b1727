#define _GNU_SOURCE
#include "base/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { MEM_HUGE_FROM_BYTES = 4 << 20 };

static atomic_long mem_countdown;
static atomic_size_t mem_mapped, mem_most = SIZE_MAX;

void mem_limit(size_t bytes) {
    atomic_store(&mem_most, bytes ? bytes : SIZE_MAX);
}

static int mem_is_beyond(size_t more) {
    size_t most = atomic_load_explicit(&mem_most, memory_order_relaxed);
    size_t mapped = atomic_load_explicit(&mem_mapped, memory_order_relaxed);
    return most != SIZE_MAX && (mapped > most || more > most - mapped);
}

static void mem_count(size_t more, size_t less) {
    atomic_fetch_add_explicit(&mem_mapped, more - less, memory_order_relaxed);
}

/* One relaxed load while no test has set a countdown. */
static int mem_must_fail(void) {
    if (atomic_load_explicit(&mem_countdown, memory_order_relaxed) <= 0) return 0;
    return atomic_fetch_sub(&mem_countdown, 1) == 1;
}

long mem_fail_at(long n) {
    return atomic_exchange(&mem_countdown, n);
}

static void mem_ask_huge(void *p, size_t bytes) {
    if (bytes >= MEM_HUGE_FROM_BYTES) (void)madvise(p, bytes, MADV_HUGEPAGE);
}

void *mem_map(size_t bytes) {
    if (mem_must_fail() || mem_is_beyond(bytes)) return NULL;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED) return NULL;
    mem_count(bytes, 0);
    mem_ask_huge(p, bytes);
    return p;
}

void *mem_remap(void *p, size_t old_bytes, size_t bytes) {
    if (!p) return mem_map(bytes);
    if (mem_must_fail() || (bytes > old_bytes && mem_is_beyond(bytes - old_bytes))) return NULL;
    void *moved = mremap(p, old_bytes, bytes, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED) return NULL;
    mem_count(bytes, old_bytes);
    mem_ask_huge(moved, bytes);
    return moved;
}

void mem_unmap(void *p, size_t bytes) {
    if (!p) return;
    munmap(p, bytes);
    mem_count(0, bytes);
}

void *mem_alloc(size_t bytes) {
    if (mem_must_fail()) return NULL;
    return malloc(bytes ? bytes : 1);
}

void *mem_realloc(void *p, size_t bytes) {
    if (mem_must_fail()) return NULL;
    return realloc(p, bytes ? bytes : 1);
}

void mem_free(void *p) {
    free(p);
}
