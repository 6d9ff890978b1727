#include "base/arena.h"

#include "base/mem.h"

#include <stdint.h>
#include <string.h>

enum { ARENA_FIRST_BYTES = 16 << 10, ARENA_MOST_BYTES = 1 << 20, ARENA_ALIGN = 16 };

struct arena_block {
    struct arena_block *next;
    size_t bytes;
};

static int arena_grow(arena_t *a, size_t need) {
    size_t bytes = a->bytes < ARENA_FIRST_BYTES ? ARENA_FIRST_BYTES : a->bytes;
    if (bytes > ARENA_MOST_BYTES) bytes = ARENA_MOST_BYTES;
    if (bytes < need + sizeof(struct arena_block)) bytes = need + sizeof(struct arena_block);
    struct arena_block *block = mem_map(bytes);
    if (!block) return -1;
    block->next = a->blocks;
    block->bytes = bytes;
    a->blocks = block;
    a->used = sizeof *block;
    a->room = bytes;
    a->bytes += bytes;
    return 0;
}

void *arena_alloc(arena_t *a, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    if (bytes > a->room - a->used && arena_grow(a, bytes)) return NULL;
    void *p = (char *)a->blocks + a->used;
    a->used += bytes;
    return p;
}

char *arena_text(arena_t *a, const char *text, size_t n) {
    if (n == SIZE_MAX) return NULL;
    char *copy = arena_alloc(a, n + 1);
    if (copy && n) memcpy(copy, text, n);
    return copy;
}

void arena_free(arena_t *a) {
    for (struct arena_block *block = a->blocks; block;) {
        struct arena_block *next = block->next;
        mem_unmap(block, block->bytes);
        block = next;
    }
    *a = (arena_t){0};
}
