#define _GNU_SOURCE
#include "view/html_tree.h"

#include "base/mem.h"
#include "explain/profile_fold.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS = 2000, NODES_MOST = 20000, MOMENTS_MOST = 2000, FIGURES = 3 };
static const int figures[FIGURES] = {PROFILE_LIVE, PROFILE_PEAK, PROFILE_TOTAL};
static const char *const figure_names[FIGURES] = {"live", "peak", "total"};

/* Texts by content, so that each stands once. */
typedef struct texts {
    const char **sorted;
    uint32_t count;
} texts_t;

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static uint32_t text_number(const texts_t *t, const char *text) {
    const char **found = bsearch(&text, t->sorted, t->count, sizeof *t->sorted, by_text);
    return found ? (uint32_t)(found - t->sorted) : 0;
}

static const profile_frame_t *frame_of(const profile_t *p, uint32_t node) {
    static const profile_frame_t none = {.function = "", .file = ""};
    uint32_t frame = p->stacks[node - 1].frame;
    return frame == LOWTIDE_NONE ? &none : &p->frames[frame];
}

static int gather_texts(const profile_t *p, const profile_node_t *nodes, uint32_t kept,
                        texts_t *out) {
    uint32_t n = 1;
    const char **all = mem_alloc((2 * (size_t)kept + 1) * sizeof *all);
    if (!all) return -ENOMEM;
    all[0] = "";
    for (uint32_t i = 1; i <= p->stack_count; i++) {
        if (!nodes[i].kept) continue;
        all[n++] = frame_of(p, i)->function;
        all[n++] = frame_of(p, i)->file;
    }
    qsort(all, n, sizeof *all, by_text);
    out->sorted = all;
    out->count = 0;
    for (uint32_t i = 0; i < n; i++)
        if (!i || strcmp(all[i], all[out->count - 1]) != 0) all[out->count++] = all[i];
    return 0;
}

enum column { PARENT, NAME, FILE_NAME, LINE };

static void column(const profile_t *p, const profile_node_t *nodes, const texts_t *texts, json_t *j,
                   const char *name, enum column which) {
    json_open(j, name, '[');
    for (uint32_t i = 0; i <= p->stack_count; i++) {
        if (!nodes[i].kept) continue;
        uint64_t v = 0;
        if (i && which == PARENT) v = nodes[nodes[i].parent].place;
        if (i && which == NAME) v = text_number(texts, frame_of(p, i)->function);
        if (i && which == FILE_NAME) v = text_number(texts, frame_of(p, i)->file);
        if (i && which == LINE) v = frame_of(p, i)->line;
        json_uint(j, NULL, v);
    }
    json_close(j);
}

int html_tree(const profile_t *p, json_t *j, err_t *e) {
    texts_t texts = {0};
    if (p->mode == PROFILE_NONE || !p->cell_count) {
        json_null(j, "tree");
        return 0;
    }
    const profile_fold_t how = {1u << PROFILE_LIVE | 1u << PROFILE_PEAK | 1u << PROFILE_TOTAL,
                                PARTS, NODES_MOST}; /* a browser draws so many and no more */
    profile_nodes_t nodes;
    if (profile_nodes(p, &how, &nodes) || gather_texts(p, nodes.at, nodes.kept, &texts)) {
        profile_nodes_free(&nodes);
        return err_set(e, -ENOMEM, "no memory for the call tree");
    }
    json_open(j, "tree", '{');
    json_open(j, "texts", '[');
    for (uint32_t i = 0; i < texts.count; i++) json_text(j, NULL, texts.sorted[i]);
    json_close(j);
    column(p, nodes.at, &texts, j, "parent", PARENT);
    column(p, nodes.at, &texts, j, "name", NAME);
    column(p, nodes.at, &texts, j, "file", FILE_NAME);
    column(p, nodes.at, &texts, j, "line", LINE);
    for (int f = 0; f < FIGURES; f++) {
        json_open(j, figure_names[f], '[');
        for (uint32_t i = 0; i < nodes.count; i++)
            if (nodes.at[i].kept) json_uint(j, NULL, nodes.at[i].bytes[figures[f]]);
        json_close(j);
    }
    json_uint(j, "threshold_bytes", nodes.at[0].bytes[PROFILE_PEAK] / nodes.parts);
    json_close(j);
    mem_free(texts.sorted);
    profile_nodes_free(&nodes);
    return 0;
}

static void event(const profile_event_t *v, json_t *j) {
    static const char *const kinds[] = {"", "collection", "mark", "heap snapshot", "limit"};
    json_open(j, NULL, '{');
    json_real(j, "t_s", (double)v->t_us / 1e6);
    json_text(j, "kind", v->kind < sizeof kinds / sizeof kinds[0] ? kinds[v->kind] : "");
    json_real(j, "duration_ms", (double)v->duration_us / 1e3);
    json_text(j, "text", v->text ? v->text : "");
    json_close(j);
}

static bool is_told(const profile_event_t *v, uint64_t least_us) {
    return v->kind != PROFILE_EVENT_GC || v->duration_us >= least_us;
}

/* A young collection is no event; one of a hundredth of a second may be felt, and of too many the longest. */
void html_events(const profile_t *p, json_t *j) {
    enum { FELT_US = 10000 };
    uint64_t least_us = FELT_US;
    uint32_t collections, others = 0, seen = 0;
    do {
        collections = others = 0;
        for (uint32_t i = 0; i < p->event_count; i++) {
            bool told = is_told(&p->events[i], least_us);
            collections += told && p->events[i].kind == PROFILE_EVENT_GC;
            others += p->events[i].kind != PROFILE_EVENT_GC;
        }
        if (collections > HTML_EVENTS_MOST / 2) least_us *= 2;
    } while (collections > HTML_EVENTS_MOST / 2);
    uint32_t every = others / (HTML_EVENTS_MOST / 2) + 1; /* of too many marks one in so many */
    json_open(j, "events", '[');
    for (uint32_t i = 0; i < p->event_count; i++) {
        const profile_event_t *v = &p->events[i];
        if (!is_told(v, least_us)) continue;
        if (v->kind == PROFILE_EVENT_GC || seen++ % every == 0) event(v, j);
    }
    json_close(j);
}

int html_moments(const profile_t *p, json_t *j, err_t *e) {
    static const char *const names[] = {"t_s", "rss_bytes", "heap_bytes"};
    profile_series_t series;
    if (profile_series(p, MOMENTS_MOST, &series))
        return err_set(e, -ENOMEM, "no memory for the timeline");
    json_open(j, "moments", '{');
    for (int column = 0; column < 3; column++) {
        json_open(j, names[column], '[');
        for (uint32_t i = 0; i < series.count; i++) {
            const profile_moment_t *m = &series.at[i];
            if (column == 0) json_real(j, NULL, (double)m->t_us / 1e6);
            if (column == 1) json_uint(j, NULL, m->rss_bytes);
            if (column == 2) json_uint(j, NULL, m->heap_bytes);
        }
        json_close(j);
    }
    json_close(j);
    mem_free(series.at);
    return 0;
}
