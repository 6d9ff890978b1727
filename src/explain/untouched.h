/* What of objects' large blocks was set aside and never touched: address space, and no memory (table `untouched`). The model's figures
 * are without it, since no fix returns it.
 */
#ifndef LOWTIDE_EXPLAIN_UNTOUCHED_H
#define LOWTIDE_EXPLAIN_UNTOUCHED_H

#include "base/vec.h"
#include "lowtide/recording.h"

#include <stdbool.h>

typedef struct untouched_row {
    uint32_t id;
    uint64_t bytes;
} untouched_row_t;
VEC_DEFINE(untouched_vec, untouched_row_t);

/* Rows by rising id. -ENOMEM; a damaged table is as good as none. */
int untouched_load(const lowtide_recording *rec, untouched_vec_t *out);

/* Bytes of an object less what of them was never touched. `next`: 0 at first, for ids that rise from call to call. */
uint64_t untouched_less(untouched_vec_t *rows, size_t *next, uint32_t id, uint64_t bytes);

/* Of one object; 0 of most. */
uint64_t untouched_of(const untouched_vec_t *rows, uint32_t id);

#endif
