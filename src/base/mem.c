#define _GNU_SOURCE
#include "base/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { MEM_HUGE_FROM_BYTES = 4 << 20 };

static atomic_long mem_countdown;

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
    if (mem_must_fail()) return NULL;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED) return NULL;
    mem_ask_huge(p, bytes);
    return p;
}

void *mem_remap(void *p, size_t old_bytes, size_t bytes) {
    if (!p) return mem_map(bytes);
    if (mem_must_fail()) return NULL;
    void *moved = mremap(p, old_bytes, bytes, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED) return NULL;
    mem_ask_huge(moved, bytes);
    return moved;
}

void mem_unmap(void *p, size_t bytes) {
    if (p) munmap(p, bytes);
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
