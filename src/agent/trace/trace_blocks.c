#define _GNU_SOURCE
#include "agent/trace/trace_blocks.h"

#include "base/mem.h"

#include <sys/mman.h>

enum { PAGE = 4096 };

#define LEAF_WORDS ((size_t)1 << (BLOCKS_LEAF_BITS - 4))
#define LEAF_BYTES                                                                                 \
    (LEAF_WORDS * sizeof(uint32_t) + PAGE) /* the last block has its size behind the end */
#define ROOT_BYTES (BLOCKS_LEAVES * sizeof *blocks_leaves)

_Atomic(uint32_t *) *blocks_leaves;

/* Huge pages would make memory of what is never written. */
static void *map_sparse(size_t bytes) {
    void *at = mem_map(bytes);
    if (at) {
        madvise(at, bytes, MADV_NOHUGEPAGE);
        madvise(at, bytes, MADV_DONTDUMP);
    }
    return at;
}

bool blocks_open(void) {
    if (!blocks_leaves) blocks_leaves = map_sparse(ROOT_BYTES);
    return blocks_leaves != NULL;
}

uint32_t *blocks_make(uintptr_t block) {
    size_t at = block >> BLOCKS_LEAF_BITS;
    if (at >= BLOCKS_LEAVES) return NULL;
    uint32_t *leaf = map_sparse(LEAF_BYTES), *other = NULL;
    if (!leaf) return NULL;
    if (!atomic_compare_exchange_strong(&blocks_leaves[at], &other, leaf))
        mem_unmap(leaf, LEAF_BYTES);
    return blocks_word(block);
}

typedef void leaf_fn(void *arg, uint32_t *leaf);

static void each_leaf(leaf_fn *what, void *arg) {
    for (size_t i = 0; blocks_leaves && i < BLOCKS_LEAVES; i++) {
        uint32_t *leaf = atomic_load(&blocks_leaves[i]);
        if (leaf) what(arg, leaf);
    }
}

/* A thread that frees a block may look at its word at any moment: leaves stay mapped. */
static void leaf_clear(void *arg, uint32_t *leaf) {
    (void)arg;
    madvise(leaf, LEAF_BYTES, MADV_DONTNEED);
}

void blocks_clear(void) {
    each_leaf(leaf_clear, NULL);
}

static void leaf_resident(void *arg, uint32_t *leaf) {
    unsigned char pages[LEAF_BYTES / PAGE];
    if (mincore(leaf, LEAF_BYTES, pages)) return;
    for (size_t i = 0; i < sizeof pages; i++) *(size_t *)arg += (pages[i] & 1) ? PAGE : 0;
}

size_t blocks_own_bytes(void) {
    size_t bytes = 0;
    each_leaf(leaf_resident, &bytes);
    return bytes;
}

typedef struct teller {
    void (*tell)(void *arg, uint32_t site, uint64_t bytes);
    void *arg;
} teller_t;

static void leaf_tell(void *arg, uint32_t *leaf) {
    const teller_t *t = arg;
    for (size_t i = 0; i < LEAF_WORDS; i++) {
        if (!blocks_is_traced(leaf[i])) continue;
        uint64_t bytes = blocks_bytes(&leaf[i]);
        t->tell(t->arg, blocks_site(leaf[i]), bytes);
        if (bytes > BLOCKS_SMALL_BYTES) i++;
        if (bytes >> 32) i += 2;
    }
}

void blocks_each(void (*tell)(void *arg, uint32_t site, uint64_t bytes), void *arg) {
    teller_t t = {tell, arg};
    each_leaf(leaf_tell, &t);
}
