/* Paths: which nodes lie on the way to an object, and how a Python programmer says that way.
 */
#ifndef LOWTIDE_EXPLAIN_PATH_H
#define LOWTIDE_EXPLAIN_PATH_H

#include "base/strbuf.h"
#include "base/vec.h"
#include "explain/model_data.h"

VEC_DEFINE(path_ids, uint32_t);

/* One reference. */
typedef struct path_edge {
    lowtide_label label;
    uint32_t index; /* among the repeated ones */
    uint32_t key;   /* of a VALUE: the key object; else LOWTIDE_NONE */
} path_edge_t;

/* The best-named owning reference from one object to another; -ENOENT: there is none. */
int path_edge_of(const model_t *m, uint32_t from, uint32_t to, path_edge_t *out, err_t *e);

/* The nodes of the best path, first to last. A virtual node stands first where the path does not
 * begin at object 0. */
int path_nodes(const model_t *m, uint32_t id, path_ids_t *nodes, err_t *e);

enum path_style {
    PATH_EXACT,
    PATH_SHAPE /* keys and indexes left open: app.cache[…].history[…] */
};
/* The text of a path and whether it is a Python expression. The middle of a long path is left out.
 */
int path_say(const model_t *m, const uint32_t *nodes, size_t count, int style, strbuf_t *out,
             bool *expression, err_t *e);

/* A way within the heap: "Node.children[…].parent". The first node is said by its type. */
int path_say_from(const model_t *m, const uint32_t *nodes, size_t count, strbuf_t *out, err_t *e);

/* "function app.handler", "module app", "app.User": one object in a word or two. */
int path_describe(const model_t *m, uint32_t id, strbuf_t *out, err_t *e);

/* Text and nodes of a path for the caller to keep. */
int path_finish(const model_t *m, const path_ids_t *nodes, model_path_t *out, err_t *e);

/* The text of an object's best path, in an arena. */
int path_text(const model_t *m, uint32_t id, int style, arena_t *arena, char **text,
              bool *expression, err_t *e);

/* For each object who refers to it on a short path from object 0 that passes nothing avoided, or
 * LOWTIDE_NONE; to be given back by mem_unmap. */
int path_tree_avoiding(const model_t *m, const model_avoid_t *avoid, uint32_t **via, err_t *e);

#endif
