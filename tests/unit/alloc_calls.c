/* A library that allocates, for test_alloc_count: hooks leave the object alone that they are in themselves. */
#define _GNU_SOURCE
#include "alloc_calls.h"

#include <dlfcn.h>
#include <malloc.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { BYTES_MAX = 5000, SHARED = 256, MAPPED_BYTES = 1 << 16, LOOKS = 10000 };

/* What one thread makes another may end. */
static void *_Atomic shared[SHARED];

static void *allocate(uint64_t random, size_t bytes) {
    void *p = NULL;
    switch (random % 5) {
    case 0:
        return calloc(1, bytes);
    case 1:
        return posix_memalign(&p, 64, bytes) ? NULL : p;
    case 2:
        return realloc(malloc(bytes / 2 + 1), bytes);
    default:
        return malloc(bytes);
    }
}

EXPORTED void alloc_calls(uint64_t random, int rounds) {
    for (int i = 0; i < rounds; i++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        char *p = allocate(random >> 33, 1 + (random >> 40) % BYTES_MAX);
        if (!p) abort();
        *(volatile char *)p = 1;
        free(atomic_exchange(&shared[(random >> 48) % SHARED], p));
        if (i % 128) continue;
        void *at = mmap(NULL, MAPPED_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED || munmap(at, MAPPED_BYTES)) abort();
    }
}

EXPORTED bool alloc_load(const char *library, bool (*known)(const void *block)) {
    void *loaded = dlopen(library, RTLD_NOW), *found = loaded ? dlsym(loaded, "alloc_block") : NULL;
    void *(*block)(const void *);
    bool seen = false;
    if (!found) abort();
    memcpy(&block, &found, sizeof block);
    for (int i = 0; !seen && i < LOOKS; i++) {
        void *p = block(NULL);
        seen = known(p);
        block(p);
        if (!seen) sched_yield();
    }
    dlclose(loaded);
    return seen;
}

EXPORTED void *alloc_block(const void *end) {
    if (!end) return malloc(BYTES_MAX);
    free((void *)(uintptr_t)end);
    return NULL;
}

EXPORTED void alloc_look_up(void) {
    if (!dlsym(RTLD_DEFAULT, "malloc")) abort();
}

EXPORTED __attribute__((noinline)) void alloc_deep(int depth, void (*call)(void *), void *arg) {
    if (depth > 1)
        alloc_deep(depth - 1, call, arg);
    else
        call(arg);
    *(volatile int *)&depth; /* behind the call: it is no jump */
}

EXPORTED void *alloc_reserve(size_t bytes) {
    void *at = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

EXPORTED void alloc_protect(void *at, size_t bytes, int protection) {
    if (mprotect(at, bytes, protection)) abort();
}

EXPORTED void alloc_unmap(void *at, size_t bytes) {
    if (munmap(at, bytes)) abort();
}

/* ── Each way to a block: calls, for an address in a table is none that hooks replace ── */

static void *by_malloc(size_t bytes) {
    return malloc(bytes);
}

static void *by_valloc(size_t bytes) {
    return valloc(bytes);
}

static void *by_pvalloc(size_t bytes) {
    return pvalloc(bytes);
}

static void by_free(void *p) {
    free(p);
}

static void *by_posix_memalign(size_t bytes) {
    void *p;
    return posix_memalign(&p, 64, bytes) ? NULL : p;
}

static void *by_aligned_alloc(size_t bytes) {
    return aligned_alloc(64, bytes);
}

static void *by_memalign(size_t bytes) {
    return memalign(64, bytes);
}

static void *by_calloc(size_t bytes) {
    return calloc(1, bytes);
}

static void *by_realloc(size_t bytes) {
    return realloc(malloc(bytes / 2), bytes);
}

static void *by_reallocarray(size_t bytes) {
    return reallocarray(reallocarray(NULL, bytes / 4, 2), bytes / 2, 2);
}

/* C++'s own, which calls malloc out of its library. */
static void *(*operator_new)(size_t), *(*operator_new_array)(size_t);
static void *(*operator_new_aligned)(size_t, size_t);
static void (*operator_delete)(void *), (*operator_delete_array)(void *);
static void (*operator_delete_aligned)(void *, size_t);

static void *by_new_aligned(size_t bytes) {
    return operator_new_aligned(bytes, 64);
}

static void delete_aligned(void *p) {
    operator_delete_aligned(p, 64);
}

static alloc_way_t ways[] = {
    {"malloc", by_malloc, by_free},
    {"calloc", by_calloc, by_free},
    {"realloc", by_realloc, by_free},
    {"reallocarray", by_reallocarray, by_free},
    {"posix_memalign", by_posix_memalign, by_free},
    {"aligned_alloc", by_aligned_alloc, by_free},
    {"memalign", by_memalign, by_free},
    {"valloc", by_valloc, by_free},
    {"pvalloc", by_pvalloc, by_free},
    {"operator new", NULL, NULL},
    {"operator new[]", NULL, NULL},
    {"operator new of an aligned type", NULL, NULL},
};
enum { WAYS = sizeof ways / sizeof ways[0], WAYS_OF_C = WAYS - 3 };

EXPORTED const alloc_way_t *alloc_ways(size_t *count) {
    void *library = dlopen("libstdc++.so.6", RTLD_NOW);
    *count = library ? WAYS : WAYS_OF_C;
    if (!library) return ways;
    *(void **)&operator_new = dlsym(library, "_Znwm");
    *(void **)&operator_new_array = dlsym(library, "_Znam");
    *(void **)&operator_new_aligned = dlsym(library, "_ZnwmSt11align_val_t");
    *(void **)&operator_delete = dlsym(library, "_ZdlPv");
    *(void **)&operator_delete_array = dlsym(library, "_ZdaPv");
    *(void **)&operator_delete_aligned = dlsym(library, "_ZdlPvSt11align_val_t");
    ways[WAYS_OF_C] = (alloc_way_t){"operator new", operator_new, operator_delete};
    ways[WAYS_OF_C + 1] =
        (alloc_way_t){"operator new[]", operator_new_array, operator_delete_array};
    ways[WAYS_OF_C + 2] =
        (alloc_way_t){"operator new of an aligned type", by_new_aligned, delete_aligned};
    return ways;
}
