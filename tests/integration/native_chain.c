/* Functions with frames of every kind that call down to malloc, for tests of native stacks. No tail calls: each adds to what it got. */
#include <alloca.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FIRST __attribute__((noinline, visibility("default")))
#ifndef PLAIN
#define PLAIN FIRST
#endif

static volatile uintptr_t guard;

PLAIN void *chain_leaf(size_t bytes) {
    void *p = malloc(bytes); /* LEAF */
    guard += (uintptr_t)p;
    return p;
}

/* Its frame grows while it runs: found from rbp. */
PLAIN void *chain_growing(size_t bytes) {
    char *room = alloca(bytes % 1000 + 16);
    memset(room, 1, bytes % 1000 + 16);
    void *p = chain_leaf(bytes);
    guard += (uintptr_t)room[3];
    return p;
}

/* Its frame is aligned beyond the stack, and grows: found from what lies at rbp. */
PLAIN void *chain_aligned(size_t bytes) {
    _Alignas(64) volatile char room[128];
    char *more = alloca(bytes % 500 + 16);
    memset(more, 1, 16);
    room[bytes % 128] = 1;
    void *p = chain_growing(bytes);
    guard += (uintptr_t)room[5] + (uintptr_t)more[2];
    return p;
}

/* Many arguments lie on the stack. */
PLAIN void *chain_many(size_t bytes, long a, long b, long c, long d, long e, long f, long g,
                       long h) {
    void *p = chain_aligned(bytes);
    guard += (uintptr_t)(a + b + c + d + e + f + g + h);
    return p;
}

FIRST void *chain_begin(size_t bytes) {
    void *p = chain_many(bytes, 1, 2, 3, 4, 5, 6, 7, 8);
    guard += 1;
    return p;
}
