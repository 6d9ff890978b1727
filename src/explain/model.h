/* The explained model: what a recording means. Every view (text, JSON, SQL, why, diff) reads this
 * and nothing else.
 *
 *     lowtide_open → model_build → ask → model_free → lowtide_close
 *
 * Nodes are the recording's object ids, 0 … model_objects() − 1, and behind them four virtual ones:
 *
 *      MODEL root ─┬─ object 0: the runtime, with interpreters, modules, threads, frames
 *                  ├─ C code:   objects with more references than the heap accounts for ("surplus")
 *                  ├─ immortal: objects that are never freed (None, small numbers, static types …)
 *                  └─ garbage:  what nothing holds; gc.collect() would free it
 *
 * so that the dominator tree covers every object, and what C code holds is not credited to somebody
 * else. Borrowed references keep nothing alive and are no edges here.
 *
 *   shallow    the object's own blocks and the buffers it owns, without the pages of large ones that were set aside and never touched:
 *              they are no memory, and nothing returns them
 *   untouched  those
 *   retained   what would go if the object went: the shallow bytes of all it dominates, itself
 * among them
 *
 * A model borrows the recording, which must stay open, and belongs to one thread at a time. Status:
 * 0 or a negative errno, with a line in `e`. Results with a `…_free` are the caller's; other
 * pointers live as long as the model.
 */
#ifndef LOWTIDE_EXPLAIN_MODEL_H
#define LOWTIDE_EXPLAIN_MODEL_H

#include "base/arena.h"
#include "base/err.h"
#include "explain/namer.h"
#include "lowtide/recording.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct model model_t;

int model_build(lowtide_recording *rec, model_t **out, err_t *e);
void model_free(model_t *m);
lowtide_recording *model_recording(const model_t *m);
/* Who names the native code of its profile; NULL, as it is at first: what the recording says will do. */
void model_name_by(model_t *m, const namer_t *namer);
const namer_t *model_namer(const model_t *m);

/* ---- Totals and single objects ---- */

typedef struct model_totals {
    uint64_t
        objects; /* Python objects; the pseudo-objects (runtime, threads, frames) are not counted */
    uint64_t references; /* owning, not NULL */
    uint64_t shallow_bytes;
    uint64_t untouched_bytes;
    uint64_t unreachable_objects, unreachable_bytes; /* garbage: what gc.collect() would free */
    uint64_t native_objects,
        native_bytes; /* kept alive by C code alone: what only the C code node holds */
    uint64_t immortal_objects, immortal_bytes;
} model_totals_t;

const model_totals_t *model_totals(const model_t *m);
uint32_t model_objects(const model_t *m);

enum {
    MODEL_NODE_ROOT,
    MODEL_NODE_C,
    MODEL_NODE_IMMORTAL,
    MODEL_NODE_GARBAGE,
    MODEL_VIRTUAL_NODES
};
uint32_t model_node(const model_t *m, int virtual_node); /* its id */

uint32_t model_shape(const model_t *m, uint32_t id); /* of an object, not of a virtual node */
uint64_t model_shallow(const model_t *m, uint32_t id);
uint64_t model_untouched(const model_t *m, uint32_t id);
/* Of all that it dominates, itself too. */
uint64_t model_retained_untouched(const model_t *m, uint32_t id);
uint64_t model_retained(const model_t *m, uint32_t id);
uint32_t model_retained_objects(const model_t *m, uint32_t id); /* itself counted */
uint32_t model_idom(const model_t *m, uint32_t id);             /* LOWTIDE_NONE for the root */
bool model_is_garbage(const model_t *m, uint32_t id);
bool model_is_immortal(const model_t *m, uint32_t id);
bool model_has_surplus(const model_t *m, uint32_t id); /* C code holds references to it */
bool model_dominates(const model_t *m, uint32_t a, uint32_t b);
/* The objects that own a reference to `id`, one entry a reference, in no order. Virtual nodes are
 * not listed. */
uint32_t model_referrers(const model_t *m, uint32_t id, const uint32_t **ids);

/* Objects in dominator order: an object stands before all that it dominates, which follow it
 * without a gap. So the objects that `id` dominates are model_at(m, model_order(m, id) + k), k = 0
 * … model_retained_objects(m, id) − 1 (virtual nodes count as objects of zero bytes here), and the
 * next sibling of x is at order + retained_objects. */
uint32_t model_order(const model_t *m, uint32_t id);
uint32_t model_at(const model_t *m, uint32_t order);

typedef struct model_span {
    uint32_t begin, end; /* places in dominator order */
} model_span_t;

/* ---- Types ---- */

typedef struct model_type {
    const char *name; /* "dict", "app.User"; pseudo-objects: "<frame>", "<thread>" … */
    const char *module;
    uint32_t type_id; /* the type object, LOWTIDE_NONE for pseudo-objects */
    uint32_t shape;   /* one of its shapes */
    uint64_t count, shallow_bytes;
    uint64_t retained_bytes; /* of the group: what would go if all of them went */
} model_type_t;

const model_type_t *model_types(const model_t *m, uint32_t *count); /* most retained bytes first */
uint32_t model_type_of(const model_t *m, uint32_t id);              /* index into model_types */
const char *model_type_name(const model_t *m, uint32_t id); /* works for virtual nodes too */

/* ---- Paths ---- */

/* How the target's own Python says it, where `expression` is set: evaluated in the target with the
 * names of __main__, then the top-level names of sys.modules, then builtins, it yields that very
 * object. Otherwise steps: "thread MainThread > main() > rows". Long paths have their middle left
 * out and are then no expression. */
typedef struct model_path {
    char *text;
    bool expression;
    uint32_t length; /* nodes */
    uint32_t *nodes; /* from the root's side to the object itself; a virtual node may stand first */
} model_path_t;

/* The best path: fewest steps, named ones preferred. */
int model_path_to(const model_t *m, uint32_t id, model_path_t *out, err_t *e);
void model_path_free(model_path_t *path);

typedef struct model_paths {
    uint32_t count;
    model_path_t *paths; /* shortest first */
    bool more;           /* there are more disjoint ones than were asked for */
    arena_t memory;      /* what the pointers point to */
} model_paths_t;

/* What must not be passed through. A NULL or empty list avoids nothing. */
typedef struct model_avoid {
    const uint32_t *ids; /* objects */
    uint32_t id_count;
    const uint32_t *types; /* indexes into model_types: all objects of them */
    uint32_t type_count;
} model_avoid_t;

/* Up to `max` paths that share no node but those which every path must pass (dominators of the
 * object). */
int model_why(const model_t *m, uint32_t id, const model_avoid_t *avoid, uint32_t max,
              model_paths_t *out, err_t *e);
void model_paths_free(model_paths_t *paths);

/* Many objects (say, all of a type) by the shape of their best paths: "9,998 of 10,000 through
 * app.cache". */
typedef struct model_route {
    char *text;    /* the shape: "app.cache[…].history[…]" */
    char *through; /* the last object they all pass: "app.cache" */
    uint32_t through_id;
    uint32_t example;                       /* one of the objects */
    uint64_t count;                         /* how many of the objects */
    uint64_t shallow_bytes, retained_bytes; /* retained: union */
    const uint32_t *orders; /* places of those `count` in dominator order, lowest first */
} model_route_t;

typedef struct model_routes {
    uint32_t count;
    model_route_t *routes; /* most objects first */
    uint64_t total;        /* objects asked about */
    arena_t memory;        /* what the pointers point to */
} model_routes_t;

int model_routes_of(const model_t *m, const uint32_t *ids, uint64_t count,
                    const model_avoid_t *avoid, model_routes_t *out, err_t *e);
void model_routes_free(model_routes_t *routes);

/* ---- Find WHAT ---- */

enum model_what { MODEL_WHAT_OBJECT, MODEL_WHAT_TYPE };

typedef struct model_found {
    int what;      /* model_what: one object (path, address), or all instances of a type */
    uint32_t type; /* MODEL_WHAT_TYPE: index into model_types */
    uint64_t count;
    uint32_t *ids;
} model_found_t;

/* `what` is a path (app.cache['u17'].history[3], thread MainThread > main() > rows[0]), a type name
 * ("User", "app.User"; a path wins over a type unless it leads to that very type), or an address
 * (0x7f…). -ENOENT: nothing by that name; the line names what comes near. */
int model_find(const model_t *m, const char *what, model_found_t *out, err_t *e);
void model_found_free(model_found_t *found);

/* ---- Dominators and groups ---- */

/* A line of the dominator list: one object, or alike siblings (same dominator, same type) taken
 * together. */
typedef struct model_dominator {
    char *path;      /* of the object; of a group: its route, "app.cache[…]" */
    bool expression; /* path is a Python expression: single objects only */
    const char *type;
    uint32_t id;            /* the object, or the group's biggest */
    uint32_t parent;        /* index of the line that dominates it, or UINT32_MAX */
    uint32_t depth;         /* 0 for lines with no parent */
    uint64_t members;       /* 1, or how many alike */
    const uint32_t *orders; /* the members' places in dominator order, lowest first */
    uint64_t shallow_bytes, retained_bytes, retained_objects;
    uint32_t holders_count; /* held by several, none of which alone would free it: their paths */
    char **holders;
} model_dominator_t;

typedef struct model_dominators {
    uint32_t count;
    model_dominator_t *lines; /* most retained bytes first; what a line's parent already says
                                 unchanged is left out */
    arena_t memory;           /* what the pointers point to */
} model_dominators_t;

/* At most `max` lines, none below `min_bytes`. */
int model_dominators(const model_t *m, uint32_t max, uint64_t min_bytes, model_dominators_t *out,
                     err_t *e);
void model_dominators_free(model_dominators_t *d);

enum model_group_by {
    MODEL_BY_CLASS,
    MODEL_BY_MODULE,
    MODEL_BY_PACKAGE,
    MODEL_BY_THREAD,
    MODEL_BY_TASK
};

typedef struct model_group {
    char *name; /* "app", "thread MainThread", "(shared)": dominated by none of them */
    uint64_t objects, bytes;
    uint32_t id; /* the module, thread or task; LOWTIDE_NONE where there is not one */
} model_group_t;

typedef struct model_groups {
    uint32_t count;
    model_group_t *groups; /* most bytes first; each byte in one group, but for MODEL_BY_CLASS:
                              retained bytes */
    arena_t memory;        /* what the pointers point to */
} model_groups_t;

int model_group_by(const model_t *m, int by, model_groups_t *out, err_t *e);
void model_groups_free(model_groups_t *g);

/* ---- Garbage ---- */

/* A strongly connected part of the garbage: why reference counting alone could not free it. */
typedef struct model_cycle {
    uint64_t objects,
        bytes; /* of all cycles alike (same types, same closing edge), with what hangs on them */
    model_span_t *spans; /* where those objects are in dominator order, lowest first */
    size_t span_count;
    uint64_t count;    /* how many alike */
    uint32_t from, to; /* an example of the edge that closes it */
    const char *from_type, *to_type;
    char *edge; /* "Node.parent", "Handler.callbacks[…]" */
    char *text; /* the cycle as one line: "Node.children > list[…] > Node.parent" */
} model_cycle_t;

typedef struct model_cycles {
    uint32_t count;
    model_cycle_t *cycles; /* most bytes first */
    arena_t memory;        /* what the pointers point to */
} model_cycles_t;

int model_cycles(const model_t *m, uint32_t max, model_cycles_t *out, err_t *e);
void model_cycles_free(model_cycles_t *c);

/* ---- Findings (findings/findings.h has the table) ---- */

typedef struct model_finding {
    const char *kind; /* "leak-suspect", "garbage-cycle", … as in schema 1 */
    char *title;
    uint64_t bytes, objects; /* what the fix returns */
    char *type;              /* or NULL */
    char *path;              /* or NULL */
    bool expression;         /* path is one */
    char *site_file;         /* or NULL: not known from this recording */
    uint32_t site_line;
    char *site_function;
    char *site_source;  /* the text of that line, or NULL */
    double site_share;  /* of what is named, made by a line that made less than half; else 0 */
    char *held_at_peak; /* of temporary-peak: the path that held it then; or NULL */
    char *fix;
    const char *confidence;    /* "high", "medium", "low" */
    bool late;                 /* the program has ended: the fix would return nothing any more */
    const model_span_t *spans; /* its objects in the heap, lowest first; none of other memory */
    size_t span_count;
    uint64_t within_bytes; /* so many of its bytes are in findings before it, too … */
    uint32_t within;       /* … most of them in that one; LOWTIDE_NONE: in none */
} model_finding_t;

typedef struct model_findings {
    uint32_t count;
    model_finding_t *findings; /* most bytes first, and the late ones behind the others */
    arena_t memory;            /* what the pointers point to */
} model_findings_t;

int model_findings(const model_t *m, model_findings_t *out, err_t *e);
/* When all are there, in their order: which bytes are told twice. What findings return together of what is kept is the sum of bytes −
 * within_bytes, without temporary-peak: that is by how much the peak falls, a sum of its own (of memory that may be allocator-retention's now). */
int model_findings_within(const model_t *m, model_findings_t *out, err_t *e);
void model_findings_free(model_findings_t *f);

/* ---- Diff of recordings, oldest first ---- */

typedef struct model_growth {
    char *type;
    char *path; /* NULL in the list by type */
    bool expression;
    uint64_t *retained_bytes; /* one of each recording: of the type's group, or of what stands at
                                 the path */
    uint64_t *count;          /* instances, or entries of a container (else retained objects) */
    int64_t grown_bytes;      /* last − first */
    int64_t grown_count;
    bool steady; /* grew from each recording to the next */
} model_growth_t;

typedef struct model_diff {
    uint32_t recordings;
    uint32_t type_count, path_count;
    model_growth_t *types,
        *paths; /* most grown bytes first; shrunk ones last; unchanged ones left out */
    model_findings_t findings; /* growing-container */
    arena_t memory;            /* what the pointers point to */
} model_diff_t;

/* n ≥ 2. Of one process (same pid and start) objects are matched by address and type, else by path.
 */
int model_diff(const model_t *const *models, uint32_t n, model_diff_t *out, err_t *e);
void model_diff_free(model_diff_t *d);

#endif
