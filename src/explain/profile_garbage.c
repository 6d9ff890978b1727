/* garbage-cycle, where the recording has the heap at the peak: what is garbage at the end of a script was mostly held by a name until
 * its function returned, so gc.collect() would not have lowered the peak, and who held it is what to change. */
#define _GNU_SOURCE
#include "base/mem.h"
#include "explain/profile_findings.h"

#include <string.h>

enum { KNOWN_PART = 4 }; /* of the garbage: what the heap at the peak must have had of it */

typedef struct garbage {
    uint64_t all, known;  /* bytes: of the garbage; and of it, what was there at the peak already */
    uint32_t count, *ids; /* objects of the peak's heap that became garbage */
} garbage_t;

/* A block is the same where its place, size and stack are. */
static bool garbage_is_same(const profile_sample_t *a, const profile_sample_t *b) {
    return a->address == b->address && a->bytes == b->bytes && a->stack == b->stack;
}

/* Both lists rise by address. */
static void garbage_match(const profile_t *p, const model_t *m, garbage_t *g) {
    uint32_t k = 0;
    for (uint32_t i = 0; i < p->sample_count; i++) {
        const profile_sample_t *now = &p->samples[i];
        if (now->process != p->main_process || now->object == LOWTIDE_NONE ||
            !model_is_garbage(m, now->object))
            continue;
        g->all += now->weight;
        while (k < p->peak_sample_count && p->peak_samples[k].address < now->address) k++;
        if (k == p->peak_sample_count || !garbage_is_same(&p->peak_samples[k], now) ||
            p->peak_samples[k].object == LOWTIDE_NONE)
            continue;
        g->known += now->weight;
        g->ids[g->count++] = p->peak_samples[k].object;
    }
}

/* A local of a library's function, such as was at work when the heap was captured, is nobody's to delete from. */
static char *garbage_let_go(findings_t *f, const profile_t *p, const char *holder,
                            const model_finding_t *x) {
    char local[96], function[96];
    bool in_call = profile_path_local(holder, local, function, sizeof local);
    if (!in_call || profile_is_own_function(p, function))
        return findings_text(f,
                             "let go of it sooner: at the peak %s held it; delete there what is "
                             "done with, or bound it (lowtide.Cache, collections.deque(maxlen=…))",
                             holder);
    if (!x->site_file)
        return findings_text(f, "let go of it sooner: at the peak %s held it", holder);
    return findings_text(f,
                         "let go sooner of what %s:%u makes, or make less of it: at the peak it "
                         "was in use, held by %s",
                         profile_file_base(x->site_file), x->site_line, holder);
}

static int garbage_tell(findings_t *f, const profile_t *p, const char *holder, model_finding_t *x) {
    char *fix = garbage_let_go(f, p, holder, x);
    x->held_at_peak = findings_text(f, "%s", holder);
    x->confidence = "medium"; /* that most of it was held so; not that it need not have been */
    if (!fix || !x->held_at_peak) return findings_no_memory(f);
    x->fix = findings_text(f,
                           "%s. It is garbage only since that went: gc.collect() frees it now, and "
                           "would not have lowered the peak",
                           fix);
    return x->fix ? 0 : findings_no_memory(f);
}

int profile_garbage(findings_t *f, const profile_t *p, const model_t *peak, model_finding_t *x) {
    profile_held_t held = {0};
    garbage_t g = {0};
    err_t ignored;
    if (strcmp(x->kind, "garbage-cycle") != 0 || !peak || !p->peak_sample_count ||
        p->peak_heap_process != p->main_process ||
        x->bytes <= model_totals(f->m)->unreachable_bytes / 2)
        return 0;
    g.ids = mem_alloc(((size_t)p->sample_count + 1) * sizeof *g.ids);
    if (!g.ids) return findings_no_memory(f);
    garbage_match(p, f->m, &g);
    int status = 0;
    if (g.count && g.known >= g.all / KNOWN_PART &&
        !profile_held_objects(peak, g.ids, g.count, &held, &ignored) && held.path &&
        held.samples * 2 >= held.of && !model_is_garbage(peak, held.through))
        status = garbage_tell(f, p, held.path, x);
    profile_held_free(&held);
    mem_free(g.ids);
    return status;
}
