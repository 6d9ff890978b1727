/* growing-container: a container that has more entries in each recording than in the one before. */
#include "explain/findings/findings.h"
#include "explain/growth.h"

#include <string.h>

enum { GROWING_MIN_BYTES = 1 << 20, GROWING_MIN_ENTRIES = 100 };

static bool growing_is(const growth_t *g, const growth_line_t *line) {
    uint32_t last = line->ids[g->n - 1];
    const model_t *m = g->models[g->n - 1];
    if (line->members > 1 || last == LOWTIDE_NONE || !line->g.steady) return false;
    if (findings_is_structure(m, last) || !model_shape_of(m, last)->repeat_count) return false;
    for (uint32_t k = 1; k < g->n; k++) {
        if (line->g.count[k] <= line->g.count[k - 1]) return false;
    }
    return line->g.grown_bytes >= GROWING_MIN_BYTES && line->g.grown_count >= GROWING_MIN_ENTRIES;
}

/* The container inside another that accounts for most of its growth is the one to name. */
static bool growing_is_inner(const growth_t *g, const growth_line_t *outer) {
    const model_t *m = g->models[g->n - 1];
    for (size_t i = 0; i < g->lines.count; i++) {
        const growth_line_t *inner = &g->lines.at[i];
        if (inner == outer || !growing_is(g, inner) || inner->ids[g->n - 1] == outer->ids[g->n - 1])
            continue;
        if (!model_dominates(m, outer->ids[g->n - 1], inner->ids[g->n - 1])) continue;
        if (inner->g.grown_bytes > outer->g.grown_bytes / 10 * 7) return true;
    }
    return false;
}

int growth_find_containers(growth_t *g) {
    findings_t f = {.m = g->models[g->n - 1], .out = &g->out->findings, .e = g->e};
    char count[32], size[32];
    for (size_t i = 0; i < g->lines.count; i++) {
        const growth_line_t *line = &g->lines.at[i];
        if (!growing_is(g, line) || growing_is_inner(g, line)) continue;
        model_finding_t *x = findings_add(&f, "growing-container");
        if (!x) return findings_no_memory(&f);
        x->bytes = (uint64_t)line->g.grown_bytes;
        x->objects = (uint64_t)line->g.grown_count;
        x->expression = line->g.expression;
        x->confidence = g->n > 2 ? "high" : "medium";
        x->type = findings_text(&f, "%s", line->g.type);
        x->path = findings_text(&f, "%s", line->g.path);
        x->title = findings_text(&f, "%s (%s) grew by %s entries over %u recordings: +%s",
                                 line->g.path, line->g.type, findings_count(x->objects, count),
                                 g->n, findings_bytes(x->bytes, size));
        x->fix = findings_text(
            &f,
            "bound %s: see that what is put in is taken out again, or keep it in a cache with a "
            "limit "
            "(lowtide.Cache, functools.lru_cache(maxsize=…), collections.deque(maxlen=…))",
            line->g.path);
        if (!x->type || !x->path || !x->title || !x->fix) return findings_no_memory(&f);
    }
    findings_sort(&g->out->findings);
    return 0;
}
