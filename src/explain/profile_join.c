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

enum { DOMAIN_MMAP = 4 };

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
    bool mapped; /* address space is in it, of which not all has been touched */
} join_sum_t;

double profile_touched(const model_t *m, const profile_sample_t *s) {
    enum { LARGE_BYTES = 64 << 10 };
    if (s->bytes < LARGE_BYTES || s->object == LOWTIDE_NONE) return 1;
    double untouched = (double)model_untouched(m, s->object);
    return untouched > 0 ? 1 - untouched / (untouched + (double)model_shallow(m, s->object)) : 1;
}

static void join_add(const profile_t *p, const model_t *m, const profile_sample_t *s,
                     join_sum_t *to) {
    uint64_t interval = p->processes[s->process].interval_bytes;
    double weight = (double)s->weight, bytes = (double)s->bytes, touched = profile_touched(m, s);
    to->bytes += (uint64_t)(weight * touched);
    to->samples++;
    to->mapped |= s->domain >= DOMAIN_MMAP;
    if (weight > bytes) to->variance += weight * (weight - bytes) * touched * touched;
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
            join_add(p, kept->model, s, &sums[s->line]);
        }
    }
}

/* Of what was mapped no more than the holders keep: a library's allocator takes a GiB at a time, and what lies in it is made by many. */
static void join_bound(const profile_kept_t *kept, join_sum_t *sums, uint32_t lines) {
    uint64_t retained = 0, end = 0;
    for (uint64_t i = 0; i < kept->count; i++) {
        uint32_t order = kept->orders[i], id = model_at(kept->model, order);
        if (order < end) continue;
        end = order + (uint64_t)model_retained_objects(kept->model, id);
        retained += model_retained(kept->model, id);
    }
    for (uint32_t i = 0; i < lines; i++)
        if (sums[i].mapped && sums[i].bytes > retained) sums[i].bytes = retained;
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
        join_bound(kept, sums, lines);
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

int profile_held_objects(const model_t *m, const uint32_t *ids, uint32_t count, profile_held_t *out,
                         err_t *e) {
    *out = (profile_held_t){0};
    int status = count ? model_routes_of(m, ids, count, NULL, &out->routes, e) : 0;
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
    return status;
}

int profile_held(const profile_t *p, const profile_made_t *made, profile_held_t *out, err_t *e) {
    uint32_t *ids, count;
    *out = (profile_held_t){0};
    int status = join_made(p, made, &ids, &count, e);
    if (!status) status = profile_held_objects(made->model, ids, count, out, e);
    mem_free(ids);
    return status;
}

void profile_held_free(profile_held_t *held) {
    model_routes_free(&held->routes);
    *held = (profile_held_t){0};
}

/* ---- Findings ---- */

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

bool profile_is_import(const profile_frame_t *frame) {
    const char *source = frame->source ? frame->source : "";
    source += strspn(source, " \t");
    return strncmp(source, "import ", 7) == 0 || strncmp(source, "from ", 5) == 0;
}

void profile_peak_holder(const profile_t *p, const model_t *peak, uint32_t line,
                         profile_held_t *held) {
    profile_made_t made = {
        .model = peak, .when = PROFILE_AT_PEAK, .site = LOWTIDE_NONE, .line = line};
    err_t ignored;
    *held = (profile_held_t){0};
    if (!peak || profile_held(p, &made, held, &ignored)) return;
    if (held->samples * 2 < held->of) held->path = NULL; /* held by many */
}

/* A line that made a tenth and less of it is as good as any other. */
static int join_site_of(findings_t *f, const profile_t *p, uint32_t id, model_finding_t *x) {
    enum { PART_LEAST = 10 };
    uint32_t order = model_order(f->m, id);
    uint64_t all = model_retained(f->m, id);
    profile_kept_t kept = {.model = f->m, .when = PROFILE_AT_END, .orders = &order, .count = 1};
    profile_share_t most;
    if (!profile_makers(p, &kept, 1, &most) || most.bytes <= all / PART_LEAST) return 0;
    if (most.bytes < all / 2) x->site_share = (double)most.bytes / (double)all;
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
            if (!status) status = profile_garbage(&f, p, peak, &findings->findings[i]);
        }
    }
    if (!status) status = profile_temporary_peaks(&f, p, peak);
    if (!status) status = profile_kept_memory(&f, p, peak);
    if (!status) status = profile_native_memory(&f, p);
    if (!status) findings_sort(findings);
    return status;
}
