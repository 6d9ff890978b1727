#include "explain/growth.h"

#include "explain/findings/findings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int growth_no_memory(growth_t *g) {
    return err_set(g->e, -ENOMEM, "no memory to compare %u recordings", g->n);
}

static uint64_t growth_hash(const char *path, const char *type) {
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (const char *p = path ? path : ""; *p; p++)
        h = (h ^ (unsigned char)*p) * UINT64_C(0x100000001B3);
    h = (h ^ 0xFF) * UINT64_C(0x100000001B3);
    for (const char *p = type; *p; p++) h = (h ^ (unsigned char)*p) * UINT64_C(0x100000001B3);
    return h >> 1;
}

growth_line_t *growth_line(growth_t *g, const char *path, const char *type, bool *fresh) {
    arena_t *arena = &g->out->memory;
    int is_new = 0;
    uint32_t *at = map_put(&g->by_text, growth_hash(path, type), &is_new);
    *fresh = is_new;
    if (!at) return NULL;
    if (!is_new) return &g->lines.at[*at];
    growth_line_t line = {.members = 1};
    line.g.path = path ? arena_text(arena, path, strlen(path)) : NULL;
    line.g.type = arena_text(arena, type, strlen(type));
    line.g.retained_bytes = arena_alloc(arena, g->n * sizeof *line.g.retained_bytes);
    line.g.count = arena_alloc(arena, g->n * sizeof *line.g.count);
    line.ids = arena_alloc(arena, g->n * sizeof *line.ids);
    if ((path && !line.g.path) || !line.g.type || !line.g.retained_bytes || !line.g.count ||
        !line.ids)
        return NULL;
    memset(line.ids, 0xFF, g->n * sizeof *line.ids);
    *at = (uint32_t)g->lines.count;
    return growth_vec_push(&g->lines, line) ? NULL : &g->lines.at[*at];
}

static void growth_finish(growth_t *g, model_growth_t *x) {
    x->grown_bytes = (int64_t)(x->retained_bytes[g->n - 1] - x->retained_bytes[0]);
    x->grown_count = (int64_t)(x->count[g->n - 1] - x->count[0]);
    x->steady = true;
    for (uint32_t k = 1; k < g->n; k++)
        x->steady = x->steady && x->retained_bytes[k] > x->retained_bytes[k - 1];
}

/* Of those that grew alike, the one with the longer path stands inside the other and is the one to
 * look at. */
static int growth_compare(const void *a, const void *b) {
    const model_growth_t *x = a, *y = b;
    if (x->grown_bytes != y->grown_bytes) return x->grown_bytes < y->grown_bytes ? 1 : -1;
    if (x->path && strlen(x->path) != strlen(y->path))
        return strlen(x->path) < strlen(y->path) ? 1 : -1;
    return strcmp(x->path ? x->path : x->type, y->path ? y->path : y->type);
}

/* The lines that changed, sorted, as a list of the result. */
static int growth_list(growth_t *g, model_growth_t **list, uint32_t *count) {
    *count = 0;
    *list = arena_alloc(&g->out->memory, (g->lines.count + 1) * sizeof **list);
    if (!*list) return growth_no_memory(g);
    for (size_t i = 0; i < g->lines.count; i++) {
        model_growth_t *x = &g->lines.at[i].g;
        growth_finish(g, x);
        if (x->grown_bytes || x->grown_count) (*list)[(*count)++] = *x;
    }
    qsort(*list, *count, sizeof **list, growth_compare);
    return 0;
}

static int growth_types(growth_t *g) {
    for (uint32_t k = 0; k < g->n; k++) {
        uint32_t count;
        const model_type_t *types = model_types(g->models[k], &count);
        for (uint32_t i = 0; i < count; i++) {
            bool fresh;
            if (types[i].type_id == LOWTIDE_NONE) continue; /* threads and the like */
            growth_line_t *line = growth_line(g, NULL, types[i].name, &fresh);
            if (!line) return growth_no_memory(g);
            line->g.retained_bytes[k] += types[i].retained_bytes;
            line->g.count[k] += types[i].count;
        }
    }
    return growth_list(g, &g->out->types, &g->out->type_count);
}

static void growth_clear(growth_t *g) {
    growth_vec_free(&g->lines);
    map_free(&g->by_text);
    g->by_text = (map_t){0};
}

static bool growth_same(const model_t *a, const model_t *b, const char *key) {
    const char *x = lowtide_meta(a->rec, key), *y = lowtide_meta(b->rec, key);
    return x && y && strcmp(x, y) == 0;
}

int model_diff(const model_t *const *models, uint32_t n, model_diff_t *out, err_t *e) {
    *out = (model_diff_t){.recordings = n};
    if (n < 2) return err_set(e, -EINVAL, "a comparison needs two recordings or more");
    growth_t g = {.models = models, .n = n, .out = out, .same_process = true, .e = e};
    for (uint32_t k = 1; k < n; k++) {
        g.same_process = g.same_process && growth_same(models[0], models[k], "pid") &&
                         growth_same(models[0], models[k], "started");
    }
    int status = growth_types(&g);
    growth_clear(&g);
    if (!status) status = growth_gather(&g);
    if (!status) status = growth_list(&g, &out->paths, &out->path_count);
    if (!status) status = growth_find_containers(&g);
    growth_clear(&g);
    if (status) model_diff_free(out);
    return status;
}

void model_diff_free(model_diff_t *d) {
    model_findings_free(&d->findings);
    arena_free(&d->memory);
    *d = (model_diff_t){0};
}
