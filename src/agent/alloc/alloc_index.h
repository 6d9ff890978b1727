/* From a hash to the number of an element, for append-only arrays that many threads fill without a lock.
 *
 *     level 0   2^10 slots      a slot: upper half of the hash │ number + 1
 *     level 1   2^13
 *     level 2   2^16            probed 8 in a row, then on in the next level; the last one until there is room
 *     level 3   2^19
 *     level 4   2^22            where asked for
 *
 * Levels keep what is touched in proportion to what is in it: one big table would touch a page an element. Nothing is
 * ever taken out, so a search ends at the first empty slot. The table lies in private mapped memory.
 */
#ifndef LOWTIDE_ALLOC_INDEX_H
#define LOWTIDE_ALLOC_INDEX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define INDEX_NONE UINT32_MAX

typedef struct alloc_index {
    _Atomic uint64_t *slots; /* all levels, one behind the other */
    int levels;
} alloc_index_t;

/* For some 2^19 elements, and for eight times as many. */
enum { INDEX_LEVELS = 4, INDEX_LEVELS_LARGE = 5 };

bool index_open(alloc_index_t *x, int levels);
void index_close(alloc_index_t *x);

/* The number of the element that `same` accepts, or of the one that `make` makes (INDEX_NONE: no room). Where two threads make the
 * same element at once, one of them is never referred to. */
uint32_t index_find(alloc_index_t *x, uint64_t hash, bool (*same)(uint32_t number, const void *key),
                    uint32_t (*make)(const void *key), const void *key);

static inline uint64_t index_mix(uint64_t h, uint64_t v) {
    h = (h ^ v) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

#endif
