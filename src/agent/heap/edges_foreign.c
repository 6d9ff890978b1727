#include "agent/heap/edges.h"

#include "agent/heap/special.h"

#include <errno.h>

/* How many references the targets that tp_traverse tells are compared with. */
enum { FOREIGN_KNOWN_MAX = 128 };

typedef struct known {
    uint32_t ids[FOREIGN_KNOWN_MAX];
    uint32_t count;
} known_t;

static int edges_visit(void *object, void *arg) {
    walk_t *k = arg;
    if (u64_vec_push(&k->visited, (uint64_t)(uintptr_t)object)) return walk_fail(k, -ENOMEM);
    return 0;
}

static void known_add(known_t *known, uint32_t id) {
    if (id != REC_NULL && known->count < FOREIGN_KNOWN_MAX) known->ids[known->count++] = id;
}

static bool known_take(known_t *known, uint32_t id) {
    for (uint32_t i = 0; i < known->count; i++) {
        if (known->ids[i] != id) continue;
        known->ids[i] = known->ids[--known->count];
        return true;
    }
    return false;
}

/* Those of the fixed edges that the C base's own tp_traverse tells too. */
static void known_collect(walk_t *k, const kind_t *t, known_t *known) {
    known_add(known, k->edges.at[0]);
    for (uint32_t i = 0; i < t->base_field_count; i++)
        if (!t->fields[i].label.borrowed) known_add(known, k->edges.at[1 + i]);
    if (!t->base_has_dict) return;
    for (uint32_t i = 1 + t->field_count; i < t->fixed_count; i++) known_add(known, k->edges.at[i]);
}

/* A member that the first instance's tp_traverse did not tell, though the collector would care for what is there, is kept
 * without a reference (sqlite3.Connection's exceptions). Told before the shape is made. */
static void known_borrowed(walk_t *k, kind_t *t, const known_t *left) {
    for (uint32_t i = 0; i < t->base_field_count; i++) {
        rt_addr_t v = rt_ptr(k->address, t->fields[i].offset);
        uint32_t id = k->edges.at[1 + i];
        bool told = true;
        for (uint32_t n = 0; n < left->count; n++) told = told && left->ids[n] != id;
        if (t->fields[i].owned) continue;
        if (v && id != REC_NULL && !told && rt_has_gc_head(k->rt, v, rt_type(k->rt, v)))
            t->fields[i].label.borrowed = 1;
    }
}

static void edges_told(walk_t *k, kind_t *t, known_t *known) {
    k->visited.count = 0;
    t->traverse((void *)k->address, edges_visit, k);
    if (t->has_links) special_links(k, k->address);
    for (size_t i = 0; i < k->visited.count; i++) {
        uint32_t id = walk_mention(k, k->visited.at[i]);
        if (id != REC_NULL && !known_take(known, id)) walk_edge_id(k, id);
    }
}

void edges_metatype(walk_t *k, kind_t *t) {
    known_t known = {.count = 0};
    for (size_t i = 0; i < k->edges.count; i++) known_add(&known, k->edges.at[i]);
    edges_told(k, t, &known);
}

/* What tp_traverse tells, less what the fixed labels have told: each owned reference once. */
edges_form_t edges_traverse(walk_t *k, kind_t *t) {
    if (t->traverse) {
        known_t known = {.count = 0};
        known_collect(k, t, &known);
        edges_told(k, t, &known);
        if (t->shape[0] == LOWTIDE_NONE) known_borrowed(k, t, &known);
    }
    uint32_t shape = t->shape[0];
    if (shape == LOWTIDE_NONE) {
        rec_label_t repeat = {LOWTIDE_REFERENCE, 0, LOWTIDE_NONE};
        shape = kind_shape_make(k, t, 0, 0, 1, &repeat);
    }
    return (edges_form_t){shape, t->fixed_count, 1};
}
