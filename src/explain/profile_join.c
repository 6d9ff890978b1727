/* What the profile and the heap tell together: who made an object, and what a line's objects are
 * held by; and the findings that the profile alone can tell. */
#define _GNU_SOURCE
#include "base/mem.h"
#include "explain/profile_findings.h"
#include "explain/profile_lines.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The last sample of [begin, end) that does not begin behind the address. */
static profile_sample_t *join_sample(profile_sample_t *begin, profile_sample_t *end,
                                     uint64_t address) {
    if (begin == end || address < begin->address) return NULL;
    while (end - begin > 1) {
        profile_sample_t *middle = begin + (end - begin) / 2;
        if (middle->address <= address) {
            begin = middle;
        } else {
            end = middle;
        }
    }
    return address - begin->address < begin->bytes ? begin : NULL;
}

/* Blocks that objects own apart from their own: a list's items, an array's data. */
static int join_blocks(profile_sample_t *begin, profile_sample_t *end, const model_t *m, err_t *e) {
    lowtide_table *t;
    lowtide_error error;
    int status = lowtide_table_load(model_recording(m), "blocks", &t, &error);
    if (status == -ENOMEM) return err_set(e, status, "%s", error.text);
    if (status) return 0; /* a damaged one is as good as none */
    uint32_t object = lowtide_table_column(t, "object"), at = lowtide_table_column(t, "address");
    for (uint32_t i = 0; i < lowtide_table_rows(t); i++) {
        uint64_t id = lowtide_table_number(t, object, i);
        profile_sample_t *s = join_sample(begin, end, lowtide_table_number(t, at, i));
        if (s && s->object == LOWTIDE_NONE && id < model_objects(m)) s->object = (uint32_t)id;
    }
    lowtide_table_free(t);
    return 0;
}

/* Samples of one process, and the heap that they lie in. */
static int join_heap(profile_sample_t *begin, profile_sample_t *end, uint32_t process,
                     const model_t *m, err_t *e) {
    const lowtide_recording *rec = model_recording(m);
    while (begin < end && begin->process != process) begin++;
    while (end > begin && end[-1].process != process) end--;
    lowtide_chunk *chunk = NULL;
    int status = 0;
    for (uint32_t i = 0; begin < end && i < lowtide_chunks(rec) && !status; i++) {
        lowtide_error error;
        status = lowtide_chunk_load(rec, i, LOWTIDE_COL_ADDRESS, &chunk, &error);
        if (status) {
            err_set(e, status, "%s", error.text);
            break;
        }
        for (uint32_t k = 0; k < chunk->count; k++) {
            profile_sample_t *s = join_sample(begin, end, chunk->address[k]);
            if (!s || s->object != LOWTIDE_NONE) continue;
            if (lowtide_shape_at(rec, chunk->shape[k])->kind == LOWTIDE_SHAPE_OBJECT)
                s->object = chunk->first + k;
        }
    }
    lowtide_chunk_free(chunk);
    return status || begin == end ? status : join_blocks(begin, end, m, e);
}

static int join_place_compare(const void *a, const void *b) {
    const profile_place_t *x = a, *y = b;
    if (x->order != y->order) return x->order < y->order ? -1 : 1;
    return x->sample < y->sample ? -1 : x->sample > y->sample;
}

static int join_places(profile_t *p, int when, const model_t *m, err_t *e) {
    const profile_sample_t *samples = when == PROFILE_AT_PEAK ? p->peak_samples : p->samples;
    uint32_t count = when == PROFILE_AT_PEAK ? p->peak_sample_count : p->sample_count;
    profile_places_t *places = &p->places[when];
    places->at = arena_alloc(&p->arena, ((size_t)count + 1) * sizeof *places->at);
    if (!places->at) return err_set(e, -ENOMEM, "no memory for the allocation profile");
    for (uint32_t i = 0; i < count; i++) {
        if (samples[i].object == LOWTIDE_NONE) continue;
        places->at[places->count++] = (profile_place_t){model_order(m, samples[i].object), i};
    }
    qsort(places->at, places->count, sizeof *places->at, join_place_compare);
    return 0;
}

int profile_join(profile_t *p, const model_t *m, const model_t *peak, err_t *e) {
    int status = join_heap(p->samples, p->samples + p->sample_count, p->main_process, m, e);
    if (!status) status = join_places(p, PROFILE_AT_END, m, e);
    if (!status && peak) {
        status = join_heap(p->peak_samples, p->peak_samples + p->peak_sample_count,
                           p->peak_heap_process, peak, e);
        if (!status) status = join_places(p, PROFILE_AT_PEAK, peak, e);
    }
    return status;
}

typedef struct join_sum {
    double variance;
    uint64_t bytes, samples, interval;
} join_sum_t;

static void join_add(const profile_t *p, const profile_sample_t *s, join_sum_t *to) {
    uint64_t interval = p->processes[s->process].interval_bytes;
    double weight = (double)s->weight, bytes = (double)s->bytes;
    to->bytes += s->weight;
    to->samples++;
    if (weight > bytes) to->variance += weight * (weight - bytes);
    if (interval > to->interval) to->interval = interval;
}

/* The first that does not stand before `order`. */
static uint32_t join_from(const profile_places_t *places, uint32_t begin, uint32_t order) {
    uint32_t end = places->count;
    while (begin < end) {
        uint32_t middle = begin + (end - begin) / 2;
        if (places->at[middle].order < order)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

static void join_sum(const profile_t *p, const profile_kept_t *kept, join_sum_t *sums) {
    const profile_places_t *places = &p->places[kept->when];
    const profile_sample_t *samples = kept->when == PROFILE_AT_PEAK ? p->peak_samples : p->samples;
    uint32_t at = 0;
    uint64_t end = 0;
    for (uint64_t i = 0; i < kept->count && at < places->count; i++) {
        uint32_t order = kept->orders[i];
        if (order < end) continue; /* one before it retains it */
        end = order + (uint64_t)model_retained_objects(kept->model, model_at(kept->model, order));
        for (at = join_from(places, at, order); at < places->count; at++) {
            if (places->at[at].order >= end) break;
            const profile_sample_t *s = &samples[places->at[at].sample];
            join_add(p, s, &sums[s->line]);
        }
    }
}

static int join_compare(const void *a, const void *b) {
    const profile_share_t *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->line < y->line ? -1 : x->line > y->line;
}

uint32_t profile_makers(const profile_t *p, const profile_kept_t *kept, uint32_t max,
                        profile_share_t *out) {
    uint32_t count = 0, lines = p->places[kept->when].count ? p->line_count : 0;
    join_sum_t *sums = mem_alloc((lines + 1) * sizeof *sums);
    profile_share_t *shares = mem_alloc((lines + 1) * sizeof *shares);
    if (sums && shares) {
        memset(sums, 0, lines * sizeof *sums);
        join_sum(p, kept, sums);
        for (uint32_t i = 0; i < lines; i++) {
            if (!sums[i].samples) continue;
            shares[count++] = (profile_share_t){i, sums[i].bytes,
                                                profile_spread(sums[i].variance, sums[i].interval),
                                                sums[i].samples};
        }
        qsort(shares, count, sizeof *shares, join_compare);
        if (count > max) count = max;
        memcpy(out, shares, count * sizeof *out);
    }
    mem_free(sums);
    mem_free(shares);
    return count;
}

static int join_made(const profile_t *p, const profile_made_t *made, uint32_t **ids,
                     uint32_t *count, err_t *e) {
    bool peak = made->when == PROFILE_AT_PEAK;
    const profile_sample_t *samples = peak ? p->peak_samples : p->samples;
    uint32_t n = peak ? p->peak_sample_count : p->sample_count;
    *count = 0;
    *ids = mem_alloc((n + 1) * sizeof **ids);
    if (!*ids) return err_set(e, -ENOMEM, "no memory for the allocation profile");
    for (uint32_t i = 0; i < n; i++) {
        const profile_sample_t *s = &samples[i];
        bool is = made->site == LOWTIDE_NONE ? s->line == made->line
                                             : p->stacks[s->stack].site == made->site;
        if (is && s->object != LOWTIDE_NONE) (*ids)[(*count)++] = s->object;
    }
    return 0;
}

int profile_held(const profile_t *p, const profile_made_t *made, profile_held_t *out, err_t *e) {
    uint32_t *ids, count;
    *out = (profile_held_t){0};
    int status = join_made(p, made, &ids, &count, e);
    if (!status && count) status = model_routes_of(made->model, ids, count, NULL, &out->routes, e);
    const model_routes_t *routes = &out->routes;
    out->of = count;
    for (uint32_t i = 0; i < routes->count && !status; i++) {
        if (!routes->routes[i].through) continue;
        uint64_t samples = 0; /* of all routes through the same */
        for (uint32_t k = i; k < routes->count; k++) {
            if (routes->routes[k].through_id == routes->routes[i].through_id)
                samples += routes->routes[k].count;
        }
        if (samples <= out->samples) continue;
        out->samples = samples;
        out->path = routes->routes[i].through;
        out->through = routes->routes[i].through_id;
    }
    mem_free(ids);
    return status;
}

void profile_held_free(profile_held_t *held) {
    model_routes_free(&held->routes);
    *held = (profile_held_t){0};
}

/* ---- Findings ---- */

static int join_u64_compare(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* What the process usually had, the median of its timeline; and the least that was resident. */
static int join_usual(const profile_t *p, uint32_t process, uint64_t *out, uint64_t *rss_out,
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
    if (count) qsort(heap, count, sizeof *heap, join_u64_compare);
    *out = count ? heap[count / 2] : UINT64_MAX;
    *rss_out = UINT64_MAX;
    for (uint32_t i = 0; i < count; i++)
        if (rss[i] < *rss_out) *rss_out = rss[i];
    mem_free(heap);
    return 0;
}

/* ---- temporary-peak ---- */

enum { TEMPORARY_MIN_BYTES = 16 << 20, TEMPORARY_SHARE = 5, TEMPORARY_MOST = 3 };

/* What to write in place of what is made all at once, by what made it. */
static const char *join_advice(const profile_t *p, const profile_site_t *line) {
    static const struct {
        const char *in, *advice; /* a part of the file's or function's name */
    } rows[] = {
        {"/json/", "read it record by record (JSON Lines, or a streaming parser such as ijson)"},
        {"/csv.py", "take row by row what the reader yields"},
        {"/pandas/",
         "read and work in chunks (chunksize=), with fewer columns (usecols=) or smaller "
         "types (dtype=), and del what is done with"},
        {"/pyarrow/", "read it batch by batch (lowtide.stream, iter_batches)"},
        {"/numpy/", "work in place (out=, +=), in blocks of rows, or on a smaller dtype"},
        {"<listcomp>",
         "a generator expression in place of the list, where it is gone through once"},
        {"/pickle.py", "store and load it in parts"},
    };
    const profile_frame_t *by =
        line->most < p->site_count ? &p->sites[line->most].frame : &line->frame;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strstr(by->file, rows[i].in) || strstr(by->function, rows[i].in)) return rows[i].advice;
    }
    return "a generator in place of a list, chunks of the input (lowtide.stream), an operation in "
           "place (out=, +=), or del of what came before it is no longer needed";
}

int profile_set_site(findings_t *f, const profile_frame_t *frame, model_finding_t *x) {
    x->site_file = findings_text(f, "%s", frame->file);
    x->site_line = frame->line;
    x->site_function = findings_text(f, "%s", frame->function);
    x->site_source = frame->source && *frame->source ? findings_text(f, "%s", frame->source) : NULL;
    return x->site_file && x->site_function ? 0 : findings_no_memory(f);
}

const char *profile_file_base(const char *file) {
    const char *slash = strrchr(file, '/');
    return slash && slash[1] ? slash + 1 : file;
}

/* Of "thread MainThread > load() > text" the local and its function: what to del. */
static bool join_local(const char *path, char *local, char *function, size_t room) {
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
static bool join_is_alone(const model_t *m, uint32_t id, const char *local) {
    if (!strcmp(local, "self") || !strcmp(local, "cls")) return false;
    while (id < m->g.n && model_shape_of(m, id)->kind == LOWTIDE_SHAPE_OBJECT)
        id = model_idom(m, id);
    return id < m->g.n && model_shape_of(m, id)->kind == LOWTIDE_SHAPE_FRAME;
}

/* One may be told to write `del` only into the program's own functions. */
static bool join_is_own(const profile_t *p, const char *function) {
    for (uint32_t i = 0; i < p->line_count; i++) {
        const profile_frame_t *f = &p->lines[i].frame;
        if (!profile_is_library(f) && strcmp(f->function, function) == 0) return true;
    }
    return false;
}

/* Whether the heap at the peak had most of what the line made: what was still being made when it was captured may be for its caller,
 * and is no local to del. */
static bool join_is_whole(const profile_t *p, uint32_t line, uint64_t bytes) {
    uint64_t had = 0;
    for (uint32_t i = 0; i < p->peak_sample_count; i++)
        if (p->peak_samples[i].line == line) had += p->peak_samples[i].weight;
    return had >= bytes / 4 * 3;
}

/* Who held at the peak what the line made; the caller frees it. */
static void join_peak_holder(const profile_t *p, const model_t *peak, uint32_t line,
                             profile_held_t *held) {
    profile_made_t made = {
        .model = peak, .when = PROFILE_AT_PEAK, .site = LOWTIDE_NONE, .line = line};
    err_t ignored;
    *held = (profile_held_t){0};
    if (!peak || profile_held(p, &made, held, &ignored)) return;
    if (held->samples * 2 < held->of) held->path = NULL; /* held by many */
}

/* Of a peak that so many bytes stand above what the process usually has. */
typedef struct join_peak {
    uint64_t gone, usual;
    uint32_t point;
} join_peak_t;

/* From the peak's point away: the highest beyond a valley that comes down to what is usual, so that what lived at the peak did not
 * there; and that is above what is left of the peak without so much. */
static void join_beyond(const profile_t *p, const join_peak_t *peak, int step,
                        profile_moment_t *other) {
    uint64_t most = p->points[peak->point].heap_bytes, low = most, gone = peak->gone;
    for (uint32_t i = peak->point; i < p->point_count; i += (uint32_t)step) {
        const profile_point_t *x = &p->points[i];
        if (x->process != p->peak_process) continue;
        if (x->heap_bytes < low) {
            low = x->heap_bytes;
            continue; /* still on its slope */
        }
        /* Of sampled bytes some up and down is noise. */
        if (low > peak->usual + gone / 4 || x->heap_bytes < most - gone + gone / 8) continue;
        if (x->heap_bytes < low + gone / 8) continue; /* the foot of the same ramp */
        if (x->heap_bytes > other->heap_bytes)
            *other = (profile_moment_t){x->t_us, x->rss_bytes, x->heap_bytes};
    }
}

/* Another peak, which limits what the fix of the highest returns unless the same line made it; all 0: there is none. */
static profile_moment_t join_other_peak(const profile_t *p, uint64_t gone, uint64_t usual) {
    join_peak_t peak = {.gone = gone, .usual = usual};
    profile_moment_t other = {0};
    uint64_t most = 0;
    for (uint32_t i = 0; i < p->point_count; i++) {
        if (p->points[i].process != p->peak_process || p->points[i].heap_bytes <= most) continue;
        most = p->points[i].heap_bytes;
        peak.point = i;
    }
    if (most <= gone) return other;
    join_beyond(p, &peak, 1, &other);
    join_beyond(p, &peak, -1, &other);
    return other;
}

/* What the fix returns of `gone`: no more than down to the other peak, but for what the line may have had there. */
static uint64_t join_returns(const profile_t *p, const profile_sums_t *line, uint64_t gone,
                             const profile_moment_t *other) {
    uint64_t most = p->processes[p->peak_process].heap_peak_bytes;
    uint64_t total = line->bytes[PROFILE_TOTAL], peak = line->bytes[PROFILE_PEAK];
    if (!other->heap_bytes || other->heap_bytes > most) return gone;
    uint64_t down = most - other->heap_bytes, again = total > peak ? total - peak : 0;
    return down < gone && again < gone - down ? down + again : gone;
}

typedef struct join_told {
    bool usual; /* at the peak was no more than the process had for half of its time */
    const profile_site_t *line;
    const profile_sums_t *sums;
    uint64_t bytes;
    profile_moment_t other;
} join_told_t;

static int join_temporary(findings_t *f, const profile_t *p, const model_t *peak_heap,
                          const join_told_t *t) {
    const profile_site_t *line = t->line;
    const profile_sums_t *sums = t->sums;
    uint64_t bytes = t->bytes;
    const profile_moment_t other = t->other;
    char local[96], function[96];
    profile_held_t held;
    const char *base = profile_file_base(line->frame.file);
    char size[32], error[32], high[32], at[48] = "", too[80] = "";
    model_finding_t *x = findings_add(f, "temporary-peak");
    if (!x) return findings_no_memory(f);
    uint64_t off = profile_error(p, sums, PROFILE_PEAK), live = sums->blocks[PROFILE_LIVE];
    uint64_t peak = sums->blocks[PROFILE_PEAK];
    /* Its bytes are those of the heap's peak; the RSS may be at its highest at another time. */
    const profile_process_t *of = &p->processes[p->peak_process];
    if (of->heap_peak_bytes) snprintf(at, sizeof at, ", %.1f s in", (double)of->heap_peak_us / 1e6);
    x->bytes = bytes;
    x->objects = peak > live ? peak - live : 0;
    if (other.heap_bytes)
        snprintf(too, sizeof too, "; %s were alive %.1f s in, too",
                 findings_bytes(other.heap_bytes, high), (double)other.t_us / 1e6);
    x->title = findings_text(f, "%s:%u made %s%s%s%s that %s%s%s%s", base, line->frame.line,
                             findings_bytes(bytes, size), off ? " (± " : "",
                             off ? findings_bytes(off, error) : "", off ? ")" : "",
                             t->usual ? "were alive at the peak" : "lived at the peak alone", at,
                             t->usual ? ", and are gone at the end" : "", too);
    join_peak_holder(p, peak_heap, (uint32_t)(line - p->lines), &held);
    if (held.path) x->held_at_peak = findings_text(f, "%s", held.path);
    bool has_local = held.path && join_local(held.path, local, function, sizeof local) &&
                     join_is_own(p, function) && join_is_alone(peak_heap, held.through, local) &&
                     join_is_whole(p, (uint32_t)(line - p->lines), sums->bytes[PROFILE_PEAK]);
    x->fix =
        findings_text(f, "make what %s:%u makes piece by piece: %s%s%s%s%s%s", base,
                      line->frame.line, join_advice(p, line), has_local ? "; or `del " : "",
                      has_local ? local : "", has_local ? "` in " : "", has_local ? function : "",
                      has_local ? "() as soon as it is done with" : "");
    profile_held_free(&held);
    x->confidence = off * 4 < bytes && !other.heap_bytes ? "high" : "medium";
    return x->title && x->fix ? profile_set_site(f, &line->frame, x) : findings_no_memory(f);
}

/* What the allocator adds to a block of Python's, on average: it hands out multiples of 16 up to 512 bytes. */
static uint64_t join_rounding(const profile_cell_t *c, int figure) {
    enum { DOMAIN_MEM = 2, DOMAIN_OBJECT = 3, UNIT = 16, MOST = 512 };
    uint64_t blocks = c->sums.blocks[figure];
    uint64_t mean = blocks ? c->sums.bytes[figure] / blocks : 0;
    bool small = (c->domain == DOMAIN_MEM || c->domain == DOMAIN_OBJECT) && mean && mean <= MOST;
    return small ? (UNIT - mean % UNIT) % UNIT * blocks : 0;
}

/* Of the process with the highest peak: what each line had, as it lies in memory. What went with an ended process was kept until its
 * end: it counts as left, and nothing of it was temporary. Returns what all had at the peak. */
static uint64_t join_lines(const profile_t *p, profile_sums_t *lines) {
    uint64_t peak = 0;
    memset(lines, 0, p->line_count * sizeof *lines);
    for (uint32_t i = 0; i < p->cell_count; i++) {
        profile_cell_t c = p->cells[i];
        if (c.process != p->peak_process) continue;
        c.sums.bytes[PROFILE_LIVE] += c.sums.bytes[PROFILE_GONE];
        c.sums.blocks[PROFILE_LIVE] += c.sums.blocks[PROFILE_GONE];
        uint64_t at_peak = join_rounding(&c, PROFILE_PEAK), left = join_rounding(&c, PROFILE_LIVE);
        c.sums.bytes[PROFILE_PEAK] += at_peak;
        c.sums.bytes[PROFILE_LIVE] += left;
        profile_add_sums(&lines[c.line], &c.sums);
        peak += c.sums.bytes[PROFILE_PEAK];
    }
    return peak;
}

static uint64_t join_gone(const profile_sums_t *s) {
    return s->bytes[PROFILE_PEAK] > s->bytes[PROFILE_LIVE]
               ? s->bytes[PROFILE_PEAK] - s->bytes[PROFILE_LIVE]
               : 0;
}

/* The peak stands clearly above what is left at the end, or above what the process usually had; the lines that had more at the peak
 * than now are told, of each no more than what is above. What is built up over half of the time, or kept that long, is usual and gone
 * all the same. */
static int join_temporary_peaks(findings_t *f, const profile_t *p, const model_t *peak_heap) {
    uint64_t median = 0, least_rss = 0, left = 0;
    if (p->mode == PROFILE_NONE || !p->process_count || !p->line_count) return 0;
    profile_sums_t *lines = mem_alloc(p->line_count * sizeof *lines);
    if (!lines) return findings_no_memory(f);
    int status = join_usual(p, p->peak_process, &median, &least_rss, f->e);
    uint64_t peak = join_lines(p, lines);
    for (uint32_t i = 0; i < p->line_count; i++) left += lines[i].bytes[PROFILE_LIVE];
    uint64_t usual = median < left ? median : left, above = peak > usual ? peak - usual : 0;
    /* What was allocated and never touched is not resident: the fix returns none of it. */
    uint64_t above_rss = p->rss_peak_bytes > least_rss ? p->rss_peak_bytes - least_rss : 0;
    if (above > above_rss) above = above_rss;
    for (int found = 0; !status && above >= peak / TEMPORARY_SHARE && found < TEMPORARY_MOST;
         found++) {
        uint32_t most = 0;
        for (uint32_t i = 1; i < p->line_count; i++) {
            if (join_gone(&lines[i]) > join_gone(&lines[most])) most = i;
        }
        uint64_t gone = join_gone(&lines[most]) < above ? join_gone(&lines[most]) : above;
        if (gone < TEMPORARY_MIN_BYTES || gone < peak / 10 ||
            gone < profile_error(p, &lines[most], PROFILE_PEAK)) {
            break;
        }
        join_told_t told = {.usual = peak < median + gone / 2,
                            .line = &p->lines[most],
                            .sums = &lines[most],
                            .other = join_other_peak(p, gone, usual)};
        told.bytes = join_returns(p, &lines[most], gone, &told.other);
        if (told.bytes >= TEMPORARY_MIN_BYTES) status = join_temporary(f, p, peak_heap, &told);
        lines[most].bytes[PROFILE_PEAK] = 0;
        above -= gone;
    }
    mem_free(lines);
    return status;
}

static int join_site_of(findings_t *f, const profile_t *p, uint32_t id, model_finding_t *x) {
    uint32_t order = model_order(f->m, id);
    profile_kept_t kept = {.model = f->m, .when = PROFILE_AT_END, .orders = &order, .count = 1};
    profile_share_t most;
    if (!profile_makers(p, &kept, 1, &most)) return 0;
    return profile_set_site(f, &p->lines[most.line].frame, x);
}

/* The program's own line that made most of what a finding names. A cycle is named by no path; but where it is most of the garbage, the
 * line that made most of that made it. */
static int join_site(findings_t *f, const profile_t *p, model_finding_t *x) {
    model_found_t found;
    err_t unfound;
    if (x->site_file || !x->path) return 0;
    if (strcmp(x->kind, "garbage-cycle") == 0)
        return x->bytes > f->m->totals.unreachable_bytes / 2
                   ? join_site_of(f, p, model_node(f->m, MODEL_NODE_GARBAGE), x)
                   : 0;
    if (model_find(f->m, x->path, &found, &unfound)) return 0;
    bool one = found.what == MODEL_WHAT_OBJECT && found.count == 1;
    int status = one ? join_site_of(f, p, found.ids[0], x) : 0;
    model_found_free(&found);
    return status;
}

int profile_findings(profile_t *p, const model_t *m, const model_t *peak,
                     model_findings_t *findings, err_t *e) {
    findings_t f = {.m = m, .out = findings, .room = findings->count, .e = e};
    int status = 0;
    if (p->sample_count) {
        for (uint32_t i = 0; i < findings->count && !status; i++) {
            status = join_site(&f, p, &findings->findings[i]);
        }
    }
    if (!status) status = join_temporary_peaks(&f, p, peak);
    if (!status) status = profile_native_memory(&f, p);
    if (!status) findings_sort(findings);
    return status;
}
