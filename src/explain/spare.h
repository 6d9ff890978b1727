/* Arrays of one size, one 32-bit word a node, handed from stage to stage. Half of the time of
 * explaining went into pages that the kernel had to zero, since each stage mapped arrays of its
 * own while the last one gave its back.
 */
#ifndef LOWTIDE_EXPLAIN_SPARE_H
#define LOWTIDE_EXPLAIN_SPARE_H

#include <stddef.h>
#include <stdint.h>

enum { SPARE_MAX = 8 };

typedef struct spare {
    size_t bytes; /* of each array */
    uint32_t *at[SPARE_MAX];
    uint32_t count;
} spare_t;

/* An array with whatever it held before; NULL when there is no memory. */
uint32_t *spare_take(spare_t *s);
uint32_t *spare_take_zeroed(spare_t *s);
void spare_give(spare_t *s, uint32_t *array); /* NULL is given in vain */
void spare_free(spare_t *s);                  /* those that lie here */

#endif
