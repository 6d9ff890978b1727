/* An arena: what lives and dies together. Blocks of mapped memory, handed out from front to back,
 * given back all at once. Start with a zeroed arena_t; one thread at a time.
 */
#ifndef LOWTIDE_BASE_ARENA_H
#define LOWTIDE_BASE_ARENA_H

#include <stddef.h>

typedef struct arena {
    struct arena_block *blocks; /* newest first */
    size_t used, room;          /* of the newest */
    size_t bytes;               /* mapped in all */
} arena_t;

/* Zeroed, aligned to 16; NULL when there is no memory. */
void *arena_alloc(arena_t *a, size_t bytes);
/* A zero-terminated copy of n bytes. */
char *arena_text(arena_t *a, const char *text, size_t n);
void arena_free(arena_t *a);

#endif
