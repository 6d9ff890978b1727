#define _GNU_SOURCE
#include "explain/profile_groups.h"

#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int groups_by_name(const void *a, const void *b) {
    const profile_group_t *x = a, *y = b;
    int order = strcmp(x->frame->file, y->frame->file);
    return order ? order : strcmp(x->frame->function, y->frame->function);
}

typedef struct groups_rank {
    uint64_t bytes;
    profile_group_t group;
} groups_rank_t;

static int groups_by_bytes(const void *a, const void *b) {
    const groups_rank_t *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return groups_by_name(&x->group, &y->group);
}

bool profile_stands_out(const profile_t *p, const profile_sums_t *sums, int figure) {
    return sums->bytes[figure] && sums->bytes[figure] >= p->sums.bytes[figure] / 1000 &&
           profile_is_told(p, sums, figure);
}

static uint32_t groups_gather(const profile_t *p, int figure, profile_group_t *lines) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < p->site_count; i++) {
        const profile_site_t *site = &p->sites[i];
        if (!site->sums.bytes[figure] || profile_stands_out(p, &site->sums, figure)) continue;
        lines[count++] = (profile_group_t){.frame = &site->frame, .sums = site->sums, .lines = 1};
    }
    qsort(lines, count, sizeof *lines, groups_by_name);
    return count;
}

static void groups_add(profile_group_t *to, const profile_group_t *from) {
    profile_add_sums(&to->sums, &from->sums);
    to->lines += from->lines;
}

/* Puts what stands out to `ranks`, and the rest to `others`. */
static uint32_t groups_make(const profile_t *p, int figure, bool by_function,
                            const profile_group_t *lines, uint32_t n, groups_rank_t *ranks,
                            profile_group_t *others) {
    uint32_t count = 0;
    *others = (profile_group_t){0};
    for (uint32_t i = 0, next; i < n; i = next) {
        profile_group_t group = {.frame = lines[i].frame, .by_function = by_function};
        for (next = i; next < n; next++) {
            bool same = by_function ? groups_by_name(&lines[i], &lines[next]) == 0
                                    : strcmp(lines[i].frame->file, lines[next].frame->file) == 0;
            if (!same) break;
            groups_add(&group, &lines[next]);
        }
        if (profile_stands_out(p, &group.sums, figure))
            ranks[count++] = (groups_rank_t){group.sums.bytes[figure], group};
        else
            groups_add(others, &group);
    }
    return count;
}

int profile_groups(const profile_t *p, int figure, profile_groups_t *out, err_t *e) {
    *out = (profile_groups_t){0};
    profile_group_t *lines = mem_alloc((p->site_count + 1) * sizeof *lines);
    groups_rank_t *ranks = mem_alloc((p->site_count + 1) * sizeof *ranks);
    if (!lines || !ranks) {
        mem_free(lines);
        mem_free(ranks);
        return err_set(e, -ENOMEM, "no memory for the allocation profile");
    }
    uint64_t in_groups = 0;
    uint32_t n = groups_gather(p, figure, lines);
    profile_group_t all = {0};
    for (uint32_t i = 0; i < n; i++) groups_add(&all, &lines[i]);
    uint64_t small = all.sums.bytes[figure];
    if (small > p->sums.bytes[figure] / 2) {
        out->count = groups_make(p, figure, true, lines, n, ranks, &out->others);
        for (uint32_t i = 0; i < out->count; i++) in_groups += ranks[i].bytes;
        if (in_groups < small / 2)
            out->count = groups_make(p, figure, false, lines, n, ranks, &out->others);
        qsort(ranks, out->count, sizeof *ranks, groups_by_bytes);
    } else {
        out->others = all;
    }
    for (uint32_t i = 0; i < out->count; i++) lines[i] = ranks[i].group;
    out->at = lines;
    mem_free(ranks);
    return 0;
}
