/* kept-memory: what processes had at their end whose heap is not in the recording: workers of a server, and a program that was killed.
 * The line that made it is known by the profile; who held it only where a heap was captured at the peak. */
#define _GNU_SOURCE
#include "base/mem.h"
#include "explain/profile_course.h"
#include "explain/profile_findings.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { KEPT_MIN_BYTES = 16 << 20, KEPT_SHARE = 10, KEPT_MOST = 3 };

/* What each line had at the ends of processes, and with which it is told: with the one that made most of what one holder has. */
typedef struct kept_lines {
    uint64_t *bytes;
    uint64_t all;
    uint32_t *with;
} kept_lines_t;

/* What a line had at the end of one process, and how it came to it. */
typedef struct kept_part {
    uint64_t bytes, blocks;
    double variance;
} kept_part_t;

/* What grew through the life of a process is to be let go of; what was made once and stayed is needed, but hardly as often as there
 * are processes. A burst of work leaves as level a course as a table that was loaded: only where its module was imported, or where the
 * processes have not as much of it, it is known which. */
typedef enum kept_course {
    KEPT_UNKNOWN,
    KEPT_GREW,
    KEPT_LOADED,  /* level, and made by an import */
    KEPT_UNEQUAL, /* level, and more in one than in another */
    KEPT_LEVEL
} kept_course_t;

/* What a line had at one moment, the end of a process, in all that were there then. */
typedef struct kept_told {
    uint32_t line, processes;
    const profile_frame_t
        *frame;        /* where it is told: of the lines together one that is the program's own */
    uint32_t more;     /* so many lines are told with it */
    double site_share; /* of what they made, by the line of the frame */
    uint32_t last, largest; /* the one at whose end it was; and that had most of it */
    bool running;           /* they are still there */
    kept_part_t sum;
    uint64_t off;
    kept_course_t course;
    uint64_t level_us; /* of what is level: so long after its begin the last of them had it */
    uint64_t half_us;  /* of what grew: for so long the largest had a half of it */
} kept_told_t;

static bool kept_is_unseen(const findings_t *f, const profile_t *p, uint32_t process) {
    return process != p->main_process || !model_totals(f->m)->objects;
}

/* One copy is needed. */
static bool kept_is_shared(const kept_told_t *t) {
    return t->course == KEPT_LOADED || t->course == KEPT_LEVEL;
}

static uint64_t kept_bytes(const profile_sums_t *s) {
    return s->bytes[PROFILE_LIVE] + s->bytes[PROFILE_GONE];
}

/* By line, what all such processes had at their ends, one after the other as well. */
static void kept_sums(const findings_t *f, const profile_t *p, kept_lines_t *lines) {
    for (uint32_t i = 0; i < p->cell_count; i++) {
        const profile_cell_t *c = &p->cells[i];
        if (!kept_is_unseen(f, p, c->process)) continue;
        lines->bytes[c->line] += kept_bytes(&c->sums);
        lines->all += kept_bytes(&c->sums);
    }
}

static bool kept_lived(const profile_process_t *of, uint64_t t_us) {
    return of->begin_us <= t_us && (!of->ended || of->end_us >= t_us);
}

/* Whether the process has of the line, and was there at the end of t->last. */
static bool kept_has(const profile_t *p, const kept_part_t *of, const kept_told_t *t, uint32_t i) {
    const profile_process_t *last = &p->processes[t->last];
    return of[i].bytes && kept_lived(&p->processes[i], last->ended ? last->end_us : UINT64_MAX);
}

/* Processes that came one after the other never had it at once: the fix returns what those had that were there together. */
static void kept_at_once(const profile_t *p, const kept_part_t *of, kept_told_t *t) {
    kept_told_t most = *t;
    for (uint32_t i = 0; i < p->process_count; i++) {
        kept_told_t now = *t;
        now.last = now.largest = i;
        now.running = !p->processes[i].ended;
        now.processes = 0;
        now.sum = (kept_part_t){0};
        if (!of[i].bytes) continue;
        for (uint32_t k = 0; k < p->process_count; k++) {
            if (!kept_has(p, of, &now, k)) continue;
            now.processes++;
            now.sum.bytes += of[k].bytes;
            now.sum.blocks += of[k].blocks;
            now.sum.variance += of[k].variance;
            if (of[k].bytes > of[now.largest].bytes) now.largest = k;
        }
        if (now.sum.bytes > most.sum.bytes) most = now;
    }
    *t = most;
}

static uint64_t kept_end_us(const profile_t *p, uint32_t process) {
    uint64_t end = p->processes[process].end_us;
    for (uint32_t i = 0; i < p->point_count && !p->processes[process].ended; i++)
        if (p->points[i].process == process && p->points[i].t_us > end) end = p->points[i].t_us;
    return end;
}

/* Below an import: each process does it once. */
static bool kept_is_imported(const profile_t *p, uint32_t stack) {
    static const char importing[] = "<frozen importlib";
    for (; stack != LOWTIDE_NONE; stack = p->stacks[stack].parent) {
        uint32_t frame = p->stacks[stack].frame;
        if (frame >= p->frame_count) return false; /* of a damaged recording */
        if (strncmp(p->frames[frame].file, importing, sizeof importing - 1) == 0) return true;
    }
    return false;
}

static bool kept_is_loaded(const profile_t *p, const kept_lines_t *lines, const kept_part_t *of,
                           const kept_told_t *t) {
    uint64_t all = 0, imported = 0;
    for (uint32_t i = 0; i < p->cell_count; i++) {
        const profile_cell_t *c = &p->cells[i];
        if (lines->with[c->line] != t->line || !kept_has(p, of, t, c->process)) continue;
        all += kept_bytes(&c->sums);
        if (kept_is_imported(p, c->stack)) imported += kept_bytes(&c->sums);
    }
    return imported > all / 2;
}

/* Whether those of `level` differ by an eighth, and by more than sampling makes them differ (as a sum of squares does by chance once in
 * some hundred times). What each needs the same is as large in each. */
static bool kept_is_unequal(const profile_t *p, const kept_part_t *of, const bool *level) {
    enum { CLEARLY = 8 };
    const double in_95 = 1.96;
    double sum = 0, squares = 0, variance = 0, count = 0;
    uint64_t least = UINT64_MAX, most = 0;
    for (uint32_t i = 0; i < p->process_count; i++) {
        const profile_process_t *one = &p->processes[i];
        if (!level[i]) continue;
        double off = (double)profile_spread(of[i].variance,
                                            one->mode == PROFILE_SAMPLED ? one->interval_bytes : 0);
        double bytes = (double)of[i].bytes;
        sum += bytes;
        squares += bytes * bytes;
        variance += off / in_95 * (off / in_95);
        count++;
        if (of[i].bytes < least) least = of[i].bytes;
        if (of[i].bytes > most) most = of[i].bytes;
    }
    if (count < 2 || most - least <= most / CLEARLY) return false;
    double free = count - 1;
    return squares - sum * sum / count > variance / count * (free + 3 * sqrt(2 * free));
}

/* It is level in a process that had seven eighths of it by the middle of its life, and from then on. Processes that had of the line
 * have the same code; each says so by its bytes and for how long it lived: of one that has just begun one cannot tell. */
static int kept_judge(const profile_t *p, const kept_lines_t *lines, const kept_part_t *of,
                      kept_told_t *t) {
    profile_rise_t *rises = mem_alloc(p->process_count * sizeof *rises);
    bool *levels = mem_alloc(p->process_count * sizeof *levels);
    double grew = 0, level = 0;
    if (!rises || !levels || profile_rises(p, lines->with, t->line, rises)) {
        mem_free(rises);
        mem_free(levels);
        return -ENOMEM;
    }
    memset(levels, 0, p->process_count * sizeof *levels);
    for (uint32_t i = 0; i < p->process_count; i++) {
        uint64_t begin = p->processes[i].begin_us, end = kept_end_us(p, i);
        const profile_rise_t *rise = &rises[i];
        if (rise->had_bytes < of[i].bytes / 2 || !rise->had_bytes || end <= begin) continue;
        double weight = (double)of[i].bytes * (double)(end - begin);
        bool is_level = rise->whole_us <= begin + (end - begin) / 2;
        uint64_t after = rise->whole_us > begin ? rise->whole_us - begin : 0;
        *(is_level ? &level : &grew) += weight;
        levels[i] = is_level && kept_has(p, of, t, i);
        if (levels[i] && after > t->level_us) t->level_us = after;
        if (i == t->largest && rise->half_us < end) t->half_us = end - rise->half_us;
    }
    if (level > grew)
        t->course = kept_is_loaded(p, lines, of, t)  ? KEPT_LOADED
                    : kept_is_unequal(p, of, levels) ? KEPT_UNEQUAL
                                                     : KEPT_LEVEL;
    else if (grew > 0)
        t->course = KEPT_GREW;
    mem_free(rises);
    mem_free(levels);
    return 0;
}

static void kept_parts(const findings_t *f, const profile_t *p, const kept_lines_t *lines,
                       uint32_t line, kept_part_t *of) {
    memset(of, 0, p->process_count * sizeof *of);
    for (uint32_t i = 0; i < p->cell_count; i++) {
        const profile_cell_t *c = &p->cells[i];
        if (lines->with[c->line] != line || !kept_is_unseen(f, p, c->process)) continue;
        kept_part_t *to = &of[c->process];
        to->bytes += kept_bytes(&c->sums);
        to->blocks += c->sums.blocks[PROFILE_LIVE] + c->sums.blocks[PROFILE_GONE];
        to->variance += c->sums.variance[PROFILE_LIVE] + c->sums.variance[PROFILE_GONE];
    }
}

static int kept_measure(const profile_t *p, const kept_lines_t *lines, const kept_part_t *of,
                        kept_told_t *t) {
    uint64_t interval = 0;
    kept_at_once(p, of, t);
    for (uint32_t i = 0; i < p->process_count; i++) {
        const profile_process_t *one = &p->processes[i];
        if (of[i].bytes && one->mode == PROFILE_SAMPLED && one->interval_bytes > interval)
            interval = one->interval_bytes;
    }
    t->off = profile_spread(t->sum.variance, interval);
    return kept_judge(p, lines, of, t);
}

/* "app.py:7", "app.py:7 and 3 lines more" */
static char *kept_place(findings_t *f, const kept_told_t *t) {
    const char *file = profile_file_base(t->frame->file);
    if (!t->more) return findings_text(f, "%s:%u", file, t->frame->line);
    return findings_text(f, "%s:%u and %u line%s more", file, t->frame->line, t->more,
                         t->more > 1 ? "s" : "");
}

static const char *kept_makes(const kept_told_t *t) {
    return t->more ? "make" : "makes";
}

/* "process 4711", "3 processes (4711, 4712, 4713)" */
static char *kept_who(findings_t *f, const profile_t *p, const kept_part_t *of,
                      const kept_told_t *t) {
    enum { PIDS_MOST = 4 };
    char *text;
    uint32_t told = 0;
    if (t->processes == 1)
        return findings_text(f, "process %llu", (unsigned long long)p->processes[t->largest].pid);
    text = findings_text(f, "%u processes (", t->processes);
    for (uint32_t i = 0; text && i < p->process_count && told < PIDS_MOST; i++) {
        if (!kept_has(p, of, t, i)) continue;
        text = findings_text(f, "%s%s%llu", text, told++ ? ", " : "",
                             (unsigned long long)p->processes[i].pid);
    }
    if (!text || told == t->processes) return text ? findings_text(f, "%s)", text) : NULL;
    return findings_text(f, "%s and %u more)", text, t->processes - told);
}

static char *kept_title(findings_t *f, const profile_t *p, const kept_part_t *of,
                        const kept_told_t *t) {
    char size[32], off[32], error[64] = "", since[128] = "";
    char *who = kept_who(f, p, of, t), *place = kept_place(f, t);
    if (!who || !place) return NULL;
    if (t->off) snprintf(error, sizeof error, " (± %s)", findings_bytes(t->off, off));
    if (kept_is_shared(t) || t->course == KEPT_UNEQUAL)
        snprintf(since, sizeof since, ", in each level since %.1f s after its begin%s",
                 (double)t->level_us / 1e6,
                 t->course == KEPT_UNEQUAL ? ", but more in one than in another" : "");
    else if (t->course == KEPT_GREW) {
        uint64_t life = kept_end_us(p, t->largest) - p->processes[t->largest].begin_us;
        snprintf(since, sizeof since, ", half of it in the last %.1f s of %.1f s%s",
                 (double)t->half_us / 1e6, (double)life / 1e6,
                 t->processes > 1 ? " in the largest" : "");
    }
    return findings_text(f, "%s made %s%s that %s %s%s", place, findings_bytes(t->sum.bytes, size),
                         error, who,
                         t->running          ? t->processes == 1 ? "has" : "have together"
                         : t->processes == 1 ? "had at its end"
                                             : "had together at their end",
                         since);
}

/* How to learn who holds it: of a process that has ended only another run tells. */
static char *kept_how(findings_t *f, const profile_t *p, const kept_told_t *t) {
    enum { KILLED = 128 + 9 };
    const profile_process_t *largest = &p->processes[t->largest];
    unsigned long long pid = largest->pid;
    const char *why = t->processes > 1                ? "their heaps were not"
                      : t->largest == p->main_process ? "no heap was"
                                                      : "the heap of that process was not";
    if (!largest->ended)
        return findings_text(f,
                             "%s captured, so who holds it is not known; `lowtide dump %llu` "
                             "tells, or `lowtide attach %llu`, while it runs",
                             why, pid, pid);
    if (largest->has_exit && largest->exit_status == KILLED)
        return findings_text(f,
                             "%s captured, so who held it is not known; run it again with `lowtide "
                             "run --limit 80%% --dump-near-limit`, which captures the heap when "
                             "memory grows short",
                             why);
    return findings_text(f,
                         "%s captured, so who held it is not known; run it again, and `lowtide "
                         "dump` such a process before it ends",
                         why);
}

/* Behind "let go of it: " */
static char *kept_advice(findings_t *f, const profile_t *p, const kept_told_t *t,
                         const char *holder) {
    return holder ? findings_text(f,
                                  "at the peak %s held it; delete there what is done with, or "
                                  "bound it (lowtide.Cache, collections.deque(maxlen=…))",
                                  holder)
                  : kept_how(f, p, t);
}

static char *kept_let_go(findings_t *f, const profile_t *p, const kept_told_t *t,
                         const char *holder) {
    char in[48] = "", *place = kept_place(f, t);
    if (!place) return NULL;
    if (t->processes > 1) snprintf(in, sizeof in, " in %u processes", t->processes);
    char *how = kept_advice(f, p, t, holder);
    return how ? findings_text(f, "let go of what %s %s%s: %s", place, kept_makes(t), in, how)
               : NULL;
}

/* Small objects that are shared by a fork are copied page by page, as their reference counts are written. */
static bool kept_is_small(const kept_told_t *t) {
    enum { SMALL_BYTES = 4096 };
    return t->sum.bytes / SMALL_BYTES < t->sum.blocks;
}

static char *kept_share(findings_t *f, const profile_t *p, const kept_part_t *of,
                        const kept_told_t *t, const char *holder) {
    enum { FORKED = 2 };
    bool forked = true;
    char *place = kept_place(f, t);
    if (!place) return NULL;
    for (uint32_t i = 0; i < p->process_count; i++) {
        const profile_process_t *one = &p->processes[i];
        if (!kept_has(p, of, t, i)) continue;
        if (one->how != FORKED || one->parent != p->processes[t->largest].parent) forked = false;
    }
    bool small = forked && kept_is_small(t), loaded = t->course == KEPT_LOADED;
    char *advice = loaded ? NULL : kept_advice(f, p, t, holder);
    if (!loaded && !advice) return NULL;
    return findings_text(
        f,
        "share what %s %s between the %u processes, %s: %slay it as "
        "arrays or bytes in a file that all map (mmap, numpy.load(…, mmap_mode=\"r\"))%s%s%s",
        place, kept_makes(t), t->processes,
        loaded ? "should each need the same" : "if it is the same in each",
        forked && !small ? "make it before they are forked (gunicorn: preload_app), or " : "",
        small ? "; made before they are forked, small objects stay shared only as long as they are "
                "not used, for counting references writes to them"
              : "",
        advice ? ". Else let go of it: " : "", advice ? advice : "");
}

/* Of what the lines had in the heap at the peak, the part that the holder kept; one, where it is all but what was on its way there. */
static int kept_held_part(const profile_t *p, const model_t *peak, const kept_lines_t *lines,
                          uint32_t line, const profile_held_t *held, double *part) {
    const double all = 15.0 / 16;
    *part = 1;
    if (!held->path) return 0;
    profile_share_t *shares = mem_alloc(p->line_count * sizeof *shares);
    if (!shares) return -ENOMEM;
    uint32_t order = model_order(peak, held->through);
    profile_kept_t kept = {.model = peak, .when = PROFILE_AT_PEAK, .orders = &order, .count = 1};
    uint32_t count = profile_makers(p, &kept, p->line_count, shares);
    double had = 0, of = 0;
    for (uint32_t i = 0; i < count; i++)
        if (lines->with[shares[i].line] == line) had += (double)shares[i].bytes;
    for (uint32_t i = 0; i < p->peak_sample_count; i++) {
        const profile_sample_t *s = &p->peak_samples[i];
        if (s->object != LOWTIDE_NONE && lines->with[s->line] == line)
            of += (double)s->weight * profile_touched(peak, s);
    }
    /* What another has as well is no less found. */
    if (had * 2 < of) {
        had = (double)held->samples;
        of = (double)held->of;
    }
    if (had < of * all) *part = had / of;
    mem_free(shares);
    return 0;
}

/* To let go of it returns what the holder had; of the rest nobody knows who. */
static void kept_scale(findings_t *f, const profile_held_t *held, double part, model_finding_t *x) {
    char size[32];
    x->bytes = (uint64_t)((double)x->bytes * part);
    x->objects = (uint64_t)((double)x->objects * part);
    if (x->title)
        x->title = findings_text(f, "%s; %s held %.0f %% of it at the peak, %s", x->title,
                                 held->path, part * 100, findings_bytes(x->bytes, size));
}

static int kept_tell(findings_t *f, const profile_t *p, const model_t *peak,
                     const kept_lines_t *lines, const kept_part_t *of, kept_told_t *t) {
    profile_held_t held = {0};
    double part = 1;
    model_finding_t *x = findings_add(f, "kept-memory");
    if (!x) return findings_no_memory(f);
    if (kept_is_unseen(f, p, p->peak_heap_process)) profile_peak_holder(p, peak, t->line, &held);
    bool failed = kept_held_part(p, peak, lines, t->line, &held, &part) != 0;
    bool shared = kept_is_shared(t);
    x->title = kept_title(f, p, of, t);
    x->fix = shared ? kept_share(f, p, of, t, held.path) : kept_let_go(f, p, t, held.path);
    x->bytes = t->sum.bytes - (shared ? of[t->largest].bytes : 0);
    x->objects = t->sum.blocks - (shared ? of[t->largest].blocks : 0);
    if (part < 1 && !shared) kept_scale(f, &held, part, x);
    x->site_share = t->site_share;
    if (held.path) x->held_at_peak = findings_text(f, "%s", held.path);
    x->confidence = shared || t->course == KEPT_UNEQUAL      ? "low"
                    : held.path && t->off * 4 < t->sum.bytes ? "high"
                                                             : "medium";
    failed |= !x->title || !x->fix || (held.path && !x->held_at_peak);
    profile_held_free(&held);
    return failed ? findings_no_memory(f) : profile_set_site(f, t->frame, x);
}

/* What one process alone needs for all of its life is nobody's to change. */
static bool kept_is_worth(const kept_part_t *of, const kept_told_t *t) {
    uint64_t bytes = t->sum.bytes - (kept_is_shared(t) ? of[t->largest].bytes : 0);
    return bytes >= KEPT_MIN_BYTES && bytes > t->off;
}

/* What importing took is there for good; what no line of a file made is nobody's to change. */
static bool kept_is_line(const profile_frame_t *f) {
    return f->kind == PROFILE_PYTHON && f->file[0] && strncmp(f->file, "<frozen", 7) != 0 &&
           !profile_is_import(f);
}

/* Whether most of what a line made, as far as the heap at the peak knows, is what the holder keeps. */
static bool kept_is_held(const profile_t *p, const model_t *peak, const profile_share_t *share) {
    double of = 0;
    for (uint32_t i = 0; i < p->peak_sample_count; i++) {
        const profile_sample_t *s = &p->peak_samples[i];
        if (s->line == share->line && s->object != LOWTIDE_NONE)
            of += (double)s->weight * profile_touched(peak, s);
    }
    return (double)share->bytes >= of / 4 * 3;
}

/* Whether the line is told with another, by what holds both. */
static bool kept_may_join(const profile_t *p, const model_t *peak, const kept_lines_t *lines,
                          uint32_t line, const profile_share_t *other) {
    return other->line != line && lines->with[other->line] == LOWTIDE_NONE &&
           lines->bytes[other->line] && kept_is_line(&p->lines[other->line].frame) &&
           kept_is_held(p, peak, other);
}

/* Takes to the line what others made of what holds most of it, should that be worth a word. */
static int kept_take(const profile_t *p, const model_t *peak, uint32_t line, kept_lines_t *lines) {
    enum { WORTH_PART = 16 };
    profile_held_t held = {0};
    profile_share_t *shares = mem_alloc(p->line_count * sizeof *shares);
    if (!shares) return -ENOMEM;
    profile_peak_holder(p, peak, line, &held);
    uint32_t order = held.path ? model_order(peak, held.through) : 0, count = 0;
    profile_kept_t kept = {.model = peak, .when = PROFILE_AT_PEAK, .orders = &order, .count = 1};
    if (held.path) count = profile_makers(p, &kept, p->line_count, shares);
    bool is_held = false;
    uint64_t more = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (shares[i].line == line) is_held = kept_is_held(p, peak, &shares[i]);
        if (kept_may_join(p, peak, lines, line, &shares[i])) more += lines->bytes[shares[i].line];
    }
    bool is_worth = is_held && more >= lines->bytes[line] / WORTH_PART;
    for (uint32_t i = 0; i < count && is_worth; i++) {
        uint32_t other = shares[i].line;
        if (!kept_may_join(p, peak, lines, line, &shares[i])) continue;
        lines->with[other] = line;
        lines->bytes[line] += lines->bytes[other];
        lines->bytes[other] = 0;
    }
    lines->with[line] = line;
    profile_held_free(&held);
    mem_free(shares);
    return 0;
}

/* What a server keeps of each request is made by many lines, most of them libraries': it is one finding, of what holds it. */
static int kept_join(const findings_t *f, const profile_t *p, const model_t *peak,
                     kept_lines_t *lines) {
    enum { ASKED_MOST = 8, PART_LEAST = 64 };
    int status = 0;
    for (uint32_t i = 0; i < p->line_count; i++) lines->with[i] = LOWTIDE_NONE;
    bool known = peak && kept_is_unseen(f, p, p->peak_heap_process);
    for (int asked = 0; known && asked < ASKED_MOST && !status; asked++) {
        uint32_t most = LOWTIDE_NONE;
        for (uint32_t i = 0; i < p->line_count; i++) {
            bool may = lines->with[i] == LOWTIDE_NONE && kept_is_line(&p->lines[i].frame);
            if (may && (most == LOWTIDE_NONE || lines->bytes[i] > lines->bytes[most])) most = i;
        }
        if (most == LOWTIDE_NONE || lines->bytes[most] <= lines->all / PART_LEAST) break;
        status = kept_take(p, peak, most, lines);
    }
    for (uint32_t i = 0; i < p->line_count; i++)
        if (lines->with[i] == LOWTIDE_NONE) lines->with[i] = i;
    return status;
}

/* Of lines that are told together the place is the program's own that made most, should it have made some of it to speak of. */
static void kept_where(const profile_t *p, const kept_lines_t *lines, const uint64_t *alone,
                       kept_told_t *t) {
    enum { PART_LEAST = 10 };
    uint64_t most = lines->bytes[t->line] / PART_LEAST, made = alone[t->line];
    t->frame = &p->lines[t->line].frame;
    for (uint32_t i = 0; i < p->line_count; i++) {
        if (lines->with[i] != t->line || !alone[i]) continue;
        t->more += i != t->line;
        if (profile_is_library(&p->lines[i].frame) || alone[i] <= most) continue;
        most = made = alone[i];
        t->frame = &p->lines[i].frame;
    }
    if (made < lines->bytes[t->line] / 2)
        t->site_share = (double)made / (double)lines->bytes[t->line];
}

/* The next line by its bytes, told where it is worth it. */
static int kept_line(findings_t *f, const profile_t *p, const model_t *peak,
                     const kept_lines_t *lines, kept_told_t *t, int *found) {
    kept_part_t *of = mem_alloc(p->process_count * sizeof *of);
    if (!of) return findings_no_memory(f);
    kept_parts(f, p, lines, t->line, of);
    int status = kept_measure(p, lines, of, t);
    if (status) {
        findings_no_memory(f);
    } else if (kept_is_worth(of, t)) {
        status = kept_tell(f, p, peak, lines, of, t);
        (*found)++;
    }
    mem_free(of);
    return status;
}

int profile_kept_memory(findings_t *f, const profile_t *p, const model_t *peak) {
    if (p->mode == PROFILE_NONE || !p->process_count || !p->line_count) return 0;
    size_t bytes = p->line_count * sizeof(uint64_t);
    kept_lines_t lines = {.bytes = mem_alloc(2 * bytes),
                          .with = mem_alloc(p->line_count * sizeof *lines.with)};
    int status = lines.bytes && lines.with ? 0 : -ENOMEM;
    uint64_t *alone = lines.bytes + p->line_count;
    if (!status) {
        memset(lines.bytes, 0, bytes);
        kept_sums(f, p, &lines);
        memcpy(alone, lines.bytes, bytes);
        status = kept_join(f, p, peak, &lines);
    }
    if (status) findings_no_memory(f);
    for (int found = 0; !status && found < KEPT_MOST;) {
        kept_told_t t = {0};
        for (uint32_t i = 1; i < p->line_count; i++)
            if (lines.bytes[i] > lines.bytes[t.line]) t.line = i;
        if (lines.bytes[t.line] < KEPT_MIN_BYTES || lines.bytes[t.line] < lines.all / KEPT_SHARE)
            break;
        kept_where(p, &lines, alone, &t);
        lines.bytes[t.line] = 0;
        if (kept_is_line(&p->lines[t.line].frame))
            status = kept_line(f, p, peak, &lines, &t, &found);
    }
    mem_free(lines.bytes);
    mem_free(lines.with);
    return status;
}
