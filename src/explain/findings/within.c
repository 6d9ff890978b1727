/* Bytes that an earlier finding has as well: dropping a list frees the tracebacks in it, and both are worth a finding of its own. In
 * dominator order what an object keeps is one run of places, so what two findings share is where their runs do.
 *
 *     first     ├────────────────┤   ├──┤
 *     second         ├────┤          ├──────┤      of it, what lies below the first is told twice
 *                    ╰────╯          ╰──╯
 */
#include "base/mem.h"
#include "base/vec.h"
#include "explain/findings/findings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

VEC_DEFINE(spans, model_span_t);

static int within_compare(const void *a, const void *b) {
    const model_span_t *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Of sorted ones each place once. Returns how many are left. */
static size_t within_merge(model_span_t *at, size_t count) {
    size_t to = 0;
    for (size_t i = 0; i < count; i++) {
        if (to && at[i].begin <= at[to - 1].end) {
            if (at[i].end > at[to - 1].end) at[to - 1].end = at[i].end;
        } else {
            at[to++] = at[i];
        }
    }
    return to;
}

int findings_name_spans(findings_t *f, model_finding_t *x, const model_span_t *spans,
                        size_t count) {
    model_span_t *to = arena_alloc(&f->out->memory, (count + 1) * sizeof *to);
    if (!to) return findings_no_memory(f);
    if (count) memcpy(to, spans, count * sizeof *to);
    if (count) qsort(to, count, sizeof *to, within_compare);
    x->spans = to;
    x->span_count = within_merge(to, count);
    return 0;
}

int findings_name(findings_t *f, model_finding_t *x, const uint32_t *places, size_t count) {
    model_span_t *spans = mem_alloc((count + 1) * sizeof *spans);
    if (!spans) return findings_no_memory(f);
    for (size_t i = 0; i < count; i++)
        spans[i] = (model_span_t){places[i], places[i] + f->m->tree.size[places[i]]};
    int status = findings_name_spans(f, x, spans, count);
    mem_free(spans);
    return status;
}

/* Bytes of the objects that are in both. */
static uint64_t within_shared(const model_t *m, const model_span_t *a, size_t a_count,
                              const model_span_t *b, size_t b_count) {
    uint64_t bytes = 0;
    for (size_t i = 0, k = 0; i < a_count && k < b_count;) {
        uint32_t begin = a[i].begin > b[k].begin ? a[i].begin : b[k].begin;
        uint32_t end = a[i].end < b[k].end ? a[i].end : b[k].end;
        if (begin < end) bytes += m->tree.sum[end] - m->tree.sum[begin];
        if (a[i].end < b[k].end)
            i++;
        else
            k++;
    }
    return bytes;
}

/* Adds those of the finding to `told`, which stay in order. */
static int within_add(spans_t *told, const model_finding_t *x) {
    size_t i = told->count, k = x->span_count, to = i + k;
    if (!k) return 0;
    if (spans_reserve(told, k)) return -ENOMEM;
    told->count = to;
    while (k) {
        bool later = i && told->at[i - 1].begin > x->spans[k - 1].begin;
        told->at[--to] = later ? told->at[--i] : x->spans[--k];
    }
    told->count = within_merge(told->at, told->count);
    return 0;
}

int model_findings_within(const model_t *m, model_findings_t *out, err_t *e) {
    spans_t told = {0};
    int status = 0;
    for (uint32_t i = 0; i < out->count && !status; i++) {
        model_finding_t *x = &out->findings[i];
        uint64_t most = 0, all = within_shared(m, x->spans, x->span_count, told.at, told.count);
        x->within = LOWTIDE_NONE;
        x->within_bytes = all < x->bytes ? all : x->bytes;
        for (uint32_t k = 0; k < i && all; k++) {
            const model_finding_t *y = &out->findings[k];
            uint64_t shared = within_shared(m, x->spans, x->span_count, y->spans, y->span_count);
            if (shared <= most) continue;
            most = shared;
            x->within = k;
        }
        if (within_add(&told, x)) status = err_set(e, -ENOMEM, "no memory for the findings");
    }
    spans_free(&told);
    return status;
}
