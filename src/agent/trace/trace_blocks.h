/* What is known of each block: a table of 32-bit words, one for each 16 bytes of address space.
 *
 *     leaves[address >> 26] ─▶ 16 MiB of words, mapped when the first block lies there; pages of it when they are written
 *
 *     word 0    31 watched │ 30 … 5 site + 1 │ 4 … 0 bytes of a block of up to 16, or 31: see word 1
 *     word 1    bytes below 4 GiB; or 0: 64 bits of them in words 2 and 3
 *
 * Allocators align to 16 bytes, so no two blocks share a word, and a block of more than 16 bytes has two. A watched word is a
 * code object's whose instructions trace_sites.c knows by address; it may belong to a block that is not traced (site + 1 = 0).
 *
 * A word is its block's: who may free the block may write it. Copying the table asks that nobody allocates.
 */
#ifndef LOWTIDE_TRACE_BLOCKS_H
#define LOWTIDE_TRACE_BLOCKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { BLOCKS_LEAF_BITS = 26, BLOCKS_ADDRESS_BITS = 47, BLOCKS_SITE_SHIFT = 5 };
enum { BLOCKS_SMALL_BYTES = 16, BLOCKS_BIG = 31 };
enum { BLOCKS_SITES_MAX = (1 << 26) - 2 };
#define BLOCKS_WATCHED (1u << 31)
#define BLOCKS_LEAVES  ((size_t)1 << (BLOCKS_ADDRESS_BITS - BLOCKS_LEAF_BITS))

extern _Atomic(uint32_t *) *blocks_leaves; /* NULL until blocks_open */

bool blocks_open(void);
/* Forgets all, and gives the memory back. */
void blocks_clear(void);
size_t blocks_own_bytes(void);

/* Makes the leaf; NULL: no memory. */
uint32_t *blocks_make(uintptr_t block);

/* NULL: nothing was ever known there. */
static inline uint32_t *blocks_word(uintptr_t block) {
    size_t at = block >> BLOCKS_LEAF_BITS;
    if (__builtin_expect(at >= BLOCKS_LEAVES, 0)) return NULL;
    uint32_t *leaf = atomic_load_explicit(&blocks_leaves[at], memory_order_acquire);
    return leaf ? leaf + ((block & ((1u << BLOCKS_LEAF_BITS) - 1)) >> 4) : NULL;
}

static inline bool blocks_is_traced(uint32_t word) {
    return (word & ~BLOCKS_WATCHED) >> BLOCKS_SITE_SHIFT != 0;
}
static inline uint32_t blocks_site(uint32_t word) {
    return ((word & ~BLOCKS_WATCHED) >> BLOCKS_SITE_SHIFT) - 1;
}

/* word: 0 before. */
static inline void blocks_put(uint32_t *word, uint64_t bytes, uint32_t site) {
    uint32_t head = (site + 1) << BLOCKS_SITE_SHIFT;
    if (bytes <= BLOCKS_SMALL_BYTES) {
        word[0] = head | (uint32_t)bytes;
        return;
    }
    word[0] = head | BLOCKS_BIG;
    word[1] = bytes >> 32 ? 0 : (uint32_t)bytes;
    if (__builtin_expect(bytes >> 32 != 0, 0)) memcpy(&word[2], &bytes, sizeof bytes);
}

static inline uint64_t blocks_bytes(const uint32_t *word) {
    uint32_t code = word[0] & ((1u << BLOCKS_SITE_SHIFT) - 1);
    if (code != BLOCKS_BIG) return code;
    if (word[1]) return word[1];
    uint64_t bytes;
    memcpy(&bytes, &word[2], sizeof bytes);
    return bytes;
}

/* Takes out what is known of a block that is traced or watched, and returns its bytes (0 where it is only watched). */
static inline uint64_t blocks_take(uint32_t *word) {
    uint64_t bytes = blocks_is_traced(word[0]) ? blocks_bytes(word) : 0;
    word[0] = 0;
    if (bytes > BLOCKS_SMALL_BYTES) word[1] = 0; /* a smaller block may begin there next */
    if (__builtin_expect(bytes >> 32 != 0, 0)) word[2] = word[3] = 0;
    return bytes;
}

static inline void blocks_set_site(uint32_t *word, uint32_t site) {
    uint32_t rest = word[0] & (BLOCKS_WATCHED | ((1u << BLOCKS_SITE_SHIFT) - 1));
    word[0] = rest | (site + 1) << BLOCKS_SITE_SHIFT;
}

/* Each block that is traced, by address. */
void blocks_each(void (*tell)(void *arg, uint32_t site, uint64_t bytes), void *arg);

#endif
