#define _GNU_SOURCE
#include "view/html_tree.h"

#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS = 2000, FIGURES = 3 };
static const int figures[FIGURES] = {PROFILE_LIVE, PROFILE_PEAK, PROFILE_TOTAL};
static const char *const figure_names[FIGURES] = {"live", "peak", "total"};

/* Node i + 1 is stack i; node 0 the whole. */
typedef struct node {
    uint64_t bytes[FIGURES];
    uint32_t parent;
    uint32_t place; /* among those that are kept */
    bool kept;
} node_t;

static void add_up(const profile_t *p, node_t *nodes) {
    for (uint32_t i = 0; i < p->stack_count; i++) {
        uint32_t parent = p->stacks[i].parent;
        nodes[i + 1].parent = parent == LOWTIDE_NONE || parent >= i ? 0 : parent + 1;
    }
    for (uint32_t i = 0; i < p->cell_count; i++) {
        const profile_cell_t *c = &p->cells[i];
        uint32_t at = c->stack < p->stack_count ? c->stack + 1 : 0;
        for (int f = 0; f < FIGURES; f++) nodes[at].bytes[f] += c->sums.bytes[figures[f]];
    }
    for (uint32_t i = p->stack_count; i > 0; i--) { /* parents stand before their children */
        for (int f = 0; f < FIGURES; f++) nodes[nodes[i].parent].bytes[f] += nodes[i].bytes[f];
    }
}

static uint32_t keep(node_t *nodes, uint32_t count) {
    uint32_t kept = 1;
    nodes[0].kept = true;
    for (uint32_t i = 1; i < count; i++) {
        for (int f = 0; f < FIGURES && !nodes[i].kept; f++)
            nodes[i].kept = nodes[i].bytes[f] && nodes[i].bytes[f] >= nodes[0].bytes[f] / PARTS;
        if (nodes[i].kept) nodes[i].place = kept++;
    }
    return kept;
}

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
    return &p->frames[p->stacks[node - 1].frame];
}

static int gather_texts(const profile_t *p, const node_t *nodes, uint32_t kept, texts_t *out) {
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

static void column(const profile_t *p, const node_t *nodes, const texts_t *texts, json_t *j,
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
    uint32_t count = p->stack_count + 1;
    node_t *nodes = mem_alloc(count * sizeof *nodes);
    if (nodes) memset(nodes, 0, count * sizeof *nodes);
    if (nodes) add_up(p, nodes);
    if (!nodes || gather_texts(p, nodes, keep(nodes, count), &texts)) {
        mem_free(nodes);
        return err_set(e, -ENOMEM, "no memory for the call tree");
    }
    json_open(j, "tree", '{');
    json_open(j, "texts", '[');
    for (uint32_t i = 0; i < texts.count; i++) json_text(j, NULL, texts.sorted[i]);
    json_close(j);
    column(p, nodes, &texts, j, "parent", PARENT);
    column(p, nodes, &texts, j, "name", NAME);
    column(p, nodes, &texts, j, "file", FILE_NAME);
    column(p, nodes, &texts, j, "line", LINE);
    for (int f = 0; f < FIGURES; f++) {
        json_open(j, figure_names[f], '[');
        for (uint32_t i = 0; i < count; i++)
            if (nodes[i].kept) json_uint(j, NULL, nodes[i].bytes[f]);
        json_close(j);
    }
    json_uint(j, "threshold_bytes", nodes[0].bytes[1] / PARTS);
    json_close(j);
    mem_free(texts.sorted);
    mem_free(nodes);
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

void html_events(const profile_t *p, json_t *j) {
    uint32_t said = 0;
    json_open(j, "events", '[');
    for (uint32_t i = 0; i < p->event_count && said < HTML_EVENTS_MOST; i++) {
        const profile_event_t *v = &p->events[i];
        /* A young collection is no event; one of a hundredth of a second may be felt. */
        if (v->kind == PROFILE_EVENT_GC && v->duration_us < 10000) continue;
        event(v, j);
        said++;
    }
    json_close(j);
}
