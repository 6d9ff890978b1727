/* thread-leak: many threads alive that run the same function. */
#include "explain/findings/findings.h"

#include "base/mem.h"
#include "explain/names.h"
#include "explain/open_resources.h"

#include <stdlib.h>
#include <string.h>

/* A pool has as many as it was allowed, by default no more than 32. */
enum { THREADS_MIN = 64, POOL_THREADS_MIN = 256, AVOID_MOST = 16384 };

/* Threads that run one function. */
typedef struct crowd {
    uint32_t target; /* of the first that was met; LOWTIDE_NONE: by type alone */
    uint32_t type, first;
    uint64_t count, bytes;
} crowd_t;

typedef struct search {
    findings_t *f;
    model_resources_t all;
    uint32_t *target; /* of each row, or LOWTIDE_NONE: no thread of Python's */
    crowd_t *crowds;
    uint32_t crowd_count;
    uint32_t *ids;
} search_t;

/* The function that a thread runs: of a bound method, the function; without a target, its class has a run of its own. */
static int target_of(const model_t *m, uint32_t id, uint32_t *out, err_t *e) {
    uint32_t inner;
    int status = resource_attribute(m, id, "_target", out, e);
    if (status || *out == LOWTIDE_NONE) return status;
    if (strcmp(model_type_name(m, *out), "NoneType") == 0) *out = LOWTIDE_NONE;
    if (*out == LOWTIDE_NONE || strcmp(model_type_name(m, *out), "method") != 0) return 0;
    status = names_field(m, *out, "__func__", 8, &inner, e);
    if (!status && inner != LOWTIDE_NONE) *out = inner;
    return status;
}

static crowd_t *crowd_of(search_t *s, uint32_t target, uint32_t type, uint32_t row) {
    for (uint32_t i = 0; i < s->crowd_count; i++) {
        crowd_t *c = &s->crowds[i];
        if (c->type == type && c->target == target) return c;
    }
    s->crowds[s->crowd_count] = (crowd_t){.target = target, .type = type, .first = row};
    return &s->crowds[s->crowd_count++];
}

static int gather(search_t *s) {
    const model_t *m = s->f->m;
    for (uint32_t i = 0; i < s->all.count; i++) {
        const model_resource_t *x = &s->all.rows[i];
        if (strcmp(x->kind, "thread") != 0 || x->id >= m->g.n) continue;
        uint32_t target;
        int status = target_of(m, x->id, &target, s->f->e);
        if (status) return status;
        crowd_t *c = crowd_of(s, target, model_type_of(m, x->id), i);
        c->count++;
        c->bytes += x->bytes + model_retained(m, x->id);
        s->target[i] = (uint32_t)(c - s->crowds);
    }
    return 0;
}

/* Every thread is in threading's own lists and in its own frames: what else holds them is worth saying. */
static int holder_of(search_t *s, const crowd_t *c, char **path, char **through) {
    static const char *const lists[] = {"threading._active", "threading._dangling"};
    const model_t *m = s->f->m;
    uint32_t *avoid = s->ids + s->all.count, avoids = 0;
    uint64_t count = 0;
    model_found_t found;
    model_routes_t routes;
    err_t unfound;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        if (model_find(m, lists[i], &found, &unfound)) continue;
        if (found.count == 1) avoid[avoids++] = found.ids[0];
        model_found_free(&found);
    }
    for (uint32_t id = 0; id < m->g.n && avoids < AVOID_MOST; id++) {
        if (model_shape_of(m, id)->kind != LOWTIDE_SHAPE_THREAD) continue;
        lowtide_object o;
        int status = model_read(m, id, &o, s->f->e);
        if (status) return status;
        if (o.value.text_bytes != 10 || memcmp(o.value.text, "MainThread", 10) != 0)
            avoid[avoids++] = id;
    }
    for (uint32_t i = 0; i < s->all.count; i++)
        if (s->target[i] == (uint32_t)(c - s->crowds)) s->ids[count++] = s->all.rows[i].id;
    const model_avoid_t how = {.ids = avoid, .id_count = avoids};
    int status = model_routes_of(m, s->ids, count, &how, &routes, s->f->e);
    if (status) return status;
    if (routes.count && routes.routes[0].count * 2 > c->count) {
        *path = findings_text(s->f, "%s", routes.routes[0].text);
        *through = findings_text(s->f, "%s", routes.routes[0].through);
        if (!*path || !*through) status = findings_no_memory(s->f);
    }
    model_routes_free(&routes);
    return status;
}

/* Without their stacks, which are no objects. */
static int name(search_t *s, const crowd_t *c, model_finding_t *x) {
    size_t count = 0;
    for (uint32_t i = 0; i < s->all.count; i++)
        if (s->target[i] == (uint32_t)(c - s->crowds))
            s->ids[count++] = model_order(s->f->m, s->all.rows[i].id);
    return findings_name(s->f, x, s->ids, count);
}

static int report(search_t *s, const crowd_t *c) {
    findings_t *f = s->f;
    const model_resource_t *at = &s->all.rows[c->first];
    char number[32], size[32], *through = NULL, *path = NULL;
    strbuf_t what = {0};
    int status = c->target != LOWTIDE_NONE ? path_describe(f->m, c->target, &what, f->e) : 0;
    if (!status) status = holder_of(s, c, &path, &through);
    model_finding_t *x = status ? NULL : findings_add(f, "thread-leak");
    if (x) {
        const char *does =
            c->target != LOWTIDE_NONE ? strbuf_text(&what) : f->m->types[c->type].name;
        x->bytes = c->bytes;
        x->objects = c->count;
        x->type = findings_text(f, "%s", f->m->types[c->type].name);
        x->path = path;
        status = name(s, c, x);
        x->confidence = c->count >= 4 * (uint64_t)THREADS_MIN ? "high" : "medium";
        x->title =
            findings_text(f, "%s threads alive run %s%s%s: %s of stacks and their objects",
                          findings_count(c->count, number), does, through ? ", held by " : "",
                          through ? through : "", findings_bytes(c->bytes, size));
        if (at->file) {
            x->site_file = findings_text(f, "%s", at->file);
            x->site_line = at->line;
            x->site_function = findings_text(f, "%s", at->function ? at->function : "");
        }
        x->fix = findings_text(
            f,
            "end each thread when its work is done (an event or a sentinel that its loop looks at, "
            "then join()), "
            "or give the work to one concurrent.futures.ThreadPoolExecutor(max_workers=…)%s%s",
            at->file ? ". Started in " : "", at->file ? x->site_function : "");
    }
    strbuf_free(&what);
    if (status) return status;
    return x && x->type && x->title && x->fix && (!at->file || (x->site_file && x->site_function))
               ? 0
               : findings_no_memory(f);
}

static bool is_pool(const model_t *m, const crowd_t *c, err_t *e) {
    strbuf_t what = {0};
    bool pool = c->target != LOWTIDE_NONE && !path_describe(m, c->target, &what, e) &&
                (strstr(strbuf_text(&what), "concurrent.futures") ||
                 strstr(strbuf_text(&what), "multiprocessing.pool"));
    strbuf_free(&what);
    return pool;
}

int finding_thread_leak(findings_t *f) {
    search_t s = {.f = f};
    int status = model_resources(f->m, NULL, &s.all, f->e);
    if (status) return status;
    size_t n = s.all.count + (size_t)1,
           room = n * (sizeof(crowd_t) + 2 * sizeof(uint32_t)) + AVOID_MOST * sizeof(uint32_t);
    s.crowds = mem_map(room);
    if (!s.crowds) {
        status = findings_no_memory(f);
    } else {
        s.target = (uint32_t *)(s.crowds + n);
        s.ids = s.target + n;
        for (size_t i = 0; i < n; i++) s.target[i] = LOWTIDE_NONE;
        status = gather(&s);
    }
    for (uint32_t i = 0; i < s.crowd_count && !status; i++) {
        const crowd_t *c = &s.crowds[i];
        if (c->count < THREADS_MIN || (c->count < POOL_THREADS_MIN && is_pool(f->m, c, f->e)))
            continue;
        status = report(&s, c);
    }
    mem_unmap(s.crowds, room);
    model_resources_free(&s.all);
    return status;
}
