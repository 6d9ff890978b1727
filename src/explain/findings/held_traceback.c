/* held-traceback: an exception that is kept keeps its traceback, that the frames, and those every
 * local they had. */
#include "explain/findings/findings.h"
#include "explain/names.h"

#include <string.h>

enum { TRACEBACK_MIN_BYTES = 1 << 20 };

static const char *traceback_type_name = "traceback";

static bool traceback_is(const model_t *m, uint32_t id) {
    return id < m->g.n && strcmp(model_type_name(m, id), traceback_type_name) == 0;
}

/* The exception whose traceback it is, or what else refers to it. */
static int traceback_holder(findings_t *f, uint32_t id, uint32_t *holder) {
    const uint32_t *from;
    uint32_t count = model_referrers(f->m, id, &from), found;
    *holder = id;
    for (uint32_t k = 0; k < count; k++) {
        int status = names_field(f->m, from[k], "__traceback__", 13, &found, f->e);
        if (status) return status;
        if (found == id) {
            *holder = from[k];
            return 0;
        }
    }
    return 0;
}

static int traceback_report(findings_t *f, const model_route_t *r) {
    char number[32], size[32];
    uint32_t holder;
    int status = traceback_holder(f, r->example, &holder);
    if (status) return status;
    model_finding_t *x = findings_add(f, "held-traceback");
    if (!x) return findings_no_memory(f);
    x->bytes = r->retained_bytes;
    x->objects = r->count;
    x->type = (char *)model_type_name(f->m, holder);
    x->confidence = "high";
    status = findings_name(f, x, r->orders, r->count);
    if (status) return status;
    status = path_text(f->m, holder, r->count == 1 ? PATH_EXACT : PATH_SHAPE, &f->out->memory,
                       &x->path, &x->expression, f->e);
    if (status) return status;
    x->title = findings_text(
        f, "%s kept exception%s at %s keep%s the locals of the frames they passed: %s",
        findings_count(r->count, number), r->count == 1 ? "" : "s", x->path,
        r->count == 1 ? "s" : "", findings_bytes(r->retained_bytes, size));
    x->fix = findings_text(
        f,
        "keep str(exc) or traceback.format_exc() in place of the exception at %s; or drop what it "
        "holds: "
        "exc.__traceback__ = None or traceback.clear_frames(exc.__traceback__), del exc after the "
        "handler, raise … from None",
        x->path);
    return x->title && x->fix ? 0 : findings_no_memory(f);
}

int finding_held_traceback(findings_t *f) {
    const model_t *m = f->m;
    const dom_tree_t *t = &m->tree;
    path_ids_t ids = {0};
    model_routes_t routes = {0};
    int status = 0;
    uint32_t type = 0;
    while (type < m->type_count && strcmp(m->types[type].name, traceback_type_name) != 0) type++;
    if (type == m->type_count || m->types[type].retained_bytes < TRACEBACK_MIN_BYTES) return 0;
    for (uint32_t p = 0; p < t->count && !status;) {
        uint32_t id = t->id[p];
        if (id == model_node(m, MODEL_NODE_GARBAGE)) {
            p += t->size[p];
        } else if (traceback_is(m, id)) {
            /* The first of a chain; the rest hangs from it by tb_next. */
            status = path_ids_push(&ids, id) ? findings_no_memory(f) : 0;
            p += t->size[p];
        } else {
            p++;
        }
    }
    if (!status) status = model_routes_of(m, ids.at, ids.count, NULL, &routes, f->e);
    for (uint32_t i = 0; i < routes.count && !status; i++) {
        if (routes.routes[i].retained_bytes >= TRACEBACK_MIN_BYTES)
            status = traceback_report(f, &routes.routes[i]);
    }
    model_routes_free(&routes);
    path_ids_free(&ids);
    return status;
}
