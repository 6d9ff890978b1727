/* What PyMem_SetAllocator and PyObject_SetArenaAllocator take: PyMemAllocatorEx, PyObjectArenaAllocator and PyMemAllocatorDomain, the same in
 * every version since 3.5 (PEP 445). */
#ifndef LOWTIDE_RUNTIME_ALLOCATORS_H
#define LOWTIDE_RUNTIME_ALLOCATORS_H

#include <stddef.h>

typedef struct allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t bytes);
    void *(*calloc)(void *ctx, size_t n, size_t each);
    void *(*realloc)(void *ctx, void *old, size_t bytes);
    void (*free)(void *ctx, void *p);
} allocator_t;

typedef struct arena_allocator {
    void *ctx;
    void *(*alloc)(void *ctx, size_t bytes);
    void (*free)(void *ctx, void *p, size_t bytes);
} arena_allocator_t;

enum allocator_domain { RAW, MEM, OBJECT, DOMAINS };

#endif
