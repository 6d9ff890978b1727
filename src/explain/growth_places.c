/* The places that recordings are compared by: the biggest dominators of each, looked up in the
 * others. */
#include "explain/growth.h"

#include <errno.h>
#include <string.h>

enum { PLACES_MAX = 400, PLACES_MIN_BYTES = 16 << 10 };

int growth_measure(growth_t *g, growth_line_t *line, uint32_t k, uint32_t id) {
    const model_t *m = g->models[k];
    const lowtide_shape *shape = model_shape_of(m, id);
    lowtide_object o;
    line->ids[k] = id;
    line->g.retained_bytes[k] = model_retained(m, id);
    line->g.count[k] = model_retained_objects(m, id);
    if (shape->kind != LOWTIDE_SHAPE_OBJECT || !shape->repeat_count) return 0;
    int status = model_read(m, id, &o, g->e);
    uint64_t entries = 0;
    for (uint32_t i = shape->fixed_count; !status && i < o.edge_count; i += shape->repeat_count) {
        entries += o.edges[i] != LOWTIDE_NONE;
    }
    line->g.count[k] = entries;
    return status;
}

/* The dominator list of one recording. */
static int places_add(growth_t *g, uint32_t k) {
    model_dominators_t d;
    int status = model_dominators(g->models[k], PLACES_MAX, PLACES_MIN_BYTES, &d, g->e);
    if (status) return status;
    for (uint32_t i = 0; i < d.count && !status; i++) {
        bool fresh;
        growth_line_t *line = growth_line(g, d.lines[i].path, d.lines[i].type, &fresh);
        if (!line) {
            status = growth_no_memory(g);
        } else if (d.lines[i].members == 1 && line->members == 1) {
            line->g.expression = d.lines[i].expression;
            status = growth_measure(g, line, k, d.lines[i].id);
        } else {
            line->members = 2;
            line->ids[k] = LOWTIDE_NONE;
            line->g.retained_bytes[k] += d.lines[i].retained_bytes;
            line->g.count[k] += d.lines[i].members;
        }
    }
    model_dominators_free(&d);
    return status;
}

/* The addresses of all objects that lines know of in recording k, each with its line. */
static int places_addresses(growth_t *g, uint32_t k, map_t *lines) {
    for (size_t i = 0; i < g->lines.count; i++) {
        lowtide_object o;
        uint32_t id = g->lines.at[i].ids[k];
        int fresh;
        if (id == LOWTIDE_NONE || g->lines.at[i].members > 1) continue;
        int status = model_read(g->models[k], id, &o, g->e);
        if (status) return status;
        if (!o.address) continue;
        uint32_t *at = map_put(lines, o.address, &fresh);
        if (!at) return growth_no_memory(g);
        if (fresh) *at = (uint32_t)i;
    }
    return 0;
}

/* Looks for those addresses in another recording of the same process. */
static int places_match(growth_t *g, const map_t *lines, uint32_t k) {
    const model_t *m = g->models[k];
    lowtide_chunk *c = NULL;
    lowtide_error error;
    int status = 0;
    for (uint32_t chunk = 0; chunk < lowtide_chunks(m->rec) && !status; chunk++) {
        status = lowtide_chunk_load(m->rec, chunk, LOWTIDE_COL_ADDRESS, &c, &error);
        if (status) {
            err_set(g->e, status, "%s", error.text);
            break;
        }
        for (uint32_t i = 0; i < c->count && !status; i++) {
            const uint32_t *at = c->address[i] ? map_get(lines, c->address[i]) : NULL;
            if (!at) continue;
            growth_line_t *line = &g->lines.at[*at];
            if (line->ids[k] != LOWTIDE_NONE ||
                strcmp(line->g.type, model_type_name(m, c->first + i)) != 0)
                continue;
            status = growth_measure(g, line, k, c->first + i);
        }
    }
    lowtide_chunk_free(c);
    return status;
}

static int places_by_address(growth_t *g) {
    int status = 0;
    for (uint32_t from = g->n; from-- > 0 && !status;) {
        map_t lines = {0};
        status = places_addresses(g, from, &lines);
        for (uint32_t k = 0; k < g->n && !status; k++) {
            if (k != from && lines.count) status = places_match(g, &lines, k);
        }
        map_free(&lines);
    }
    return status;
}

static int places_by_path(growth_t *g) {
    for (size_t i = 0; i < g->lines.count; i++) {
        growth_line_t *line = &g->lines.at[i];
        if (!line->g.expression || line->members > 1) continue;
        for (uint32_t k = 0; k < g->n; k++) {
            model_found_t found;
            err_t none;
            if (line->ids[k] != LOWTIDE_NONE) continue;
            int status = model_find(g->models[k], line->g.path, &found, &none);
            if (status == -ENOENT) continue;
            if (status) return err_set(g->e, status, "%s", none.text);
            bool same = found.what == MODEL_WHAT_OBJECT &&
                        strcmp(model_type_name(g->models[k], found.ids[0]), line->g.type) == 0;
            if (same) status = growth_measure(g, line, k, found.ids[0]);
            model_found_free(&found);
            if (status) return status;
        }
    }
    return 0;
}

/* One object under two names (its path changed in between) is one line: the newest name stays. */
static int places_merge(growth_t *g) {
    map_t seen = {0};
    size_t kept = 0;
    int fresh;
    for (size_t i = g->lines.count; i-- > 0;) {
        growth_line_t *line = &g->lines.at[i];
        bool twin = false;
        for (uint32_t k = 0; k < g->n && line->members == 1; k++) {
            if (line->ids[k] == LOWTIDE_NONE) continue;
            if (!map_put(&seen, (uint64_t)k << 32 | line->ids[k], &fresh)) {
                map_free(&seen);
                return growth_no_memory(g);
            }
            twin = twin || !fresh;
        }
        if (twin) line->g.type = NULL;
    }
    for (size_t i = 0; i < g->lines.count; i++) {
        if (g->lines.at[i].g.type) g->lines.at[kept++] = g->lines.at[i];
    }
    g->lines.count = kept;
    map_free(&seen);
    return 0;
}

int growth_gather(growth_t *g) {
    int status = 0;
    for (uint32_t k = 0; k < g->n && !status; k++) status = places_add(g, k);
    if (!status && g->same_process) status = places_by_address(g);
    if (!status) status = places_by_path(g);
    return status ? status : places_merge(g);
}
