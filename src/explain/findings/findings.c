#include "explain/findings/findings.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *kind;
    finding_fn *find;
} findings_table[] = {
    {"leak-suspect", finding_leak_suspect},
    {"garbage-cycle", finding_garbage_cycle},
    {"held-traceback", finding_held_traceback},
    {"native-reference", finding_native_reference},
    {"allocator-retention", finding_allocator_retention},
    {"unclosed-resource", finding_unclosed_resource},
    {"thread-leak", finding_thread_leak},
};

int findings_no_memory(findings_t *f) {
    return err_set(f->e, -ENOMEM, "no memory for the findings");
}

model_finding_t *findings_add(findings_t *f, const char *kind) {
    model_findings_t *out = f->out;
    if (out->count == f->room) {
        uint32_t room = f->room ? f->room * 2 : 16;
        model_finding_t *findings = arena_alloc(&out->memory, room * sizeof *findings);
        if (!findings) return NULL;
        if (out->count) memcpy(findings, out->findings, out->count * sizeof *findings);
        out->findings = findings;
        f->room = room;
    }
    model_finding_t *finding = &out->findings[out->count++];
    *finding = (model_finding_t){.kind = kind, .confidence = "medium", .within = LOWTIDE_NONE};
    return finding;
}

char *findings_text(findings_t *f, const char *fmt, ...) {
    strbuf_t text = {0};
    va_list ap;
    va_start(ap, fmt);
    strbuf_vprintf(&text, fmt, ap);
    va_end(ap);
    char *copy = text.failed ? NULL : arena_text(&f->out->memory, strbuf_text(&text), text.count);
    strbuf_free(&text);
    return copy;
}

const char *findings_count(uint64_t count, char *to) {
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%llu", (unsigned long long)count), at = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) to[at++] = ',';
        to[at++] = digits[i];
    }
    to[at] = 0;
    return to;
}

const char *findings_bytes(uint64_t bytes, char *to) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double x = (double)bytes;
    int u = 0;
    /* As the figure beside the title has it: 1023.95 would be told as 1024.0. */
    for (; x >= (u ? 1023.95 : 1024) && u < 4; u++) x /= 1024;
    snprintf(to, 32, u == 0 ? "%.0f %s" : "%.1f %s", x, unit[u]);
    return to;
}

uint64_t findings_heap(const model_t *m) {
    return m->totals.shallow_bytes - m->totals.unreachable_bytes;
}

bool findings_is_structure(const model_t *m, uint32_t id) {
    static const char *const names[] = {"function", "code",     "builtin_function_or_method",
                                        "method",   "property", "cell"};
    if (id >= m->g.n) return true;
    const lowtide_shape *shape = model_shape_of(m, id);
    if (shape->kind != LOWTIDE_SHAPE_OBJECT) return true;
    if (shape->flags &
        (LOWTIDE_SHAPE_IS_TYPE | LOWTIDE_SHAPE_IS_MODULE | LOWTIDE_SHAPE_IS_NAMESPACE))
        return true;
    const char *type = model_type_name(m, id);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(type, names[i]) == 0) return true;
    }
    return false;
}

static int findings_compare(const void *a, const void *b) {
    const model_finding_t *x = a, *y = b;
    if (x->late != y->late) return x->late ? 1 : -1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return strcmp(x->title, y->title);
}

void findings_sort(model_findings_t *out) {
    if (out->count) qsort(out->findings, out->count, sizeof *out->findings, findings_compare);
}

int model_findings(const model_t *m, model_findings_t *out, err_t *e) {
    findings_t f = {.m = m, .out = out, .e = e};
    int status = 0;
    *out = (model_findings_t){0};
    for (size_t i = 0; i < sizeof findings_table / sizeof *findings_table && !status; i++) {
        status = findings_table[i].find(&f);
    }
    if (status)
        model_findings_free(out);
    else
        findings_sort(out);
    return status;
}

void model_findings_free(model_findings_t *f) {
    arena_free(&f->memory);
    *f = (model_findings_t){0};
}
