/* Who knows the names of native code after the fact. This room opens no files: the command line, which does, hands one in. */
#ifndef LOWTIDE_EXPLAIN_NAMER_H
#define LOWTIDE_EXPLAIN_NAMER_H

#include <stdint.h>

enum { NAMER_PLACES_MAX = 16 };
typedef struct namer_place {
    const char *function, *file; /* "" where not known; hold until the next call */
    uint32_t line;               /* 0: not known, and file is "" */
} namer_place_t;

typedef struct namer {
    void *self;
    /* The functions at an offset of the library that was built so, innermost first, each inlined into the next; how many, 0 where
     * nothing is known. `out` has room for NAMER_PLACES_MAX. */
    uint32_t (*name)(void *self, const char *module, const char *build_id, uint64_t offset,
                     namer_place_t *out);
} namer_t;

#endif
