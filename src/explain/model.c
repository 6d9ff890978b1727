#include "explain/model_data.h"

#include "base/mem.h"
#include "explain/names.h"

#include <errno.h>

static uint64_t model_sum_bits(const model_t *m, const uint64_t *bits, uint64_t *bytes) {
    uint64_t count = 0;
    *bytes = 0;
    for (size_t word = 0; word < graph_words(m->g.n); word++) {
        for (uint64_t rest = bits[word]; rest; rest &= rest - 1) {
            *bytes += graph_shallow(&m->g, (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(rest));
            count++;
        }
    }
    return count;
}

static void model_sum_node(const model_t *m, int node, uint64_t *objects, uint64_t *bytes) {
    uint32_t id = model_node(m, node);
    *bytes = model_retained(m, id);
    *objects = model_retained_objects(m, id) - 1;
}

static void model_count(model_t *m) {
    model_totals_t *t = &m->totals;
    t->references = m->g.references;
    t->shallow_bytes = m->tree.sum[m->tree.count];
    t->untouched_bytes = model_retained_untouched(m, model_node(m, MODEL_NODE_ROOT));
    for (uint32_t id = 0; id < m->g.n; id++)
        t->objects += model_shape_of(m, id)->kind == LOWTIDE_SHAPE_OBJECT;
    model_sum_node(m, MODEL_NODE_GARBAGE, &t->unreachable_objects, &t->unreachable_bytes);
    model_sum_node(m, MODEL_NODE_C, &t->native_objects, &t->native_bytes);
    t->immortal_objects = model_sum_bits(m, m->g.immortal, &t->immortal_bytes);
}

static int model_dominate(model_t *m, err_t *e) {
    uint32_t *idom = m->order.parent;
    uint64_t *room = mem_map(2 * m->g.spare.bytes);
    m->order.parent = NULL;
    int status = -ENOMEM;
    if (room) {
        status =
            dom_find(m->order.count, m->order.pred_begin, m->order.pred, idom, room, &m->g.spare);
    }
    if (status) {
        spare_give(&m->g.spare, idom);
        mem_unmap(room, 2 * m->g.spare.bytes);
        return err_set(e, status, "no memory for the dominators of %u objects", m->g.n);
    }
    return dom_tree_build(&m->tree, &m->order, idom, room, &m->g, e);
}

static int model_explain(model_t *m, err_t *e) {
    int status = graph_load(&m->g, m->rec, e);
    if (status) return status;
    if ((status = order_build(&m->order, &m->g, e))) return status;
    if ((status = order_predecessors(&m->order, &m->g, e))) return status;
    if ((status = model_dominate(m, e))) return status;
    spare_free(&m->g.spare);
    m->costs = label_costs_of(m->rec, &m->arena);
    if (!m->costs) return err_set(e, -ENOMEM, "no memory for the shapes of the recording");
    if ((status = types_build(m, e))) return status;
    model_count(m);
    return names_build(m, e);
}

int model_build(lowtide_recording *rec, model_t **out, err_t *e) {
    model_t *m = mem_alloc(sizeof *m);
    *out = NULL;
    if (!m) return err_set(e, -ENOMEM, "no memory for a model");
    *m = (model_t){.rec = rec};
    int status = model_explain(m, e);
    if (status) {
        model_free(m);
        return status;
    }
    *out = m;
    return 0;
}

void model_free(model_t *m) {
    if (!m) return;
    dom_tree_free(&m->tree, &m->g.spare);
    order_free(&m->order, &m->g.spare);
    graph_free(&m->g);
    names_free(m->names);
    arena_free(&m->arena);
    mem_free(m);
}

int model_read(const model_t *m, uint32_t id, lowtide_object *out, err_t *e) {
    lowtide_error error;
    int status = lowtide_object_at(m->rec, id, out, &error);
    return status ? err_set(e, status, "%s", error.text) : 0;
}

lowtide_recording *model_recording(const model_t *m) {
    return m->rec;
}
void model_name_by(model_t *m, const namer_t *namer) {
    m->namer = namer;
}
const namer_t *model_namer(const model_t *m) {
    return m->namer;
}
const model_totals_t *model_totals(const model_t *m) {
    return &m->totals;
}
uint32_t model_objects(const model_t *m) {
    return m->g.n;
}
uint32_t model_node(const model_t *m, int virtual_node) {
    return m->g.n + (uint32_t)virtual_node;
}
uint32_t model_shape(const model_t *m, uint32_t id) {
    return m->g.shape[id];
}
uint64_t model_shallow(const model_t *m, uint32_t id) {
    return id < m->g.n ? graph_shallow(&m->g, id) : 0;
}
uint64_t model_untouched(const model_t *m, uint32_t id) {
    return untouched_of(&m->g.untouched, id);
}

uint64_t model_retained_untouched(const model_t *m, uint32_t id) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < m->g.untouched.count; i++) {
        const untouched_row_t *row = &m->g.untouched.at[i];
        if (model_dominates(m, id, row->id)) bytes += row->bytes;
    }
    return bytes;
}

uint32_t model_order(const model_t *m, uint32_t id) {
    return m->tree.place[id];
}
uint32_t model_at(const model_t *m, uint32_t order) {
    return m->tree.id[order];
}
uint32_t model_retained_objects(const model_t *m, uint32_t id) {
    return m->tree.size[m->tree.place[id]];
}

uint64_t model_retained(const model_t *m, uint32_t id) {
    uint32_t place = m->tree.place[id];
    return m->tree.sum[place + m->tree.size[place]] - m->tree.sum[place];
}

uint32_t model_idom(const model_t *m, uint32_t id) {
    uint32_t place = m->tree.place[id];
    return place ? m->tree.id[m->tree.idom[place]] : LOWTIDE_NONE;
}

bool model_dominates(const model_t *m, uint32_t a, uint32_t b) {
    return m->tree.place[b] - m->tree.place[a] < m->tree.size[m->tree.place[a]];
}

bool model_is_garbage(const model_t *m, uint32_t id) {
    return id < m->g.n && model_dominates(m, model_node(m, MODEL_NODE_GARBAGE), id);
}
bool model_is_immortal(const model_t *m, uint32_t id) {
    return id < m->g.n && graph_bit(m->g.immortal, id);
}
bool model_has_surplus(const model_t *m, uint32_t id) {
    return id < m->g.n && graph_bit(m->g.surplus, id);
}

/* Virtual nodes were put behind the objects of a row (order_predecessors), so they are cut off at
 * its end. */
uint32_t model_referrers(const model_t *m, uint32_t id, const uint32_t **ids) {
    uint32_t row = m->order.number[id];
    uint32_t begin = m->order.pred_begin[row], end = m->order.pred_begin[row + 1];
    while (end > begin && m->order.pred[end - 1] >= m->g.n) end--;
    *ids = m->order.pred + begin;
    return end - begin;
}
