/* kept-memory: what processes had at their end whose heap is not in the recording: workers of a server, and a program that was killed.
 * The line that made it is known by the profile; who held it only where a heap was captured at the peak. */
#define _GNU_SOURCE
#include "base/mem.h"
#include "explain/profile_findings.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { KEPT_MIN_BYTES = 16 << 20, KEPT_SHARE = 10, KEPT_MOST = 3 };

/* What a line had at the end of one process. */
typedef struct kept_part {
    uint64_t bytes, blocks;
    double variance;
} kept_part_t;

/* What a line had at one moment, the end of a process, in all that were there then. */
typedef struct kept_told {
    uint32_t line, processes;
    uint32_t largest; /* the process that had most of it */
    bool running;     /* they are still there */
    kept_part_t sum;
    uint64_t off;
} kept_told_t;

static bool kept_is_unseen(const findings_t *f, const profile_t *p, uint32_t process) {
    return process != p->main_process || !model_totals(f->m)->objects;
}

static uint64_t kept_bytes(const profile_sums_t *s) {
    return s->bytes[PROFILE_LIVE] + s->bytes[PROFILE_GONE];
}

/* By line, what all such processes had at their ends, one after the other as well. */
static uint64_t kept_sums(const findings_t *f, const profile_t *p, uint64_t *of_line) {
    uint64_t all = 0;
    for (uint32_t i = 0; i < p->cell_count; i++) {
        const profile_cell_t *c = &p->cells[i];
        if (!kept_is_unseen(f, p, c->process)) continue;
        of_line[c->line] += kept_bytes(&c->sums);
        all += kept_bytes(&c->sums);
    }
    return all;
}

static bool kept_lived(const profile_process_t *of, uint64_t t_us) {
    return of->begin_us <= t_us && (!of->ended || of->end_us >= t_us);
}

/* Processes that came one after the other never had it at once: the fix returns what those had that were there together. */
static void kept_at_once(const profile_t *p, const kept_part_t *of, kept_told_t *t) {
    for (uint32_t i = 0; i < p->process_count; i++) {
        const profile_process_t *last = &p->processes[i];
        kept_told_t now = {.line = t->line, .largest = i, .running = !last->ended};
        if (!of[i].bytes) continue;
        for (uint32_t k = 0; k < p->process_count; k++) {
            if (!of[k].bytes ||
                !kept_lived(&p->processes[k], last->ended ? last->end_us : UINT64_MAX))
                continue;
            now.processes++;
            now.sum.bytes += of[k].bytes;
            now.sum.blocks += of[k].blocks;
            now.sum.variance += of[k].variance;
            if (of[k].bytes > of[now.largest].bytes) now.largest = k;
        }
        if (now.sum.bytes > t->sum.bytes) *t = now;
    }
}

static int kept_measure(const findings_t *f, const profile_t *p, kept_told_t *t) {
    kept_part_t *of = mem_alloc(p->process_count * sizeof *of);
    uint64_t interval = 0;
    if (!of) return -ENOMEM;
    memset(of, 0, p->process_count * sizeof *of);
    for (uint32_t i = 0; i < p->cell_count; i++) {
        const profile_cell_t *c = &p->cells[i];
        if (c->line != t->line || !kept_is_unseen(f, p, c->process)) continue;
        const profile_process_t *process = &p->processes[c->process];
        if (process->mode == PROFILE_SAMPLED && process->interval_bytes > interval)
            interval = process->interval_bytes;
        kept_part_t *to = &of[c->process];
        to->bytes += kept_bytes(&c->sums);
        to->blocks += c->sums.blocks[PROFILE_LIVE] + c->sums.blocks[PROFILE_GONE];
        to->variance += c->sums.variance[PROFILE_LIVE] + c->sums.variance[PROFILE_GONE];
    }
    kept_at_once(p, of, t);
    t->off = profile_spread(t->sum.variance, interval);
    mem_free(of);
    return 0;
}

static char *kept_title(findings_t *f, const profile_t *p, const kept_told_t *t) {
    const profile_frame_t *frame = &p->lines[t->line].frame;
    char size[32], off[32], error[64] = "", who[64];
    if (t->off) snprintf(error, sizeof error, " (± %s)", findings_bytes(t->off, off));
    if (t->processes == 1)
        snprintf(who, sizeof who, "process %llu", (unsigned long long)p->processes[t->largest].pid);
    else
        snprintf(who, sizeof who, "%u processes", t->processes);
    return findings_text(f, "%s:%u made %s%s that %s %s", profile_file_base(frame->file),
                         frame->line, findings_bytes(t->sum.bytes, size), error, who,
                         t->running          ? t->processes == 1 ? "has" : "have together"
                         : t->processes == 1 ? "had at its end"
                                             : "had together at their end");
}

/* What to change, or else how to learn it. */
static char *kept_fix(findings_t *f, const profile_t *p, const kept_told_t *t, const char *holder) {
    const profile_frame_t *frame = &p->lines[t->line].frame;
    char in[48] = "", pid[24] = "PID";
    if (t->processes > 1) snprintf(in, sizeof in, " in %u processes", t->processes);
    if (t->running)
        snprintf(pid, sizeof pid, "%llu", (unsigned long long)p->processes[t->largest].pid);
    char *lead = findings_text(f, "let go of what %s:%u makes%s", profile_file_base(frame->file),
                               frame->line, in);
    if (!lead) return NULL;
    if (holder)
        return findings_text(f,
                             "%s: at the peak %s held it; delete there what is done with, or bound "
                             "it (lowtide.Cache, collections.deque(maxlen=…))",
                             lead, holder);
    return findings_text(f,
                         "%s: %s captured, so who holds it is not known; `lowtide dump %s` tells, "
                         "or `lowtide attach %s`, while %s",
                         lead,
                         t->processes > 1                ? "their heaps were not"
                         : t->largest == p->main_process ? "no heap was"
                                                         : "the heap of that process was not",
                         pid, pid,
                         t->running || t->processes == 1 ? "it runs" : "such a process runs");
}

static int kept_tell(findings_t *f, const profile_t *p, const model_t *peak, const kept_told_t *t) {
    profile_held_t held = {0};
    model_finding_t *x = findings_add(f, "kept-memory");
    if (!x) return findings_no_memory(f);
    if (kept_is_unseen(f, p, p->peak_heap_process)) profile_peak_holder(p, peak, t->line, &held);
    x->bytes = t->sum.bytes;
    x->objects = t->sum.blocks;
    x->title = kept_title(f, p, t);
    x->fix = kept_fix(f, p, t, held.path);
    if (held.path) x->held_at_peak = findings_text(f, "%s", held.path);
    x->confidence = held.path && t->off * 4 < t->sum.bytes ? "high" : "medium";
    bool failed = !x->title || !x->fix || (held.path && !x->held_at_peak);
    profile_held_free(&held);
    return failed ? findings_no_memory(f) : profile_set_site(f, &p->lines[t->line].frame, x);
}

/* What importing took is there for good; what no line of a file made is nobody's to change. */
static bool kept_is_line(const profile_frame_t *f) {
    return f->kind == PROFILE_PYTHON && f->file[0] && strncmp(f->file, "<frozen", 7) != 0 &&
           !profile_is_import(f);
}

int profile_kept_memory(findings_t *f, const profile_t *p, const model_t *peak) {
    if (p->mode == PROFILE_NONE || !p->process_count || !p->line_count) return 0;
    uint64_t *of_line = mem_alloc(p->line_count * sizeof *of_line);
    if (!of_line) return findings_no_memory(f);
    memset(of_line, 0, p->line_count * sizeof *of_line);
    uint64_t all = kept_sums(f, p, of_line);
    int status = 0;
    for (int found = 0; !status && found < KEPT_MOST;) {
        kept_told_t t = {0};
        for (uint32_t i = 1; i < p->line_count; i++)
            if (of_line[i] > of_line[t.line]) t.line = i;
        if (of_line[t.line] < KEPT_MIN_BYTES || of_line[t.line] < all / KEPT_SHARE) break;
        of_line[t.line] = 0;
        if (!kept_is_line(&p->lines[t.line].frame)) continue;
        if (kept_measure(f, p, &t)) {
            status = findings_no_memory(f);
        } else if (t.sum.bytes >= KEPT_MIN_BYTES && t.sum.bytes > t.off) {
            status = kept_tell(f, p, peak, &t);
            found++;
        }
    }
    mem_free(of_line);
    return status;
}
