/* A library that puts allocators of its own into CPython, as some programs do: it counts what is alive in the domain `mem`. */
#include <stddef.h>
#include <stdlib.h>

typedef struct allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t bytes);
    void *(*calloc)(void *ctx, size_t n, size_t each);
    void *(*realloc)(void *ctx, void *old, size_t bytes);
    void (*free)(void *ctx, void *p);
} allocator_t;

void PyMem_GetAllocator(int domain, allocator_t *out);
void PyMem_SetAllocator(int domain, const allocator_t *a);
void *PyMem_Malloc(size_t bytes);
void PyMem_Free(void *p);

enum { MEM = 1 };

static allocator_t real;
static long made, ended;

static void *own_malloc(void *ctx, size_t bytes) {
    made++;
    return real.malloc(real.ctx, bytes);
}
static void *own_calloc(void *ctx, size_t n, size_t each) {
    made++;
    return real.calloc(real.ctx, n, each);
}
static void *own_realloc(void *ctx, void *old, size_t bytes) {
    if (!old) made++;
    return real.realloc(real.ctx, old, bytes);
}
static void own_free(void *ctx, void *p) {
    if (p) ended++;
    real.free(real.ctx, p);
}

__attribute__((visibility("default"))) void own_put(void) {
    PyMem_GetAllocator(MEM, &real);
    PyMem_SetAllocator(MEM, &(allocator_t){NULL, own_malloc, own_calloc, own_realloc, own_free});
}

__attribute__((visibility("default"))) void own_take(void) {
    PyMem_SetAllocator(MEM, &real);
}

/* Blocks that nobody else knows, made and ended again: both must be seen here. */
__attribute__((visibility("default"))) long own_count(int n) {
    long before = made - ended;
    void **p = calloc((size_t)n, sizeof *p);
    for (int i = 0; i < n; i++) p[i] = PyMem_Malloc(2000);
    long seen = made - ended - before;
    for (int i = 0; i < n; i++) PyMem_Free(p[i]);
    free(p);
    return made - ended == before ? seen : -1;
}
