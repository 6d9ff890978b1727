/* alloc_calls.c: a library that allocates by every function that hands out blocks. */
#ifndef LOWTIDE_TESTS_ALLOC_CALLS_H
#define LOWTIDE_TESTS_ALLOC_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORTED __attribute__((visibility("default")))

typedef struct alloc_way {
    const char *name;
    void *(*make)(size_t bytes);
    void (*end)(void *p);
} alloc_way_t;

/* So many blocks of any size, ended by any thread. */
EXPORTED void alloc_calls(uint64_t random, int rounds);
/* Loads a library like this one, allocates through it until a block is known, and lets go of it. false: none ever was. */
EXPORTED bool alloc_load(const char *library, bool (*known)(const void *block));
/* A block, or the end of one. */
EXPORTED void *alloc_block(const void *end);
/* Looks for a function, as all do that load something. */
EXPORTED void alloc_look_up(void);
/* `call` below so many frames of this library. */
EXPORTED void alloc_deep(int depth, void (*call)(void *), void *arg);
/* Address space that nobody may touch, and what rights there are to it. */
EXPORTED void *alloc_reserve(size_t bytes);
EXPORTED void alloc_protect(void *at, size_t bytes, int protection);
EXPORTED void alloc_unmap(void *at, size_t bytes);
/* Those of C++ only where its library is installed; call before the hooks are in. */
EXPORTED const alloc_way_t *alloc_ways(size_t *count);

#endif
