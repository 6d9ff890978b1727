#include "explain/path.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>

int path_edge_of(const model_t *m, uint32_t from, uint32_t to, path_edge_t *out, err_t *e) {
    lowtide_object o;
    int status = model_read(m, from, &o, e);
    if (status) return status;
    const lowtide_shape *shape = lowtide_shape_at(m->rec, o.shape);
    uint32_t best = LOWTIDE_NONE;
    uint8_t best_cost = 0;
    for (uint32_t k = 0; k < o.edge_count; k++) {
        if (o.edges[k] != to) continue;
        uint8_t cost = label_cost(&m->costs[o.shape], k);
        if (cost == 0 || (best != LOWTIDE_NONE && cost >= best_cost)) continue;
        best = k;
        best_cost = cost;
    }
    if (best == LOWTIDE_NONE)
        return err_set(e, -ENOENT, "object %u does not refer to object %u", from, to);
    out->key = LOWTIDE_NONE;
    out->label = lowtide_label_at(shape, best, &out->index);
    if (out->label.kind == LOWTIDE_VALUE && best > 0) out->key = o.edges[best - 1];
    return 0;
}

/* Where a path begins that no reference leads to. */
static uint32_t path_origin(const model_t *m, uint32_t id) {
    if (graph_bit(m->g.surplus, id)) return model_node(m, MODEL_NODE_C);
    if (graph_bit(m->g.immortal, id)) return model_node(m, MODEL_NODE_IMMORTAL);
    return model_node(m, model_is_garbage(m, id) ? MODEL_NODE_GARBAGE : MODEL_NODE_C);
}

int path_nodes(const model_t *m, uint32_t id, path_ids_t *nodes, err_t *e) {
    size_t begin = nodes->count;
    uint32_t at = id;
    int status = 0;
    for (; !status && at < m->g.n && at != 0 && m->g.via[at] != LOWTIDE_NONE; at = m->g.via[at]) {
        status = path_ids_push(nodes, at);
    }
    if (!status) status = path_ids_push(nodes, at);
    if (!status && at != 0 && at < m->g.n) status = path_ids_push(nodes, path_origin(m, at));
    if (status) return err_set(e, status, "no memory for a path");
    for (size_t i = begin, j = nodes->count - 1; i < j; i++, j--) {
        uint32_t id_i = nodes->at[i];
        nodes->at[i] = nodes->at[j];
        nodes->at[j] = id_i;
    }
    return 0;
}

int path_describe(const model_t *m, uint32_t id, strbuf_t *out, err_t *e) {
    lowtide_object o;
    const char *type = model_type_name(m, id);
    strbuf_puts(out, type);
    if (id >= m->g.n) return 0;
    int status = model_read(m, id, &o, e);
    if (status || o.value.kind != LOWTIDE_VALUE_NAME) return status;
    const char *end = memchr(o.value.text, 0x1F, o.value.text_bytes);
    strbuf_putc(out, ' ');
    strbuf_put(out, o.value.text, end ? (size_t)(end - o.value.text) : o.value.text_bytes);
    return 0;
}

int path_text(const model_t *m, uint32_t id, int style, arena_t *arena, char **text,
              bool *expression, err_t *e) {
    path_ids_t nodes = {0};
    strbuf_t out = {0};
    int status = path_nodes(m, id, &nodes, e);
    if (!status) status = path_say(m, nodes.at, nodes.count, style, &out, expression, e);
    if (!status) {
        *text = out.failed ? NULL : arena_text(arena, strbuf_text(&out), out.count);
        if (!*text) status = err_set(e, -ENOMEM, "no memory for a path");
    }
    path_ids_free(&nodes);
    strbuf_free(&out);
    return status;
}

int model_path_to(const model_t *m, uint32_t id, model_path_t *out, err_t *e) {
    path_ids_t nodes = {0};
    *out = (model_path_t){0};
    if (id >= m->g.n) return err_set(e, -EINVAL, "there is no object %u", id);
    int status = path_nodes(m, id, &nodes, e);
    if (!status) status = path_finish(m, &nodes, out, e);
    path_ids_free(&nodes);
    return status;
}

int path_finish(const model_t *m, const path_ids_t *nodes, model_path_t *out, err_t *e) {
    strbuf_t text = {0};
    int status = path_say(m, nodes->at, nodes->count, PATH_EXACT, &text, &out->expression, e);
    if (!status) {
        out->length = (uint32_t)nodes->count;
        out->nodes = mem_alloc(nodes->count * sizeof *out->nodes);
        out->text = text.failed ? NULL : mem_alloc(text.count + 1);
        if (out->nodes && out->text) {
            memcpy(out->nodes, nodes->at, nodes->count * sizeof *out->nodes);
            memcpy(out->text, strbuf_text(&text), text.count + 1);
        } else {
            status = err_set(e, -ENOMEM, "no memory for a path");
            model_path_free(out);
        }
    }
    strbuf_free(&text);
    return status;
}

void model_path_free(model_path_t *path) {
    mem_free(path->text);
    mem_free(path->nodes);
    *path = (model_path_t){0};
}
