/* temporary-peak: what was alive at the peak alone, the line that made it, and how much lower the peak is without it. */
#define _GNU_SOURCE
#include "base/mem.h"
#include "base/origin.h"
#include "explain/profile_course.h"
#include "explain/profile_findings.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t temporary_less(uint64_t a, uint64_t b) {
    return a > b ? a - b : 0;
}

static uint64_t temporary_gone(const profile_sums_t *s) {
    return temporary_less(s->bytes[PROFILE_PEAK], s->bytes[PROFILE_LIVE]);
}

enum { TEMPORARY_MIN_BYTES = 16 << 20, TEMPORARY_SHARE = 5, TEMPORARY_MOST = 3 };
enum { LARGE_BYTES = 1 << 20 }; /* arrays and texts, rather than objects */

static const double IN_95 = 2; /* σ */

static int temporary_u64_compare(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* What the process usually had, the median of its timeline; and the least that was resident. */
static int temporary_usual(const profile_t *p, uint32_t process, uint64_t *out, uint64_t *rss_out,
                           err_t *e) {
    uint64_t *heap = mem_alloc((2 * (size_t)p->point_count + 1) * sizeof *heap);
    uint64_t *rss = heap + p->point_count;
    uint32_t count = 0;
    if (!heap) return err_set(e, -ENOMEM, "no memory for the allocation profile");
    for (uint32_t i = 0; i < p->point_count; i++) {
        if (p->points[i].process != process) continue;
        rss[count] = p->points[i].rss_bytes;
        heap[count++] = p->points[i].heap_bytes;
    }
    if (count) qsort(heap, count, sizeof *heap, temporary_u64_compare);
    *out = count ? heap[count / 2] : UINT64_MAX;
    *rss_out = UINT64_MAX;
    for (uint32_t i = 0; i < count; i++)
        if (rss[i] < *rss_out) *rss_out = rss[i];
    mem_free(heap);
    return 0;
}

/* What to write in place of what is made all at once: by what made it, before what the line's text lets one guess. */
static const struct {
    const char *in, *source; /* how the file begins, below its library; or of the line */
    const char *advice;
} temporary_rows[] = {
    {"json/", NULL, "read it record by record (JSON Lines, or a streaming parser such as ijson)"},
    {"csv.py", NULL, "take row by row what the reader yields"},
    {"openpyxl/", NULL, "load_workbook(path, read_only=True), and iter_rows() of it"},
    {"pandas/", NULL,
     "read and work in chunks (chunksize=), with fewer columns (usecols=) or smaller "
     "types (dtype=), and del what is done with"},
    {"pyarrow/", NULL, "read it batch by batch (lowtide.stream, iter_batches)"},
    {"polars/", NULL, "scan_… and collect(engine=\"streaming\") in place of read_…"},
    {"scipy/sparse/", "toarray(", "keep the matrix sparse, or take it in blocks of rows"},
    {"scipy/sparse/", "todense(", "keep the matrix sparse, or take it in blocks of rows"},
    {"sklearn/", NULL,
     "hand it data that it need not copy (float32 or float64 in C order, sparse where most is "
     "zero), or fit in batches (partial_fit)"},
    {"numpy/", NULL, "work in place (out=, +=), in blocks of rows, or on a smaller dtype"},
    {"multiprocessing/", NULL,
     "take each result when it comes (imap_unordered, as_completed) and keep none, or have tasks "
     "return less"},
    {"django/db/", NULL,
     "queryset.iterator() in place of the queryset, which keeps all its objects; or .values_list() "
     "of what is needed"},
    {"sqlalchemy/", NULL,
     "flush, commit and expunge_all() every thousand objects; read with yield_per(1000)"},
    {"<listcomp>", NULL,
     "a generator expression in place of the list, where it is gone through once"},
    {"pickle.py", NULL, "store and load it in parts"},
    {"copy.py", NULL, "copy what changes alone in place of all (copy.deepcopy)"},
    {NULL, ".fetchall(", "a loop over the cursor itself, or fetchmany(1000)"},
    {NULL, ".readlines(", "a loop over the file itself"},
};

static const profile_site_t *temporary_by(const profile_t *p, const profile_site_t *line) {
    return line->most < p->site_count ? &p->sites[line->most] : line;
}

/* "json/" is the library's, and no directory of the program's own. */
static bool temporary_is_in(const profile_frame_t *by, const char *in) {
    const char *below;
    if (*in == '<') return strstr(by->function, in) != NULL;
    return origin_of(by->file, &below) <= ORIGIN_PACKAGE && strncmp(below, in, strlen(in)) == 0;
}

/* Pipes and queues of multiprocessing, which concurrent.futures has as well. Where a thread of the pool's unpickles them, no line of the
 * program's stands on the stack. What a worker is sent is no result. */
static bool temporary_is_results(const profile_t *p, const profile_site_t *line) {
    const profile_frame_t *by = &temporary_by(p, line)->frame;
    bool is_worker = p->processes[p->peak_process].parent != LOWTIDE_NONE;
    for (uint32_t i = 0; i < p->process_count; i++)
        if (p->processes[i].parent == p->peak_process) is_worker = false;
    return !is_worker && (temporary_is_in(by, "multiprocessing/connection.py") ||
                          temporary_is_in(by, "multiprocessing/queues.py"));
}

static const char *temporary_advice(const profile_t *p, const profile_site_t *line) {
    const profile_site_t *most = temporary_by(p, line);
    const profile_frame_t *by = &most->frame;
    const char *source = line->frame.source ? line->frame.source : "";
    if (temporary_is_in(by, "multiprocessing/") && !temporary_is_results(p, line))
        return "send less at a time: a part of it, or where it lies (a path, "
               "multiprocessing.shared_memory)";
    for (size_t i = 0; i < sizeof temporary_rows / sizeof *temporary_rows; i++) {
        const char *in = temporary_rows[i].in, *text = temporary_rows[i].source;
        if (in && !temporary_is_in(by, in)) continue;
        if (!text || strstr(source, text)) return temporary_rows[i].advice;
    }
    const profile_sums_t *s = &most->sums;
    if (s->bytes[PROFILE_PEAK] / LARGE_BYTES > s->blocks[PROFILE_PEAK])
        return "an operation in place (out=, +=) or part by part, a smaller type, or del of what "
               "is "
               "no longer needed before it";
    return "a generator in place of a list, chunks of the input (lowtide.stream), or del of what "
           "is "
           "no longer needed before it";
}

bool profile_path_local(const char *path, char *local, char *function, size_t room) {
    const char *call = NULL;
    for (const char *at = path; (at = strstr(at, "() > ")); at++) call = at;
    if (!call) return false;
    const char *begin = call, *name = call + 5;
    while (begin > path && begin[-1] != ' ') begin--;
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    if (!n || n >= room || (size_t)(call - begin) >= room) return false;
    snprintf(local, room, "%.*s", (int)n, name);
    snprintf(function, room, "%.*s", (int)(call - begin), begin);
    return true;
}

/* Whether it goes when the function lets go of it: nothing but one frame keeps it alive, and not by `self`. */
static bool temporary_is_alone(const model_t *m, uint32_t id, const char *local) {
    if (!strcmp(local, "self") || !strcmp(local, "cls")) return false;
    while (id < m->g.n && model_shape_of(m, id)->kind == LOWTIDE_SHAPE_OBJECT)
        id = model_idom(m, id);
    return id < m->g.n && model_shape_of(m, id)->kind == LOWTIDE_SHAPE_FRAME;
}

bool profile_is_own_function(const profile_t *p, const char *function) {
    for (uint32_t i = 0; i < p->frame_count; i++) {
        const profile_frame_t *f = &p->frames[i];
        if (!profile_is_library(f) && strcmp(f->function, function) == 0) return true;
    }
    return false;
}

/* Whether the heap at the peak had most of what the line made: what was still being made when it was captured may be for its caller,
 * and is no local to del. */
static bool temporary_is_whole(const profile_t *p, uint32_t line, uint64_t bytes) {
    uint64_t had = 0;
    for (uint32_t i = 0; i < p->peak_sample_count; i++)
        if (p->peak_samples[i].line == line) had += p->peak_samples[i].weight;
    return had >= bytes / 4 * 3;
}

typedef struct temporary_told {
    bool usual; /* at the peak was no more than the process had for half of its time */
    const profile_site_t *line;
    const profile_sums_t *sums;
    uint64_t gone; /* of what it had at the peak */
    uint64_t returned,
        off; /* so much lower the peak is without that; and how far that may be off */
    profile_without_t without; /* what the peak is then; its first line is the line */
    uint64_t alone;            /* of several lines: what the peak falls by without the first */
    bool results;              /* what other processes sent */
    uint64_t under_way;        /* of that: what is there at a time however it is taken */
} temporary_told_t;

/* "app.py:7" or "app.py:7 and app.py:12": the others that are told with the first */
static char *temporary_others(findings_t *f, const profile_t *p, const temporary_told_t *t) {
    char *text = findings_text(f, "%s", "");
    for (uint32_t i = 1; text && i < t->without.count; i++) {
        const profile_frame_t *one = &p->lines[t->without.lines[i]].frame;
        text = findings_text(f, "%s%s%s:%u", text, i > 1 ? " and " : "",
                             profile_file_base(one->file), one->line);
    }
    return text;
}

static bool temporary_is_sent(const temporary_told_t *t) {
    return t->results && t->without.count == 1 && profile_is_library(&t->line->frame);
}

/* "app.py:9 made 98.0 MiB (± 14.0 MiB) that lived at the peak alone, 2.5 s in; the peak falls by 69.1 MiB, to that of app.py:6, 3.1 s in" */
static char *temporary_title(findings_t *f, const profile_t *p, const temporary_told_t *t) {
    const profile_frame_t *frame = &t->line->frame;
    const profile_process_t *of = &p->processes[p->peak_process];
    uint64_t off = profile_error(p, t->sums, PROFILE_PEAK);
    uint64_t own = t->without.count > 1 ? temporary_gone(t->sums) : t->gone;
    char size[32], error[64] = "", at[48] = "", falls[480] = "", other[200] = "what else was alive";
    char bytes[32];
    if (off) snprintf(error, sizeof error, " (± %s)", findings_bytes(off, bytes));
    /* Its bytes are those of the heap's peak; the RSS may be at its highest at another time. */
    if (of->heap_peak_bytes) snprintf(at, sizeof at, ", %.1f s in", (double)of->heap_peak_us / 1e6);
    char fall[32];
    if (t->without.count > 1) {
        char *others = temporary_others(f, p, t), alone[32];
        bool both = t->without.count == 2;
        if (!others) return NULL;
        snprintf(falls, sizeof falls,
                 "; the %s of %.150s %s about as high: without %s the highest falls by %s, without "
                 "the first alone by %s",
                 both ? "peak" : "peaks", others, both ? "is" : "are", both ? "both" : "all",
                 findings_bytes(t->returned, fall), findings_bytes(t->alone, alone));
    } else if (t->under_way) {
        snprintf(falls, sizeof falls,
                 "; the peak falls by %s: what workers have at a time, %s, is there anyway",
                 findings_bytes(t->returned, fall), findings_bytes(t->under_way, bytes));
    } else if (t->returned < t->gone) {
        char doubt[64] = "";
        const profile_frame_t *by =
            t->without.other < p->line_count ? &p->lines[t->without.other].frame : NULL;
        if (by)
            snprintf(other, sizeof other, "that of %.150s:%u", profile_file_base(by->file),
                     by->line);
        if (t->off) snprintf(doubt, sizeof doubt, " (± %s)", findings_bytes(t->off, bytes));
        int n = snprintf(falls, sizeof falls, "; the peak falls by %s%s",
                         findings_bytes(t->returned, fall), doubt);
        if (t->without.known)
            snprintf(falls + n, sizeof falls - (size_t)n, ", to %s, %.1f s in", other,
                     (double)t->without.t_us / 1e6);
    }
    const char *file = profile_file_base(frame->file);
    findings_bytes(own, size);
    char *lead = temporary_is_sent(t)
                     ? findings_text(f, "workers sent %s%s of results, unpickled by %s:%u,", size,
                                     error, file, frame->line)
                     : findings_text(f, "%s:%u made %s%s", file, frame->line, size, error);
    if (!lead) return NULL;
    return findings_text(f, "%s that %s%s%s%s", lead,
                         t->usual ? "were alive at the peak" : "lived at the peak alone", at,
                         t->usual ? ", and are gone at the end" : "", falls);
}

static char *temporary_fix(findings_t *f, const profile_t *p, const temporary_told_t *t,
                           const char *holder) {
    const profile_frame_t *frame = &t->line->frame;
    char *others = temporary_others(f, p, t);
    if (!others) return NULL;
    /* What is still being made by C code is nothing to look for. */
    if (holder && strncmp(holder, "C code", 6) == 0) holder = NULL;
    if (temporary_is_sent(t))
        return findings_text(f, "take what workers send piece by piece: %s%s%s%s",
                             temporary_advice(p, t->line), holder ? "; at the peak " : "",
                             holder ? holder : "", holder ? " held it" : "");
    return findings_text(
        f, "make what %s:%u makes%s%s piece by piece: %s", profile_file_base(frame->file),
        frame->line, *others ? ", and what " : "",
        *others ? findings_text(f, "%s %s,", others, t->without.count > 2 ? "make" : "makes") : "",
        temporary_advice(p, t->line));
}

static int temporary_tell(findings_t *f, const profile_t *p, const model_t *peak_heap,
                          const temporary_told_t *t) {
    const profile_site_t *line = t->line;
    const profile_sums_t *sums = t->sums;
    char local[96], function[96];
    profile_held_t held;
    model_finding_t *x = findings_add(f, "temporary-peak");
    if (!x) return findings_no_memory(f);
    uint64_t live = sums->blocks[PROFILE_LIVE], peak = sums->blocks[PROFILE_PEAK];
    x->bytes = t->returned;
    x->objects = peak > live ? peak - live : 0;
    x->title = temporary_title(f, p, t);
    profile_peak_holder(p, peak_heap, (uint32_t)(line - p->lines), &held);
    if (held.path) x->held_at_peak = findings_text(f, "%s", held.path);
    bool has_local = t->without.count == 1 && held.path &&
                     profile_path_local(held.path, local, function, sizeof local) &&
                     profile_is_own_function(p, function) &&
                     temporary_is_alone(peak_heap, held.through, local) &&
                     temporary_is_whole(p, (uint32_t)(line - p->lines), sums->bytes[PROFILE_PEAK]);
    x->fix = temporary_fix(f, p, t, held.path);
    if (x->fix && has_local)
        x->fix = findings_text(f, "%s; or `del %s` in %s() as soon as it is done with", x->fix,
                               local, function);
    profile_held_free(&held);
    bool sure = t->without.known && t->without.may_bytes <= t->without.high_bytes + t->returned / 4;
    x->confidence = t->off * 4 < t->returned && sure ? "high" : "medium";
    return x->title && x->fix ? profile_set_site(f, &line->frame, x) : findings_no_memory(f);
}

/* What the allocator adds to a block of Python's, on average: it hands out multiples of 16 up to 512 bytes. Objects' sizes
 * are multiples of 8 nearly all, the half of them of 16, and texts have any; so of many sizes it is some 6. */
static uint64_t temporary_rounding(const profile_cell_t *c, int figure) {
    enum { DOMAIN_MEM = 2, DOMAIN_OBJECT = 3, UNIT = 16, MOST = 512, MIXED = 6 };
    static const double WHOLE = 1.0 / 64;
    uint64_t blocks = c->sums.blocks[figure];
    double mean = blocks ? (double)c->sums.bytes[figure] / (double)blocks : 0;
    bool small = (c->domain == DOMAIN_MEM || c->domain == DOMAIN_OBJECT) && mean > 0;
    if (!small || mean > MOST) return 0;
    /* Of blocks of one size the mean is that one. */
    if (fabs(mean - round(mean)) > WHOLE) return MIXED * blocks;
    return (UNIT - (uint64_t)round(mean) % UNIT) % UNIT * blocks;
}

/* Of the process with the highest peak: what each line had, as it lies in memory. What went with an ended process was kept until its
 * end: it counts as left, and nothing of it was temporary. */
typedef struct temporary_lines {
    profile_sums_t *sums;
    uint64_t *asked_peak, *asked_live; /* what it asked for of that, which is what a course tells */
    uint64_t peak, left;               /* of all, as it lies in memory */
    uint64_t asked;                    /* of all at the peak */
} temporary_lines_t;

static void temporary_lines_free(temporary_lines_t *x) {
    mem_free(x->sums);
    mem_free(x->asked_peak);
}

static int temporary_lines(const profile_t *p, temporary_lines_t *x) {
    size_t bytes = p->line_count * sizeof *x->sums, asked = p->line_count * sizeof *x->asked_peak;
    *x = (temporary_lines_t){.sums = mem_alloc(bytes), .asked_peak = mem_alloc(2 * asked)};
    if (!x->sums || !x->asked_peak) {
        temporary_lines_free(x);
        return -ENOMEM;
    }
    x->asked_live = x->asked_peak + p->line_count;
    memset(x->sums, 0, bytes);
    memset(x->asked_peak, 0, 2 * asked);
    for (uint32_t i = 0; i < p->cell_count; i++) {
        profile_cell_t c = p->cells[i];
        if (c.process != p->peak_process) continue;
        c.sums.bytes[PROFILE_LIVE] += c.sums.bytes[PROFILE_GONE];
        c.sums.blocks[PROFILE_LIVE] += c.sums.blocks[PROFILE_GONE];
        x->asked_peak[c.line] += c.sums.bytes[PROFILE_PEAK];
        x->asked_live[c.line] += c.sums.bytes[PROFILE_LIVE];
        x->asked += c.sums.bytes[PROFILE_PEAK];
        uint64_t at_peak = temporary_rounding(&c, PROFILE_PEAK),
                 left = temporary_rounding(&c, PROFILE_LIVE);
        c.sums.bytes[PROFILE_PEAK] += at_peak;
        c.sums.bytes[PROFILE_LIVE] += left;
        profile_add_sums(&x->sums[c.line], &c.sums);
        x->peak += c.sums.bytes[PROFILE_PEAK];
        x->left += c.sums.bytes[PROFILE_LIVE];
    }
    return 0;
}

static void temporary_add(const temporary_lines_t *x, temporary_told_t *t, uint32_t line) {
    t->without.lines[t->without.count] = line;
    t->without.kept_bytes[t->without.count++] = x->asked_live[line];
}

/* How much lower the peak is without what is gone of the lines: down to the most that was alive of the rest, and no more than `above`. */
static int temporary_returns(const profile_t *p, const temporary_lines_t *x, uint64_t above,
                             temporary_told_t *t) {
    enum { CLEARLY = 16 };
    uint64_t asked = 0;
    int status = profile_without(p, x->asked_peak, &t->without);
    t->gone = 0;
    for (uint32_t i = 0; i < t->without.count; i++) {
        uint32_t line = t->without.lines[i];
        t->gone += temporary_gone(&x->sums[line]);
        asked += temporary_less(x->asked_peak[line], x->asked_live[line]);
    }
    uint64_t most = temporary_less(x->asked, t->without.high_bytes);
    bool known = t->without.known && asked;
    if (!known && t->gone > above) t->gone = above;
    t->returned = t->gone;
    t->off = profile_error(p, t->sums, PROFILE_PEAK);
    if (status || !known || most + asked / CLEARLY >= asked) return status;
    t->returned = (uint64_t)((double)t->gone * (double)most / (double)asked);
    if (t->returned > above) t->returned = above;
    /* Of what is alive at both moments the error is the same. */
    double of_line = (double)t->off;
    if (t->off) t->off = (uint64_t)hypot(of_line, IN_95 * sqrt(t->without.fresh_variance));
    return 0;
}

/* However results are taken, each worker makes its next one, as large as what it had at its peak and let go of again; then it is here.
 * Of workers that came one after the other those count that were there together. */
static int temporary_under_way(const profile_t *p, uint64_t *out) {
    uint64_t *of = mem_alloc(p->process_count * sizeof *of);
    if (!of) return -ENOMEM;
    memset(of, 0, p->process_count * sizeof *of);
    for (uint32_t i = 0; i < p->cell_count; i++) {
        const profile_cell_t *c = &p->cells[i];
        if (p->processes[c->process].parent != p->peak_process) continue;
        if (strstr(p->sites[p->stacks[c->stack].site].frame.file, "/multiprocessing/")) continue;
        uint64_t peak = c->sums.bytes[PROFILE_PEAK] + temporary_rounding(c, PROFILE_PEAK);
        of[c->process] +=
            temporary_less(peak, c->sums.bytes[PROFILE_LIVE] + c->sums.bytes[PROFILE_GONE]);
    }
    *out = 0;
    for (uint32_t i = 0; i < p->process_count; i++) {
        const profile_process_t *last = &p->processes[i];
        uint64_t sum = 0, at_us = last->ended ? last->end_us : UINT64_MAX;
        for (uint32_t k = 0; k < p->process_count && of[i]; k++) {
            const profile_process_t *one = &p->processes[k];
            if (one->begin_us <= at_us && (!one->ended || one->end_us >= at_us)) sum += of[k];
        }
        if (sum > *out) *out = sum;
    }
    mem_free(of);
    return 0;
}

static int temporary_keep_under_way(const profile_t *p, temporary_told_t *t) {
    t->results = temporary_is_results(p, t->line);
    if (!t->results) return 0;
    int status = temporary_under_way(p, &t->under_way);
    /* Of workers that need much for little one cannot tell. */
    if (t->under_way > t->returned / 2) t->under_way = t->returned / 2;
    t->returned -= t->under_way;
    return status;
}

static bool temporary_is_worth(const temporary_told_t *t, uint64_t least) {
    return t->returned >= least && t->returned > t->off;
}

/* Where other lines have a peak of their own that is as high, no line alone lowers it: they do together. */
static int temporary_together(const profile_t *p, const temporary_lines_t *x, uint64_t above,
                              uint64_t least, temporary_told_t *t) {
    temporary_told_t more = *t;
    int status = 0;
    while (!status && !temporary_is_worth(&more, least) && more.without.known &&
           more.without.other < p->line_count && more.without.count < PROFILE_WITHOUT_MOST) {
        temporary_add(x, &more, more.without.other);
        status = temporary_returns(p, x, above, &more);
    }
    if (status || !temporary_is_worth(&more, least)) return status;
    more.alone = t->returned;
    *t = more;
    return 0;
}

static uint32_t temporary_most(const profile_t *p, const temporary_lines_t *x) {
    uint32_t most = 0;
    for (uint32_t i = 1; i < p->line_count; i++)
        if (temporary_gone(&x->sums[i]) > temporary_gone(&x->sums[most])) most = i;
    return most;
}

/* The peak stands clearly above what is left at the end, or above what the process usually had; the lines that had more at the peak
 * than now are told, all together of no more than what is above. What is built up over half of the time, or kept that long, is usual
 * and gone all the same. */
int profile_temporary_peaks(findings_t *f, const profile_t *p, const model_t *peak_heap) {
    uint64_t median = 0, least_rss = 0;
    temporary_lines_t x;
    if (p->mode == PROFILE_NONE || !p->process_count || !p->line_count) return 0;
    if (temporary_lines(p, &x)) return findings_no_memory(f);
    int status = temporary_usual(p, p->peak_process, &median, &least_rss, f->e);
    uint64_t above = temporary_less(x.peak, median < x.left ? median : x.left);
    /* What was allocated and never touched is not resident: the fix returns none of it. */
    uint64_t above_rss = temporary_less(p->rss_peak_bytes, least_rss);
    if (above > above_rss) above = above_rss;
    for (int found = 0; !status && above >= x.peak / TEMPORARY_SHARE && found < TEMPORARY_MOST;
         found++) {
        uint32_t most = temporary_most(p, &x);
        temporary_told_t told = {.line = &p->lines[most],
                                 .sums = &x.sums[most],
                                 .gone = temporary_gone(&x.sums[most]),
                                 .without = {.process = p->peak_process}};
        uint64_t least = x.peak / 10 > TEMPORARY_MIN_BYTES ? x.peak / 10 : TEMPORARY_MIN_BYTES;
        if (told.gone < least || told.gone < profile_error(p, told.sums, PROFILE_PEAK)) break;
        temporary_add(&x, &told, most);
        if (temporary_returns(p, &x, above, &told) || temporary_keep_under_way(p, &told))
            status = findings_no_memory(f);
        if (!status && !temporary_is_worth(&told, least) &&
            temporary_together(p, &x, above, least, &told))
            status = findings_no_memory(f);
        told.usual = x.peak < median + told.returned / 2;
        if (!status && temporary_is_worth(&told, least))
            status = temporary_tell(f, p, peak_heap, &told);
        for (uint32_t i = 0; i < told.without.count; i++)
            x.sums[told.without.lines[i]].bytes[PROFILE_PEAK] = 0;
        above = temporary_less(above, told.returned);
    }
    temporary_lines_free(&x);
    return status;
}
