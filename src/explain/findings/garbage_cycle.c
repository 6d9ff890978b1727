/* garbage-cycle: objects that nothing holds, waiting for the collector because they refer to each
 * other. */
#include "explain/findings/findings.h"

#include "base/origin.h"
#include "explain/literal.h"

#include <stdio.h>
#include <string.h>

enum { GARBAGE_KINDS_MAX = 16, GARBAGE_MIN_BYTES = 2 << 20 };

/* Whether its class stands in code that is not the program's own: of an installed package or the standard library, by the file of
 * its module; and what has no module, `function` or `dict`, is nobody's to change. */
static int garbage_is_foreign(findings_t *f, const char *type, bool *foreign) {
    char file[512];
    const char *end = type + strlen(type);
    *foreign = !strchr(type, '.');
    while (end > type && !*foreign) {
        err_t unfound;
        model_found_t found;
        strbuf_t text = {0};
        bool exact;
        while (end > type && *--end != '.') {
        }
        if (end == type) break;
        snprintf(file, sizeof file, "%.*s.__file__", (int)(end - type), type);
        if (model_find(f->m, file, &found, &unfound)) continue;
        int status = found.what == MODEL_WHAT_OBJECT && found.count == 1
                         ? literal_put(f->m, found.ids[0], &text, &exact, f->e)
                         : 0;
        const char *path = strbuf_text(&text);
        *foreign = origin_of(path, NULL) <= ORIGIN_PACKAGE;
        strbuf_free(&text);
        model_found_free(&found);
        return status;
    }
    return 0;
}

static int garbage_report(findings_t *f, const model_cycle_t *c) {
    char number[32], size[32];
    model_finding_t *x = findings_add(f, "garbage-cycle");
    if (!x) return findings_no_memory(f);
    x->bytes = c->bytes;
    x->objects = c->objects;
    x->type = (char *)c->from_type;
    x->confidence = "high";
    x->path = findings_text(f, "%s", c->text);
    int named = findings_name_spans(f, x, c->spans, c->span_count);
    if (named) return named;
    const char *edge = c->edge[0] ? c->edge : c->from_type;
    x->title = findings_text(f, "%s cycle%s closed by %s wait%s for the collector: %s",
                             findings_count(c->count, number), c->count == 1 ? "" : "s", edge,
                             c->count == 1 ? "s" : "", findings_bytes(c->bytes, size));
    bool foreign;
    int status = garbage_is_foreign(f, c->from_type, &foreign);
    if (status) return status;
    bool nobodys = !strchr(c->from_type, '.'); /* function, dict */
    if (foreign)
        x->fix = findings_text(f,
                               "call gc.collect() when what made them is done: %s%sonly the "
                               "collector frees such objects",
                               nobodys ? "" : c->from_type,
                               nobodys ? "" : " is not your code to change, and ");
    else
        x->fix =
            findings_text(f,
                          "make %s a weakref.ref (or weakref.proxy), or set it to None when the "
                          "object is done with, in "
                          "close() say: then they are freed at once; gc.collect() frees them now",
                          edge);
    return x->path && x->title && x->fix ? 0 : findings_no_memory(f);
}

int finding_garbage_cycle(findings_t *f) {
    model_cycles_t cycles;
    if (f->m->totals.unreachable_bytes < GARBAGE_MIN_BYTES) return 0;
    int status = model_cycles(f->m, GARBAGE_KINDS_MAX, &cycles, f->e);
    if (status) return status;
    for (uint32_t i = 0; i < cycles.count && !status; i++) {
        if (cycles.cycles[i].bytes >= GARBAGE_MIN_BYTES)
            status = garbage_report(f, &cycles.cycles[i]);
    }
    /* The texts were copied, but types' names belong to the model. */
    model_cycles_free(&cycles);
    return status;
}
