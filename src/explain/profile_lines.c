#define _GNU_SOURCE
#include "explain/profile_lines.h"

#include "base/mem.h"
#include "base/origin.h"
#include "base/vec.h"
#include "format/rec_bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint64_t profile_site_key(const profile_frame_t *f) {
    uint64_t parts[3] = {rec_checksum(f->file, strlen(f->file)),
                         rec_checksum(f->function, strlen(f->function)), f->line};
    uint64_t key = rec_checksum(parts, sizeof parts);
    return key - (key == MAP_NO_KEY);
}

uint64_t profile_line_key(const profile_frame_t *f) {
    if (profile_is_library(f)) return profile_site_key(f); /* may be of no file at all */
    uint64_t parts[2] = {rec_checksum(f->file, strlen(f->file)), f->line};
    uint64_t key = rec_checksum(parts, sizeof parts);
    return key - (key == MAP_NO_KEY);
}

uint32_t profile_site_of(map_t *known, profile_site_t *sites, uint32_t *count,
                         const profile_frame_t *f) {
    int fresh;
    uint32_t *site = map_put(known, profile_site_key(f), &fresh);
    if (!site) return LOWTIDE_NONE;
    if (fresh) {
        *site = (*count)++;
        sites[*site] = (profile_site_t){.frame = *f, .most = LOWTIDE_NONE};
    }
    return *site;
}

bool profile_is_library(const profile_frame_t *f) {
    return f->kind != PROFILE_PYTHON || origin_of(f->file, NULL) != ORIGIN_OWN ||
           origin_is_launch(f->file, f->function, f->source ? f->source : "");
}

/* ---- What most of it came by ---- */

typedef struct pair {
    uint32_t site, line;
    uint64_t peak, total;
} pair_t;
VEC_DEFINE(pair_vec, pair_t);

static bool pair_is_more(const pair_t *a, const pair_t *b) {
    return a->peak != b->peak ? a->peak > b->peak : a->total > b->total;
}

static int pairs_gather(const profile_t *p, map_t *known, pair_vec_t *pairs) {
    for (uint32_t i = 0; i < p->cell_count; i++) {
        const profile_cell_t *c = &p->cells[i];
        pair_t new = {.site = p->stacks[c->stack].site, .line = c->line};
        int fresh;
        uint32_t *at = map_put(known, (uint64_t) new.site << 32 | new.line, &fresh);
        if (!at) return -ENOMEM;
        if (fresh) {
            *at = (uint32_t)pairs->count;
            if (pair_vec_push(pairs, new)) return -ENOMEM;
        }
        pairs->at[*at].peak += c->sums.bytes[PROFILE_PEAK];
        pairs->at[*at].total += c->sums.bytes[PROFILE_TOTAL];
    }
    return 0;
}

static int lines_most(profile_t *p) {
    map_t known = {0};
    pair_vec_t pairs = {0};
    uint32_t *best = mem_alloc(((size_t)p->site_count + p->line_count + 1) * sizeof *best);
    int status = best ? pairs_gather(p, &known, &pairs) : -ENOMEM;
    if (!status) {
        uint32_t *of_line = best + p->site_count;
        for (size_t i = 0; i < (size_t)p->site_count + p->line_count; i++) best[i] = LOWTIDE_NONE;
        for (uint32_t i = 0; i < pairs.count; i++) {
            uint32_t *site = &best[pairs.at[i].site], *line = &of_line[pairs.at[i].line];
            if (*site == LOWTIDE_NONE || pair_is_more(&pairs.at[i], &pairs.at[*site])) *site = i;
            if (*line == LOWTIDE_NONE || pair_is_more(&pairs.at[i], &pairs.at[*line])) *line = i;
        }
        for (uint32_t i = 0; i < p->site_count; i++) {
            p->sites[i].most = best[i] == LOWTIDE_NONE ? LOWTIDE_NONE : pairs.at[best[i]].line;
        }
        for (uint32_t i = 0; i < p->line_count; i++) {
            p->lines[i].most =
                of_line[i] == LOWTIDE_NONE ? LOWTIDE_NONE : pairs.at[of_line[i]].site;
        }
    }
    mem_free(best);
    map_free(&known);
    pair_vec_free(&pairs);
    return status;
}

/* The line of a stack, which is the site itself where all of it is library. LOWTIDE_NONE: no
 * memory. */
static uint32_t line_of(profile_t *p, map_t *known, const profile_stack_t *s) {
    if (s->line != LOWTIDE_NONE) return s->line;
    return profile_site_of(known, p->lines, &p->line_count, &p->sites[s->site].frame);
}

static int stacks_lines(profile_t *p, map_t *known) {
    for (uint32_t i = 0; i < p->stack_count; i++) {
        profile_stack_t *s = &p->stacks[i];
        if (s->parent != LOWTIDE_NONE) s->line = p->stacks[s->parent].line;
        if (s->frame == LOWTIDE_NONE || profile_is_library(&p->frames[s->frame])) continue;
        s->line = profile_site_of(known, p->lines, &p->line_count, &p->frames[s->frame]);
        if (s->line == LOWTIDE_NONE) return -ENOMEM;
    }
    return 0;
}

static int samples_lines(profile_t *p, map_t *known, profile_sample_t *samples, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        samples[i].line = line_of(p, known, &p->stacks[samples[i].stack]);
        if (samples[i].line == LOWTIDE_NONE) return -ENOMEM;
    }
    return 0;
}

static void samples_to(profile_sample_t *samples, uint32_t count, const uint32_t *to) {
    for (uint32_t i = 0; i < count; i++) samples[i].line = to[samples[i].line];
}

/* A line is one to who changes it, whichever functions stand in it (`load` and its generator): it has the name of the one that made
 * most. */
static int lines_merge(profile_t *p) {
    map_t known = {0};
    uint32_t count = 0, *to = mem_alloc(((size_t)p->line_count + 1) * 2 * sizeof *to);
    uint32_t *most = to + p->line_count;
    int status = to ? 0 : -ENOMEM, fresh;
    profile_site_t *lines = arena_alloc(&p->arena, ((size_t)p->line_count + 1) * sizeof *lines);
    if (!lines) status = -ENOMEM;
    for (uint32_t i = 0; i < p->line_count && !status; i++) {
        const profile_site_t *part = &p->lines[i];
        uint32_t *at = map_put(&known, profile_line_key(&part->frame), &fresh);
        if (!at) {
            status = -ENOMEM;
            break;
        }
        if (fresh) {
            *at = count++;
            lines[*at] = (profile_site_t){.frame = part->frame, .most = LOWTIDE_NONE};
            most[*at] = i;
        }
        to[i] = *at;
        const uint64_t *a = part->sums.bytes, *b = p->lines[most[*at]].sums.bytes;
        if (a[PROFILE_PEAK] > b[PROFILE_PEAK] ||
            (a[PROFILE_PEAK] == b[PROFILE_PEAK] && a[PROFILE_TOTAL] > b[PROFILE_TOTAL])) {
            lines[*at].frame = part->frame;
            most[*at] = i;
        }
        profile_add_sums(&lines[*at].sums, &part->sums);
    }
    if (!status) {
        for (uint32_t i = 0; i < p->stack_count; i++)
            if (p->stacks[i].line != LOWTIDE_NONE) p->stacks[i].line = to[p->stacks[i].line];
        for (uint32_t i = 0; i < p->cell_count; i++) p->cells[i].line = to[p->cells[i].line];
        samples_to(p->samples, p->sample_count, to);
        samples_to(p->peak_samples, p->peak_sample_count, to);
        p->lines = lines;
        p->line_count = count;
    }
    map_free(&known);
    mem_free(to);
    return status;
}

int profile_lines(profile_t *p) {
    map_t known = {0};
    size_t most = ((size_t)p->frame_count + p->site_count + 1) * sizeof *p->lines;
    int status = (p->lines = arena_alloc(&p->arena, most)) ? stacks_lines(p, &known) : -ENOMEM;
    for (uint32_t i = 0; i < p->cell_count && !status; i++) {
        profile_cell_t *c = &p->cells[i];
        c->line = line_of(p, &known, &p->stacks[c->stack]);
        if (c->line == LOWTIDE_NONE) status = -ENOMEM;
        if (!status) profile_add_sums(&p->lines[c->line].sums, &c->sums);
    }
    if (!status) status = samples_lines(p, &known, p->samples, p->sample_count);
    if (!status) status = samples_lines(p, &known, p->peak_samples, p->peak_sample_count);
    map_free(&known);
    if (!status) status = lines_merge(p);
    return status ? status : lines_most(p);
}

const profile_frame_t *profile_from(const profile_t *p, const profile_site_t *site) {
    if (site->most >= p->line_count) return NULL;
    const profile_frame_t *from = &p->lines[site->most].frame;
    bool same = from->line == site->frame.line && strcmp(from->file, site->frame.file) == 0;
    return same ? NULL : from;
}

/* ---- All processes together ---- */

static int together_compare(const void *a, const void *b) {
    const profile_point_t *x = *(const profile_point_t *const *)a;
    const profile_point_t *y = *(const profile_point_t *const *)b;
    if (x->t_us != y->t_us) return x->t_us < y->t_us ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* Between its points a process has what it had at the last one, and nothing behind its end. */
typedef struct together {
    const profile_t *p;
    uint64_t *rss, *heap; /* by process */
    const profile_point_t **order;
    profile_moment_t now;
} together_t;

static void together_end(together_t *x) {
    mem_free(x->rss);
    mem_free(x->heap);
    mem_free(x->order);
}

static int together_begin(together_t *x, const profile_t *p) {
    size_t bytes = ((size_t)p->process_count + 1) * sizeof *x->rss;
    *x = (together_t){.p = p, .rss = mem_alloc(bytes), .heap = mem_alloc(bytes)};
    x->order = mem_alloc(((size_t)p->point_count + 1) * sizeof *x->order);
    if (!x->rss || !x->heap || !x->order) {
        together_end(x);
        return -ENOMEM;
    }
    memset(x->rss, 0, bytes);
    memset(x->heap, 0, bytes);
    for (uint32_t i = 0; i < p->point_count; i++) x->order[i] = &p->points[i];
    qsort(x->order, p->point_count, sizeof *x->order, together_compare);
    return 0;
}

static void together_set(together_t *x, uint32_t process, uint64_t rss, uint64_t heap) {
    x->now.rss_bytes += rss - x->rss[process];
    x->now.heap_bytes += heap - x->heap[process];
    x->rss[process] = rss;
    x->heap[process] = heap;
}

static const profile_moment_t *together_next(together_t *x, uint32_t i) {
    const profile_t *p = x->p;
    const profile_point_t *point = x->order[i];
    for (uint32_t k = 0; k < p->process_count && p->process_count > 1; k++) {
        const profile_process_t *one = &p->processes[k];
        if (x->rss[k] && one->ended && one->end_us < point->t_us) together_set(x, k, 0, 0);
    }
    together_set(x, point->process, point->rss_bytes, point->heap_bytes);
    x->now.t_us = point->t_us;
    return &x->now;
}

int profile_together(profile_t *p) {
    together_t x;
    if (together_begin(&x, p)) return -ENOMEM;
    for (uint32_t i = 0; i < p->point_count; i++) {
        const profile_moment_t *now = together_next(&x, i);
        if (now->rss_bytes <= p->together_bytes) continue;
        p->together_bytes = now->rss_bytes;
        p->together_us = now->t_us;
    }
    together_end(&x);
    return 0;
}

int profile_series(const profile_t *p, uint32_t most, profile_series_t *out) {
    together_t x;
    *out = (profile_series_t){.at = mem_alloc(((size_t)most + 1) * sizeof *out->at)};
    if (!out->at || together_begin(&x, p)) {
        mem_free(out->at);
        return -ENOMEM;
    }
    uint64_t begin = p->point_count ? x.order[0]->t_us : 0, last = UINT64_MAX;
    uint64_t span = p->point_count ? x.order[p->point_count - 1]->t_us - begin + 1 : 1;
    for (uint32_t i = 0; i < p->point_count; i++) {
        const profile_moment_t *now = together_next(&x, i);
        uint64_t slot = (uint64_t)((double)(now->t_us - begin) / (double)span * most);
        if (slot != last && out->count < most) {
            out->at[out->count++] = *now;
            last = slot;
        } else if (now->rss_bytes > out->at[out->count - 1].rss_bytes) {
            out->at[out->count - 1] = *now;
        }
    }
    together_end(&x);
    return 0;
}
