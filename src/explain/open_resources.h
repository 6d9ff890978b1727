/* What the process had of the system beside memory: descriptors, threads, children, mappings, database cursors and connections,
 * joined with the objects that hold them and the lines that opened them.
 *
 * Rows come from the table `resources` of the recording, and from the heap: instances of types named …Cursor or …Connection
 * whose package is a DB-API module (it has `apilevel` and `paramstyle`), as far as their attributes do not say that they are closed.
 * A recording without the table has the latter alone. Texts live as long as the list.
 */
#ifndef LOWTIDE_EXPLAIN_OPEN_RESOURCES_H
#define LOWTIDE_EXPLAIN_OPEN_RESOURCES_H

#include "explain/profile.h"

typedef struct model_resource {
    const char *kind, *name, *note; /* docs/format.md; "" where there is none */
    int64_t descriptor;             /* descriptor, PID, TID; -1: none */
    uint64_t bytes;
    uint32_t id;                 /* the object that holds it, or LOWTIDE_NONE */
    const char *file, *function; /* where it was opened; NULL: not known */
    uint32_t line;
} model_resource_t;

typedef struct model_resources {
    uint32_t count;
    model_resource_t *rows; /* as recorded */
    arena_t memory;
} model_resources_t;

/* profile: joined (profile_join), to say where objects were made whose opening nobody saw; or NULL. */
int model_resources(const model_t *m, const profile_t *profile, model_resources_t *out, err_t *e);
void model_resources_free(model_resources_t *r);

/* The value of an instance's attribute, in its fields or its dict; LOWTIDE_NONE: it has none. */
int resource_attribute(const model_t *m, uint32_t id, const char *name, uint32_t *value, err_t *e);

#endif
