/* What keeps arenas of Python's allocator that are nearly empty, as one line a group: objects under one holder, "412 Order, held by
 * app.cache". The recording says where the arenas are (table `arenas`), and where each object is.
 *
 * A group is what one object dominates: from the outermost holder that is data (no module, class or frame) down, while one object
 * keeps most of the group. Objects that only the program's structure holds, or several holders at once, are told by type. Each arena
 * counts for the group that has most bytes in it, so that bytes and arenas add up.
 */
#ifndef LOWTIDE_EXPLAIN_MODEL_PINS_H
#define LOWTIDE_EXPLAIN_MODEL_PINS_H

#include "explain/model.h"

typedef struct model_pin {
    const char *type; /* of most of the objects; "(no object)": tables and other blocks */
    char *path;       /* of the holder, or NULL */
    bool expression;  /* path is one */
    uint32_t holder;  /* or LOWTIDE_NONE */
    uint64_t objects; /* of that type, right below the holder, with something in such arenas */
    uint64_t arenas, bytes, returnable_bytes; /* bytes: resident; returnable although they stay */
} model_pin_t;

typedef struct model_pins {
    uint32_t count;
    model_pin_t *pins;                            /* most bytes first */
    uint64_t arenas, nearly_empty;                /* less than a quarter of their room in use */
    uint64_t bytes, live_bytes, returnable_bytes; /* of the nearly empty: resident, in use */
    arena_t memory;                               /* what the pointers point to */
} model_pins_t;

/* None where the recording has no arenas. At most `max` lines. */
int model_pins(const model_t *m, uint32_t max, model_pins_t *out, err_t *e);
void model_pins_free(model_pins_t *p);

#endif
