/* From an address to the id of the object there.
 *
 * A radix table beside the heap: a directory over the address space, and for each touched MiB a leaf of 65,536 ids, one for
 * each 16 bytes. Two objects are never closer than 16 bytes, so each has its own entry; neighbours in memory are neighbours in
 * the leaf, and the walk, which goes through memory much as it was allocated, finds the entry in a cache line that it has just
 * used. A hash of ten million addresses would miss on nearly every reference.
 *
 *     address  47 ········ 33 │ 32 ········ 20 │ 19 ······ 4 │ 3 … 0
 *              top (14 bits)    middle (13 bits) leaf (16 bits)
 */
#ifndef LOWTIDE_HEAP_SIDE_TABLE_H
#define LOWTIDE_HEAP_SIDE_TABLE_H

#include <stddef.h>
#include <stdint.h>

enum { SIDE_LEAF_BITS = 16, SIDE_MIDDLE_BITS = 13, SIDE_TOP_BITS = 14 };

typedef struct side_table {
    uint32_t ***top; /* [top][middle][leaf] */
    char *room;      /* leaves are cut from one mapping after the other */
    size_t room_left;
    struct side_block *blocks; /* all mappings, to give them back */
} side_table_t;

int side_open(side_table_t *t); /* 0 or -ENOMEM */
void side_close(side_table_t *t);

/* Makes the leaf of an address; NULL when there is no memory. */
uint32_t *side_leaf_make(side_table_t *t, uint64_t address);

/* The leaf that the address lies in, or NULL when nothing there has been mentioned. address < 1 << 47. */
static inline uint32_t *side_leaf(const side_table_t *t, uint64_t address) {
    uint32_t **middle = t->top[address >> (4 + SIDE_LEAF_BITS + SIDE_MIDDLE_BITS)];
    if (!middle) return NULL;
    return middle[address >> (4 + SIDE_LEAF_BITS) & ((1u << SIDE_MIDDLE_BITS) - 1)];
}

/* The entry of an address: 0 while nothing has been put there. NULL only when there is no memory. */
static inline uint32_t *side_entry(side_table_t *t, uint64_t address) {
    uint32_t *leaf = side_leaf(t, address);
    if (__builtin_expect(!leaf, 0)) {
        leaf = side_leaf_make(t, address);
        if (!leaf) return NULL;
    }
    return leaf + (address >> 4 & ((1u << SIDE_LEAF_BITS) - 1));
}

#endif
