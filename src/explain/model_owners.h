/* Which objects own large blocks of malloc's and mappings: the recording says where those are (table `mappings`), where each object
 * is, and where what it owns is (table `blocks`).
 */
#ifndef LOWTIDE_EXPLAIN_MODEL_OWNERS_H
#define LOWTIDE_EXPLAIN_MODEL_OWNERS_H

#include "explain/model.h"

typedef struct model_owner {
    const char *line; /* name in the ledger */
    const char *type;
    char *path;
    bool expression; /* path is one */
    uint32_t id;
    uint64_t bytes; /* resident */
} model_owner_t;

typedef struct model_owners {
    uint32_t count;
    model_owner_t *owners; /* most bytes first */
    uint64_t bytes;        /* of all owners, said or not */
    arena_t memory;        /* what the pointers point to */
} model_owners_t;

/* None where the recording has no mappings. At most `max`. */
int model_owners(const model_t *m, uint32_t max, model_owners_t *out, err_t *e);
void model_owners_free(model_owners_t *o);

#endif
