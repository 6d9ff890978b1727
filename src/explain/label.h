/* How much a reference costs on the way to an object: the best path is the cheapest. Attributes,
 * keys and indexes are what people write, so they are cheap; locals of frames, fields of C
 * structures and unnamed references are not.
 */
#ifndef LOWTIDE_EXPLAIN_LABEL_H
#define LOWTIDE_EXPLAIN_LABEL_H

#include "base/arena.h"
#include "lowtide/recording.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct label_costs {
    const uint8_t *fixed; /* 0: borrowed, no edge */
    uint32_t fixed_count;
    uint8_t repeat[2];
    uint8_t repeat_count;
    bool frame; /* of a frame */
} label_costs_t;

/* More for each reference of a library's frame: who may change the program looks into its own functions. */
enum { LABEL_COST_LIBRARY_FRAME = 3 };

/* One for each shape, in the arena; NULL when there is no memory. */
const label_costs_t *label_costs_of(const lowtide_recording *rec, arena_t *arena);

/* Of an object's k-th reference, counted with NULLs. */
static inline uint8_t label_cost(const label_costs_t *c, uint32_t k) {
    if (k < c->fixed_count) return c->fixed[k];
    if (c->repeat_count == 0) return 0;
    return c->repeat[c->repeat_count == 2 ? (k - c->fixed_count) & 1 : 0];
}

#endif
