/* A library that allocates, for test_alloc_count: hooks leave the object alone that they are in themselves. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { BYTES_MAX = 5000, SHARED = 256, MAPPED_BYTES = 1 << 16 };

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

__attribute__((visibility("default"))) void alloc_calls(uint64_t random, int rounds) {
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
