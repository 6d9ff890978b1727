/* What the names in the target lead to: sys.modules, the names of __main__, and what stands in a
 * namespace.
 */
#ifndef LOWTIDE_EXPLAIN_NAMES_H
#define LOWTIDE_EXPLAIN_NAMES_H

#include "base/map.h"
#include "base/strbuf.h"
#include "explain/model_data.h"

typedef struct names_entry {
    const char *name;
    uint32_t bytes;
    uint32_t id;            /* what the name leads to */
    const char *expression; /* modules: how to say it, NULL until asked */
} names_entry_t;

VEC_DEFINE(names_vec, names_entry_t);

/* A dict with str keys, read once. */
typedef struct names_table {
    uint32_t dict; /* LOWTIDE_NONE: there is none */
    names_vec_t entries;
    map_t index; /* hash of the name → entry; of equal hashes the first */
} names_table_t;

struct names {
    names_table_t modules; /* sys.modules of the main interpreter */
    names_table_t main;    /* __main__.__dict__ */
    uint32_t interpreter;  /* the main one's pseudo-object, or LOWTIDE_NONE */
    uint32_t builtins;     /* the module, or LOWTIDE_NONE */
    map_t descriptors;     /* hash of (type, name) → whether a data descriptor stands there */
};

/* Makes m->names. A recording without sys.modules is no error. */
int names_build(model_t *m, err_t *e);
void names_free(names_t *names);

int names_read_table(model_t *m, names_table_t *t, uint32_t dict, err_t *e);
/* LOWTIDE_NONE when the name is not there. */
uint32_t names_get(const names_table_t *t, const char *name, size_t bytes);
const names_entry_t *names_entry_of(const names_table_t *t, uint32_t id); /* by what it leads to */

/* The text that evaluates to a module of sys.modules: `app`, `a.b`, `sys.modules['a.b']`. It holds
 * as long as the model. */
int names_module(const model_t *m, names_entry_t *module, const char **text, err_t *e);

/* The value of a str key in a dict of the recording, or LOWTIDE_NONE. */
int names_lookup(const model_t *m, uint32_t dict, const char *name, size_t bytes, uint32_t *value,
                 err_t *e);
/* The target of an object's first fixed reference with that name (attribute or field), or
 * LOWTIDE_NONE. */
int names_field(const model_t *m, uint32_t id, const char *name, size_t bytes, uint32_t *target,
                err_t *e);
/* The namespace dict of a module, type or instance, or LOWTIDE_NONE. */
int names_namespace(const model_t *m, uint32_t id, uint32_t *dict, err_t *e);
/* The first of a type's classes (its __mro__) whose dict has the name: what stands there, or
 * LOWTIDE_NONE. */
int names_in_class(const model_t *m, uint32_t type, const char *name, size_t bytes, uint32_t *value,
                   err_t *e);
/* Whether attribute access on an instance would find a property or the like in the class before
 * the instance's own. */
int names_shadowed(const model_t *m, uint32_t type, const char *name, size_t bytes, bool *shadowed,
                   err_t *e);

/* Whether a class statement among the type's classes defines that method. */
int names_overrides(const model_t *m, uint32_t type, const char *method, bool *overridden,
                    err_t *e);

bool names_is_identifier(const char *name, size_t bytes); /* ASCII, no keyword */
/* A str object's whole text; NULL when it is not a str or only a prefix. Holds until the next
 * read. */
int names_text(const model_t *m, uint32_t id, const char **text, uint32_t *bytes, err_t *e);

#endif
