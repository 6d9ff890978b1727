/* native-reference: objects that no Python object and no frame holds, only references taken by C
 * code. */
#include "explain/findings/findings.h"

#include "base/mem.h"

#include <string.h>

enum { NATIVE_MIN_BYTES = 8 << 20, NATIVE_SHARE = 20 };

typedef struct native_sum {
    uint64_t bytes, objects, count;
    uint32_t biggest; /* place */
} native_sum_t;

static int native_name(findings_t *f, uint32_t type, model_finding_t *x) {
    const dom_tree_t *t = &f->m->tree;
    path_ids_t places = {0};
    uint32_t node = t->place[model_node(f->m, MODEL_NODE_C)], end = node + t->size[node];
    int status = 0;
    for (uint32_t c = node + 1; c < end && !status; c += t->size[c]) {
        bool of = !findings_is_structure(f->m, t->id[c]) && model_type_of(f->m, t->id[c]) == type;
        if (of && path_ids_push(&places, c)) status = findings_no_memory(f);
    }
    if (!status) status = findings_name(f, x, places.at, places.count);
    path_ids_free(&places);
    return status;
}

static int native_report(findings_t *f, uint32_t type, const native_sum_t *sum) {
    char number[32], size[32];
    const char *name = f->m->types[type].name;
    model_finding_t *x = findings_add(f, "native-reference");
    if (!x) return findings_no_memory(f);
    x->bytes = sum->bytes;
    x->objects = sum->objects;
    x->type = (char *)name;
    x->confidence = sum->count >= 1000 ? "medium" : "low";
    int status = native_name(f, type, x);
    if (status) return status;
    status = path_text(f->m, f->m->tree.id[sum->biggest], PATH_SHAPE, &f->out->memory, &x->path,
                       &x->expression, f->e);
    if (status) return status;
    x->title = findings_text(f, "C code alone holds %s %s: %s", findings_count(sum->count, number),
                             name, findings_bytes(sum->bytes, size));
    x->fix = findings_text(f,
                           "look for the extension module that makes or takes %s: it keeps "
                           "references that no Python object "
                           "shows (Py_INCREF without Py_DECREF, or a registry of its own); close, "
                           "unregister or clear what "
                           "you gave it",
                           name);
    return x->title && x->fix ? 0 : findings_no_memory(f);
}

int finding_native_reference(findings_t *f) {
    const model_t *m = f->m;
    const dom_tree_t *t = &m->tree;
    uint64_t floor = findings_heap(m) / NATIVE_SHARE;
    if (floor < NATIVE_MIN_BYTES) floor = NATIVE_MIN_BYTES;
    /* A recording that was cut lacks references, so that many seem to be C code's. */
    if (lowtide_cut(m->rec) || m->totals.native_bytes < floor) return 0;
    size_t room = (m->type_count + (size_t)1) * sizeof(native_sum_t);
    native_sum_t *sums = mem_map(room);
    if (!sums) return findings_no_memory(f);
    uint32_t node = t->place[model_node(m, MODEL_NODE_C)], end = node + t->size[node];
    for (uint32_t c = node + 1; c < end; c += t->size[c]) {
        uint64_t retained = t->sum[c + t->size[c]] - t->sum[c];
        if (findings_is_structure(m, t->id[c])) continue;
        native_sum_t *sum = &sums[model_type_of(m, t->id[c])];
        if (sum->count == 0 ||
            retained > t->sum[sum->biggest + t->size[sum->biggest]] - t->sum[sum->biggest]) {
            sum->biggest = c;
        }
        sum->bytes += retained;
        sum->objects += t->size[c];
        sum->count++;
    }
    int status = 0;
    for (uint32_t i = 0; i < m->type_count && !status; i++) {
        if (sums[i].bytes >= floor) status = native_report(f, i, &sums[i]);
    }
    mem_unmap(sums, room);
    return status;
}
