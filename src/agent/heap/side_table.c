#include "agent/heap/side_table.h"

#include "base/mem.h"

#include <errno.h>

#define SIDE_BLOCK_BYTES ((size_t)16 << 20)

struct side_block {
    struct side_block *next;
};

int side_open(side_table_t *t) {
    *t = (side_table_t){0};
    t->top = mem_map(sizeof(uint32_t **) << SIDE_TOP_BITS);
    return t->top ? 0 : -ENOMEM;
}

void side_close(side_table_t *t) {
    for (struct side_block *b = t->blocks; b;) {
        struct side_block *next = b->next;
        mem_unmap(b, SIDE_BLOCK_BYTES);
        b = next;
    }
    mem_unmap(t->top, sizeof(uint32_t **) << SIDE_TOP_BITS);
    *t = (side_table_t){0};
}

static void *side_take(side_table_t *t, size_t bytes) {
    if (t->room_left < bytes) {
        struct side_block *b = mem_map(SIDE_BLOCK_BYTES);
        if (!b) return NULL;
        b->next = t->blocks;
        t->blocks = b;
        /* A page for the link keeps what follows aligned to pages. */
        t->room = (char *)b + 4096;
        t->room_left = SIDE_BLOCK_BYTES - 4096;
    }
    void *p = t->room;
    t->room += bytes;
    t->room_left -= bytes;
    return p;
}

uint32_t *side_leaf_make(side_table_t *t, uint64_t address) {
    uint32_t ***top = t->top + (address >> (4 + SIDE_LEAF_BITS + SIDE_MIDDLE_BITS));
    if (!*top) *top = side_take(t, sizeof(uint32_t *) << SIDE_MIDDLE_BITS);
    if (!*top) return NULL;
    uint32_t **leaf = *top + (address >> (4 + SIDE_LEAF_BITS) & ((1u << SIDE_MIDDLE_BITS) - 1));
    if (!*leaf) *leaf = side_take(t, sizeof(uint32_t) << SIDE_LEAF_BITS);
    return *leaf;
}
