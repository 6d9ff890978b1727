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

/* The ledger's line of memory that Arrow's own allocator has of the kernel. */
#define MODEL_ARROW_POOL "pyarrow's memory pool (mimalloc)"

typedef struct model_pool_range {
    uint64_t begin, end;
} model_pool_range_t;

typedef struct model_pool {
    uint64_t resident, unowned; /* unowned: no object is known to have it */
    const char *
        holder; /* of a spare one: type of a live object that may have some of it all the same; or NULL */
    uint32_t count;
    model_pool_range_t *ranges; /* its mappings, lowest first */
} model_pool_t;

/* A frame, lazy or not, or a series. */
bool model_type_is_polars(const model_type_t *t);

/* All that is zero where the recording has no mapping of that line. model_pool_free it. */
int model_pool_of(const model_t *m, const char *line, model_pool_t *out, err_t *e);
void model_pool_free(model_pool_t *pool);
/* Whether most of it is nobody's who is known: as much is free, where there is no holder. Between blocks in use it is kept for their
 * sizes, and does not go back. */
bool model_pool_is_spare(const model_pool_t *pool);
/* Whether it has any of those bytes. */
bool model_pool_has(const model_pool_t *pool, uint64_t address, uint64_t bytes);

#endif
