#define _GNU_SOURCE
#include "explain/profile_diff.h"

#include "base/map.h"
#include "base/mem.h"
#include "format/rec_bytes.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MATCHES = 3 };

static uint64_t text_hash(const char *text) {
    return rec_checksum(text, strlen(text));
}

/* The key of a frame for each way of matching, the surest first; MAP_NO_KEY: it has none. */
static uint64_t match_key(const profile_frame_t *f, int match) {
    const char *slash = strrchr(f->file, '/');
    uint64_t parts[4] = {(uint64_t)match, text_hash(f->function), text_hash(f->file), f->line};
    if (match == 1) {
        if (!f->source || !*f->source) return MAP_NO_KEY;
        parts[2] = text_hash(slash ? slash + 1 : f->file);
        parts[3] = text_hash(f->source);
    } else if (match == 2) {
        if (!f->first_line || f->line < f->first_line) return MAP_NO_KEY;
        parts[3] = f->line - f->first_line;
    }
    uint64_t key = rec_checksum(parts, sizeof parts);
    return key - (key == MAP_NO_KEY);
}

typedef struct matching {
    const profile_t *const *profiles;
    profile_diff_t *out;
    map_t known[MATCHES];
    uint32_t room;
    uint32_t *of_site; /* of the recording at hand: its change, or LOWTIDE_NONE */
} matching_t;

static const profile_frame_t *frame_in(const matching_t *x, uint32_t change) {
    return x->out->changes[change].frame;
}

/* Sites of recording k that have their change, by one way of matching. */
static int match_one_way(matching_t *x, uint32_t k, int match) {
    const profile_t *p = x->profiles[k];
    for (uint32_t i = 0; i < p->site_count; i++) {
        uint64_t key =
            x->of_site[i] == LOWTIDE_NONE ? match_key(&p->sites[i].frame, match) : MAP_NO_KEY;
        uint32_t *change = key == MAP_NO_KEY ? NULL : map_get(&x->known[match], key);
        if (!change || x->out->changes[*change].sums[k]) continue;
        x->of_site[i] = *change;
        x->out->changes[*change].sums[k] = &p->sites[i].sums;
    }
    return 0;
}

static int match_new(matching_t *x, uint32_t k, uint32_t site) {
    profile_diff_t *d = x->out;
    profile_change_t *c = &d->changes[d->count];
    c->sums = arena_alloc(&d->memory, d->recordings * sizeof *c->sums);
    if (!c->sums) return -ENOMEM;
    memset(c->sums, 0, d->recordings * sizeof *c->sums);
    c->sums[k] = &x->profiles[k]->sites[site].sums;
    c->line_before = x->profiles[k]->sites[site].frame.line;
    x->of_site[site] = d->count++;
    return 0;
}

static int match_recording(matching_t *x, uint32_t k) {
    const profile_t *p = x->profiles[k];
    x->of_site = mem_alloc((p->site_count + 1) * sizeof *x->of_site);
    int status = x->of_site ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < p->site_count && !status; i++) x->of_site[i] = LOWTIDE_NONE;
    for (int match = 0; match < MATCHES && !status; match++) status = match_one_way(x, k, match);
    for (uint32_t i = 0; i < p->site_count && !status; i++) {
        if (x->of_site[i] == LOWTIDE_NONE) status = match_new(x, k, i);
        if (status) break;
        profile_change_t *c = &x->out->changes[x->of_site[i]];
        c->frame = &p->sites[i].frame;
        c->from = profile_from(p, &p->sites[i]);
        for (int match = 0; match < MATCHES && !status; match++) {
            int fresh;
            uint64_t key = match_key(frame_in(x, x->of_site[i]), match);
            uint32_t *at = key == MAP_NO_KEY ? NULL : map_put(&x->known[match], key, &fresh);
            if (at) *at = x->of_site[i];
            if (!at && key != MAP_NO_KEY) status = -ENOMEM;
        }
    }
    mem_free(x->of_site);
    return status;
}

static void change_measure(profile_change_t *c, const profile_t *const *profiles, uint32_t n) {
    const profile_t *before = profiles[0], *after = profiles[n - 1];
    static const profile_sums_t none;
    const profile_sums_t *first = c->sums[0] ? c->sums[0] : &none;
    const profile_sums_t *last = c->sums[n - 1] ? c->sums[n - 1] : &none;
    double unseen = fmax(before->unseen_variance, after->unseen_variance);
    /* Either peak is high by chance, never low: one of them may be so alone. */
    double chosen = fmax(first->variance[PROFILE_PEAK] * before->chosen_share,
                         last->variance[PROFILE_PEAK] * after->chosen_share);
    for (int f = 0; f < PROFILE_FIGURES; f++) {
        c->grown_bytes[f] = (int64_t)(last->bytes[f] - first->bytes[f]);
        c->grown_blocks[f] = (int64_t)(last->blocks[f] - first->blocks[f]);
        double error = 1.96 * sqrt(first->variance[f] + last->variance[f] + unseen);
        if (f == PROFILE_PEAK) error += chosen;
        c->error_bytes[f] = error < 0x1p60 ? (uint64_t)(error + 0.5) : UINT64_MAX;
    }
}

int profile_diff(const profile_t *const *profiles, uint32_t n, profile_diff_t *out, err_t *e) {
    size_t room = 1;
    *out = (profile_diff_t){.recordings = n};
    matching_t x = {.profiles = profiles, .out = out};
    for (uint32_t k = 0; k < n; k++) room += profiles[k]->site_count;
    out->changes = arena_alloc(&out->memory, room * sizeof *out->changes);
    out->all.sums = arena_alloc(&out->memory, n * sizeof *out->all.sums);
    int status = out->changes && out->all.sums ? 0 : -ENOMEM;
    if (!status) memset(out->changes, 0, room * sizeof *out->changes);
    for (uint32_t k = 0; k < n && !status; k++) status = match_recording(&x, k);
    for (int match = 0; match < MATCHES; match++) map_free(&x.known[match]);
    if (status) {
        profile_diff_free(out);
        return err_set(e, status, "no memory to compare the profiles");
    }
    for (uint32_t i = 0; i < out->count; i++) {
        profile_change_t *c = &out->changes[i];
        change_measure(c, profiles, n);
        if (c->line_before == c->frame->line) c->line_before = 0;
    }
    for (uint32_t k = 0; k < n; k++) out->all.sums[k] = &profiles[k]->sums;
    change_measure(&out->all, profiles, n);
    return 0;
}

void profile_diff_free(profile_diff_t *d) {
    arena_free(&d->memory);
    *d = (profile_diff_t){0};
}

bool profile_change_within(const profile_change_t *c, int figure) {
    int64_t grown = c->grown_bytes[figure];
    return (uint64_t)(grown < 0 ? -grown : grown) <= c->error_bytes[figure];
}

typedef struct rank {
    int64_t grown;
    uint32_t change;
} rank_t;

static int rank_compare(const void *a, const void *b) {
    const rank_t *x = a, *y = b;
    if (x->grown != y->grown) return x->grown < y->grown ? 1 : -1;
    return x->change < y->change ? -1 : x->change > y->change;
}

int profile_diff_order(const profile_diff_t *d, int figure, uint32_t **out, err_t *e) {
    rank_t *ranks = mem_alloc((d->count + 1) * sizeof *ranks);
    *out = mem_alloc((d->count + 1) * sizeof **out);
    int status = ranks && *out ? 0 : err_set(e, -ENOMEM, "no memory to compare the profiles");
    for (uint32_t i = 0; i < d->count && !status; i++)
        ranks[i] = (rank_t){d->changes[i].grown_bytes[figure], i};
    if (!status) qsort(ranks, d->count, sizeof *ranks, rank_compare);
    for (uint32_t i = 0; i < d->count && !status; i++) (*out)[i] = ranks[i].change;
    mem_free(ranks);
    if (status) {
        mem_free(*out);
        *out = NULL;
    }
    return status;
}
