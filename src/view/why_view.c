#define _GNU_SOURCE
#include "view/why_view.h"

#include "base/mem.h"
#include "view/json.h"
#include "view/profile_view.h"
#include "view/units.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES_CELLS = 10, COUNT_CELLS = 11, GAP = 2, STEPS_MAX = 12, UNTOUCHED_MIN_BYTES = 1 << 20 };

/* Of a type, those instances that nothing leads to but what is to be avoided are told by the type's name alone: they
 * are counted, and are no route. */
static int drop_unreached(why_t *w, const model_avoid_t *avoid, err_t *e) {
    const char *type = model_type_name(w->model, w->found.ids[0]);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < w->routes.count; i++) {
        const model_route_t *r = &w->routes.routes[i];
        bool reached = true;
        if (strcmp(r->text, type) == 0) {
            model_paths_t paths;
            int status = model_why(w->model, r->example, avoid, 1, &paths, e);
            if (status) return status;
            reached = paths.count > 0;
            model_paths_free(&paths);
        }
        if (reached)
            w->routes.routes[kept++] = *r;
        else
            w->unreached += r->count;
    }
    w->routes.count = kept;
    return 0;
}

static int order_compare(const void *a, const void *b) {
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* The profile, joined with the heap, and what was found by its places there. */
static int build_made(why_t *w, err_t *e) {
    w->orders = mem_alloc((w->found.count + 1) * sizeof *w->orders);
    if (!w->orders) return err_set(e, -ENOMEM, "no memory for the allocation profile");
    for (uint64_t i = 0; i < w->found.count; i++)
        w->orders[i] = model_order(w->model, w->found.ids[i]);
    qsort(w->orders, w->found.count, sizeof *w->orders, order_compare);
    int status = profile_build(model_recording(w->model), model_namer(w->model), &w->profile, e);
    return status ? status : profile_join(w->profile, w->model, NULL, e);
}

static profile_kept_t kept(const why_t *w) {
    return (profile_kept_t){
        .model = w->model, .when = PROFILE_AT_END, .orders = w->orders, .count = w->found.count};
}

int why_build(why_t *w, const model_avoid_t *avoid, err_t *e) {
    int made = build_made(w, e);
    if (made) return made;
    if (w->found.what == MODEL_WHAT_OBJECT)
        return model_why(w->model, w->found.ids[0], avoid, w->most, &w->paths, e);
    int status = model_routes_of(w->model, w->found.ids, w->found.count, avoid, &w->routes, e);
    bool avoiding = avoid->id_count || avoid->type_count;
    return status || !avoiding || !w->found.count ? status : drop_unreached(w, avoid, e);
}

void why_free(why_t *w) {
    model_paths_free(&w->paths);
    model_routes_free(&w->routes);
    profile_free(w->profile);
    mem_free(w->orders);
}

static uint64_t address_of(const why_t *w, uint32_t id) {
    lowtide_object o;
    lowtide_error e;
    if (id >= model_objects(w->model)) return 0;
    return lowtide_object_at(model_recording(w->model), id, &o, &e) ? 0 : o.address;
}

/* ---- Text ---- */

static void made_text(const why_t *w, const screen_t *s) {
    char line[1024];
    profile_share_t most;
    const profile_kept_t of = kept(w);
    if (!profile_maker_say(w->profile, &of, s, s->width, line, sizeof line, &most)) return;
    screen_dim(s, line, s->width);
    screen_end(s);
}

/* The runtime and its interpreters stand first on every path and say nothing. */
static bool is_told(const why_t *w, uint32_t id) {
    if (id >= model_objects(w->model)) return true;
    lowtide_recording *rec = model_recording(w->model);
    int kind = lowtide_shape_at(rec, model_shape(w->model, id))->kind;
    return kind != LOWTIDE_SHAPE_RUNTIME && kind != LOWTIDE_SHAPE_INTERPRETER;
}

/* The object goes when that does. */
static bool holds_alone(const why_t *w, uint32_t id) {
    uint32_t object = w->found.ids[0];
    return id != object && id < model_objects(w->model) && model_dominates(w->model, id, object);
}

static void step_text(const why_t *w, const screen_t *s, uint32_t id) {
    enum { PLACE_CELLS = 16, WIDE = 60 };
    char size[UNITS_BYTES], place[32] = "";
    const char *type = model_type_name(w->model, id);
    uint64_t address = address_of(w, id);
    int rest = s->width - BYTES_CELLS - 2 - GAP;
    if (!is_told(w, id)) return;
    fprintf(s->file, "%*s %s", BYTES_CELLS, units_size(size, model_retained(w->model, id)),
            holds_alone(w, id) ? "*" : " ");
    if (s->width >= WIDE) {
        if (address) snprintf(place, sizeof place, "0x%" PRIx64, address);
        screen_style(s, STYLE_DIM);
        fprintf(s->file, "%*s", PLACE_CELLS, place);
        screen_style(s, STYLE_PLAIN);
        rest -= PLACE_CELLS;
    }
    screen_gap(s, GAP);
    screen_text(s, type, strlen(type), rest);
    screen_end(s);
}

/* The steps of a path, root's side first; of a long one, both ends. */
static void steps_text(const why_t *w, const screen_t *s, const model_path_t *p) {
    char count[UNITS_BYTES], line[64];
    for (uint32_t i = 0; i < p->length; i++) {
        if (p->length > STEPS_MAX && i == STEPS_MAX / 2) {
            uint32_t left_out = p->length - STEPS_MAX;
            snprintf(line, sizeof line, "%s %s steps", screen_symbol(s, "…", "..."),
                     units_count(count, left_out));
            screen_gap(s, BYTES_CELLS + GAP);
            screen_dim(s, line, s->width - BYTES_CELLS - GAP);
            screen_end(s);
            i += left_out;
        }
        step_text(w, s, p->nodes[i]);
    }
}

static void advice_text(const why_t *w, const screen_t *s) {
    char line[160];
    bool alone = false;
    for (uint32_t i = 0; i < w->paths.paths[0].length; i++)
        alone = alone || (is_told(w, w->paths.paths[0].nodes[i]) &&
                          holds_alone(w, w->paths.paths[0].nodes[i]));
    if (w->paths.more)
        snprintf(line, sizeof line, "There are more paths; --paths %" PRIu32 " shows them.",
                 w->paths.count * 2);
    else if (w->paths.count > 1)
        snprintf(line, sizeof line, "All %" PRIu32 " paths must go before the object does.",
                 w->paths.count);
    else
        line[0] = 0;
    if (line[0] || alone) screen_end(s);
    if (line[0]) screen_wrapped(s, line, 0, s->width);
    if (alone)
        screen_wrapped(s, "What is marked * holds it alone: when that goes, or lets go, it goes.",
                       0, s->width);
}

static void object_text(const why_t *w, const screen_t *s) {
    const model_t *m = w->model;
    uint32_t id = w->found.ids[0];
    char line[320], size[UNITS_BYTES], shallow[UNITS_BYTES], count[UNITS_BYTES];
    uint32_t objects = model_retained_objects(m, id);
    snprintf(line, sizeof line, "%.200s keeps %s alive: %s object%s, %s of its own",
             model_type_name(m, id), units_size(size, model_retained(m, id)),
             units_count(count, objects), objects == 1 ? "" : "s",
             units_size(shallow, model_shallow(m, id)));
    screen_style(s, STYLE_BOLD);
    screen_wrapped(s, line, 0, s->width);
    screen_style(s, STYLE_PLAIN);
    uint64_t untouched = model_retained_untouched(m, id);
    if (untouched >= UNTOUCHED_MIN_BYTES) {
        snprintf(line, sizeof line,
                 "%s more was set aside and never touched: that is no memory yet.",
                 units_size(size, untouched));
        screen_wrapped(s, line, 0, s->width);
    }
    made_text(w, s);
    if (model_is_garbage(m, id)) {
        screen_wrapped(s, "Nothing holds it: it is garbage, and gc.collect() would free it.", 0,
                       s->width);
        return;
    }
    if (model_has_surplus(m, id))
        screen_wrapped(s, "C code holds references to it that no object accounts for.", 0,
                       s->width);
    if (!w->paths.count) {
        screen_wrapped(s, "Nothing leads to it but what is to be avoided.", 0, s->width);
        return;
    }
    for (uint32_t i = 0; i < w->paths.count; i++) {
        const model_path_t *p = &w->paths.paths[i];
        screen_end(s);
        screen_style(s, STYLE_ACCENT);
        screen_text(s, p->text, strlen(p->text), s->width);
        screen_style(s, STYLE_PLAIN);
        screen_end(s);
        steps_text(w, s, p);
    }
    advice_text(w, s);
}

static void routes_headline(const why_t *w, const screen_t *s) {
    uint32_t types;
    const model_type_t *type = &model_types(w->model, &types)[w->found.type];
    char count[UNITS_BYTES], size[UNITS_BYTES], line[600];
    snprintf(line, sizeof line, "%.200s: %s object%s keep%s %s alive", type->name,
             units_count(count, w->found.count), w->found.count == 1 ? "" : "s",
             w->found.count == 1 ? "s" : "", units_size(size, type->retained_bytes));
    screen_style(s, STYLE_BOLD);
    screen_wrapped(s, line, 0, s->width);
    screen_style(s, STYLE_PLAIN);
    made_text(w, s);
    /* What most of them have in common; less is no answer. */
    if (!w->routes.count || w->routes.routes[0].count * 2 < w->routes.total) return;
    char total[UNITS_BYTES];
    const model_route_t *first = &w->routes.routes[0];
    snprintf(line, sizeof line, "%s of %s through %.400s", units_count(count, first->count),
             units_count(total, w->routes.total), first->through ? first->through : first->text);
    screen_text(s, line, strlen(line), s->width);
    screen_end(s);
}

static void routes_text(const why_t *w, const screen_t *s) {
    char text[UNITS_BYTES];
    routes_headline(w, s);
    if (w->unreached) {
        char line[160];
        snprintf(line, sizeof line, "Nothing leads to %s of them but what is to be avoided.",
                 w->unreached == w->found.count ? "any" : units_count(text, w->unreached));
        screen_wrapped(s, line, 0, s->width);
    }
    if (!w->routes.count) return;
    screen_end(s);
    screen_style(s, STYLE_DIM);
    fprintf(s->file, "%*s%*s  path", BYTES_CELLS, "retained", COUNT_CELLS, "count");
    screen_style(s, STYLE_PLAIN);
    screen_end(s);
    int figures = BYTES_CELLS + COUNT_CELLS + GAP;
    uint32_t shown = w->routes.count < w->most ? w->routes.count : w->most;
    for (uint32_t i = 0; i < shown; i++) {
        const model_route_t *r = &w->routes.routes[i];
        fprintf(s->file, "%*s", BYTES_CELLS, units_size(text, r->retained_bytes));
        fprintf(s->file, "%*s", COUNT_CELLS, units_count(text, r->count));
        screen_gap(s, GAP);
        screen_text(s, r->text, strlen(r->text), s->width - figures);
        screen_end(s);
    }
    if (shown < w->routes.count) {
        char line[96];
        snprintf(line, sizeof line, "%s %s more kinds of path; --paths %" PRIu32 " shows them",
                 screen_symbol(s, "…", "..."), units_count(text, w->routes.count - shown),
                 w->routes.count);
        screen_gap(s, figures);
        screen_dim(s, line, s->width - figures);
        screen_end(s);
    }
}

void why_text(const why_t *w, const screen_t *s) {
    if (w->found.what == MODEL_WHAT_OBJECT)
        object_text(w, s);
    else
        routes_text(w, s);
}

/* ---- JSON ---- */

static void place_json(const why_t *w, json_t *j, const char *key, uint32_t id) {
    char text[32];
    uint64_t address = address_of(w, id);
    snprintf(text, sizeof text, "0x%" PRIx64, address);
    json_text(j, key, address ? text : NULL);
}

static void path_json(const why_t *w, json_t *j, const model_path_t *p) {
    json_open(j, NULL, '{');
    json_text(j, "path", p->text);
    json_bool(j, "expression", p->expression);
    json_open(j, "steps", '[');
    for (uint32_t i = 0; i < p->length; i++) {
        json_open(j, NULL, '{');
        json_text(j, "type", model_type_name(w->model, p->nodes[i]));
        place_json(w, j, "address", p->nodes[i]);
        json_uint(j, "retained_bytes", model_retained(w->model, p->nodes[i]));
        json_bool(j, "dominates", holds_alone(w, p->nodes[i]));
        json_close(j);
    }
    json_close(j);
    json_close(j);
}

static void object_json(const why_t *w, json_t *j, const char *object) {
    const model_t *m = w->model;
    uint32_t id = w->found.ids[0];
    json_text(j, "object", object);
    json_text(j, "type", model_type_name(m, id));
    place_json(w, j, "address", id);
    json_uint(j, "count", 1);
    json_uint(j, "shallow_bytes", model_shallow(m, id));
    json_uint(j, "retained_bytes", model_retained(m, id));
    json_uint(j, "retained_objects", model_retained_objects(m, id));
    json_uint(j, "untouched_bytes", model_retained_untouched(m, id));
    json_bool(j, "garbage", model_is_garbage(m, id));
    json_bool(j, "held_by_c", model_has_surplus(m, id));
    json_open(j, "paths", '[');
    for (uint32_t i = 0; i < w->paths.count; i++) path_json(w, j, &w->paths.paths[i]);
    json_close(j);
    json_bool(j, "more", w->paths.more);
}

static void type_json(const why_t *w, json_t *j) {
    uint32_t types;
    const model_type_t *type = &model_types(w->model, &types)[w->found.type];
    json_null(j, "object");
    json_text(j, "type", type->name);
    json_uint(j, "count", w->found.count);
    json_uint(j, "shallow_bytes", type->shallow_bytes);
    json_uint(j, "retained_bytes", type->retained_bytes);
    json_open(j, "paths", '[');
    for (uint32_t i = 0; i < w->routes.count && i < w->most; i++) {
        const model_route_t *r = &w->routes.routes[i];
        json_open(j, NULL, '{');
        json_text(j, "path", r->text);
        json_text(j, "through", r->through);
        json_uint(j, "count", r->count);
        json_uint(j, "shallow_bytes", r->shallow_bytes);
        json_uint(j, "retained_bytes", r->retained_bytes);
        place_json(w, j, "example", r->example);
        json_close(j);
    }
    json_close(j);
    json_bool(j, "more", w->routes.count > w->most);
    json_uint(j, "without_path", w->unreached);
}

int why_json(const why_t *w, FILE *file, err_t *e) {
    model_path_t own = {0};
    if (w->found.what == MODEL_WHAT_OBJECT) {
        int status = model_path_to(w->model, w->found.ids[0], &own, e);
        if (status) return status;
    }
    json_t j;
    json_init(&j, file);
    json_open(&j, NULL, '{');
    json_uint(&j, "schema", 1);
    if (w->found.what == MODEL_WHAT_OBJECT)
        object_json(w, &j, own.text);
    else
        type_json(w, &j);
    const profile_kept_t of = kept(w);
    profile_makers_json(w->profile, &of, &j);
    json_close(&j);
    model_path_free(&own);
    return 0;
}
