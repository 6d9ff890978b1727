#define _GNU_SOURCE
#include "explain/profile_course.h"
#include "explain/profile_lines.h"
#include "explain/profile_native.h"

#include "base/map.h"
#include "base/mem.h"
#include "format/rec_bytes.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum profile_table {
    TABLE_PROCESSES,
    TABLE_FRAMES,
    TABLE_STACKS,
    TABLE_ALLOCATIONS,
    TABLE_TIMELINE,
    TABLE_EVENTS,
    TABLE_SAMPLES,
    TABLES
};

struct profile_tables {
    lowtide_table *table[TABLES];
};

enum { PROFILE_DOMAINS = 6 }; /* 1 to 5: docs/format.md */
enum {
    PEAK_CLEARLY = 8, /* by more than an eighth of it */
    UNSEEN_SAMPLES = 3,
    CHANCE_MOST = 4 /* times σ: what the highest of many values is above their mean */
};

static const double HALF_OF_95 = 1.96; /* of an interval that has 95 %, in σ */

static const char *const profile_table_names[TABLES] = {
    "processes", "frames", "stacks", "allocations", "timeline", "events", "samples"};

static int profile_no_memory(err_t *e) {
    return err_set(e, -ENOMEM, "no memory for the allocation profile");
}

static uint32_t profile_rows(const profile_t *p, int table) {
    return lowtide_table_rows(p->tables->table[table]);
}

static uint64_t number(const profile_t *p, int table, const char *column, uint32_t row) {
    const lowtide_table *t = p->tables->table[table];
    return lowtide_table_number(t, lowtide_table_column(t, column), row);
}

static const char *text(const profile_t *p, int table, const char *column, uint32_t row) {
    const lowtide_table *t = p->tables->table[table];
    return lowtide_table_text(t, lowtide_table_column(t, column), row);
}

static void *profile_room(profile_t *p, size_t count, size_t size) {
    return arena_alloc(&p->arena, (count ? count : 1) * size);
}

/* ---- Processes, frames, stacks ---- */

static void profile_process(const profile_t *p, uint32_t row, profile_process_t *out) {
    uint64_t parent = number(p, TABLE_PROCESSES, "parent", row);
    uint64_t status = number(p, TABLE_PROCESSES, "status", row);
    uint64_t mode = number(p, TABLE_PROCESSES, "mode", row);
    *out = (profile_process_t){.parent = parent && parent <= p->process_count ? (uint32_t)parent - 1
                                                                              : LOWTIDE_NONE,
                               .pid = number(p, TABLE_PROCESSES, "pid", row),
                               .how = number(p, TABLE_PROCESSES, "how", row),
                               .begin_us = number(p, TABLE_PROCESSES, "begin_us", row),
                               .end_us = number(p, TABLE_PROCESSES, "end_us", row),
                               .interval_bytes = number(p, TABLE_PROCESSES, "interval_bytes", row),
                               .lines_until_us = number(p, TABLE_PROCESSES, "lines_until_us", row),
                               .mode = mode <= PROFILE_EXACT ? (int)mode : PROFILE_NONE,
                               .has_exit = status > 0 && status <= 0x10000,
                               .command = text(p, TABLE_PROCESSES, "command", row),
                               .python = text(p, TABLE_PROCESSES, "python", row)};
    out->ended = out->end_us > 0;
    if (out->has_exit) {
        int how = (int)status - 1;
        out->exit_status = how & 0x7f ? 128 + (how & 0x7f) : how >> 8 & 0xff;
    }
}

/* By the pid that the heap has, else the first that was watched. */
static void profile_main(profile_t *p, const lowtide_recording *rec) {
    const char *pid = lowtide_meta(rec, "pid");
    uint64_t wanted = pid ? strtoull(pid, NULL, 10) : 0;
    for (uint32_t i = p->process_count; i-- > 0;) {
        if (p->processes[i].pid == wanted) {
            p->main_process = i;
            return;
        }
    }
    while (p->main_process + 1 < p->process_count && !p->processes[p->main_process].mode) {
        p->main_process++;
    }
    if (p->main_process < p->process_count && !p->processes[p->main_process].mode)
        p->main_process = 0;
}

static int profile_processes(profile_t *p, const lowtide_recording *rec) {
    uint32_t rows = profile_rows(p, TABLE_PROCESSES);
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t process = number(p, TABLE_PROCESSES, "process", i);
        /* Each number of a process is taken once at least, so a gap means damage. */
        if (process < rows && process >= p->process_count) p->process_count = (uint32_t)process + 1;
    }
    p->processes = profile_room(p, p->process_count, sizeof *p->processes);
    if (!p->processes) return -ENOMEM;
    for (uint32_t i = 0; i < p->process_count; i++) {
        p->processes[i] = (profile_process_t){.parent = LOWTIDE_NONE, .command = "", .python = ""};
    }
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t process = number(p, TABLE_PROCESSES, "process", i);
        if (process < p->process_count) profile_process(p, i, &p->processes[process]);
    }
    for (uint32_t i = 0; i < p->process_count; i++) {
        if (p->processes[i].mode > p->mode) p->mode = p->processes[i].mode;
        if (!p->interval_bytes) p->interval_bytes = p->processes[i].interval_bytes;
    }
    const char *stacks = lowtide_meta(rec, "lost_stacks"),
               *blocks = lowtide_meta(rec, "lost_blocks");
    p->lost_stacks = stacks ? strtoull(stacks, NULL, 10) : 0;
    p->lost_blocks = blocks ? strtoull(blocks, NULL, 10) : 0;
    profile_main(p, rec);
    return 0;
}

static int profile_frames(profile_t *p) {
    p->frame_count = profile_rows(p, TABLE_FRAMES);
    p->frames = profile_room(p, p->frame_count, sizeof *p->frames);
    if (!p->frames) return -ENOMEM;
    for (uint32_t i = 0; i < p->frame_count; i++) {
        uint64_t line = number(p, TABLE_FRAMES, "line", i);
        uint64_t first = number(p, TABLE_FRAMES, "first_line", i);
        uint64_t outer = number(p, TABLE_FRAMES, "inlined_in", i);
        bool inlined = outer > i + 1 && outer <= p->frame_count; /* it stands behind this one */
        p->frames[i] = (profile_frame_t){.kind = (uint32_t)number(p, TABLE_FRAMES, "kind", i),
                                         .line = line < UINT32_MAX ? (uint32_t)line : 0,
                                         .first_line = first < UINT32_MAX ? (uint32_t)first : 0,
                                         .inlined_in = inlined ? (uint32_t)outer - 1 : LOWTIDE_NONE,
                                         .offset = number(p, TABLE_FRAMES, "offset", i),
                                         .function = text(p, TABLE_FRAMES, "function", i),
                                         .file = text(p, TABLE_FRAMES, "file", i),
                                         .module = text(p, TABLE_FRAMES, "module", i),
                                         .build_id = text(p, TABLE_FRAMES, "build_id", i),
                                         .source = text(p, TABLE_FRAMES, "source", i)};
        if (!*p->frames[i].module) p->frames[i].module = p->frames[i].file;
    }
    return 0;
}

static int profile_stack(profile_t *p, map_t *sites, uint32_t parent, uint32_t frame) {
    profile_stack_t *s = &p->stacks[p->stack_count++];
    *s = (profile_stack_t){
        .parent = parent, .frame = frame, .site = LOWTIDE_NONE, .line = LOWTIDE_NONE};
    if (frame == LOWTIDE_NONE) return 0;
    const profile_frame_t *f = &p->frames[frame];
    uint32_t above = parent == LOWTIDE_NONE ? LOWTIDE_NONE : p->stacks[parent].site;
    if (f->kind != PROFILE_PYTHON && above != LOWTIDE_NONE &&
        p->sites[above].frame.kind == PROFILE_PYTHON) {
        s->site = above;
        return 0;
    }
    s->site = profile_site_of(sites, p->sites, &p->site_count, f);
    return s->site == LOWTIDE_NONE ? -ENOMEM : 0;
}

/* A row of the table is one stack, or several where its function was inlined. */
static int profile_stacks(profile_t *p, map_t *sites) {
    uint32_t chain[NAMER_PLACES_MAX];
    uint64_t count = 0;
    p->stack_rows = profile_rows(p, TABLE_STACKS);
    for (uint32_t i = 0; i < p->stack_rows; i++) {
        uint64_t frame = number(p, TABLE_STACKS, "frame", i);
        count += frame < p->frame_count ? profile_native_chain(p, (uint32_t)frame, chain) : 1;
    }
    if (count >= LOWTIDE_NONE) return -ENOMEM;
    p->stacks = profile_room(p, count, sizeof *p->stacks);
    p->stack_of_row = profile_room(p, p->stack_rows, sizeof *p->stack_of_row);
    p->sites = profile_room(p, p->frame_count, sizeof *p->sites);
    if (!p->stacks || !p->stack_of_row || !p->sites) return -ENOMEM;
    for (uint32_t i = 0; i < p->stack_rows; i++) {
        uint64_t frame = number(p, TABLE_STACKS, "frame", i);
        uint64_t above = number(p, TABLE_STACKS, "parent", i);
        uint32_t parent = above && above <= i ? p->stack_of_row[above - 1] : LOWTIDE_NONE;
        uint32_t n = 1;
        chain[0] = LOWTIDE_NONE;
        if (frame < p->frame_count) n = profile_native_chain(p, (uint32_t)frame, chain);
        while (n-- > 0) {
            if (profile_stack(p, sites, parent, chain[n])) return -ENOMEM;
            parent = p->stack_count - 1;
        }
        p->stack_of_row[i] = parent;
    }
    return 0;
}

/* LOWTIDE_NONE: no such row, or nothing is known of it. */
static uint32_t profile_stack_of(const profile_t *p, uint64_t row) {
    uint32_t stack = row < p->stack_rows ? p->stack_of_row[row] : LOWTIDE_NONE;
    return stack != LOWTIDE_NONE && p->stacks[stack].site != LOWTIDE_NONE ? stack : LOWTIDE_NONE;
}

/* ---- Cells and sites ---- */

static void profile_cell(const profile_t *p, uint32_t row, profile_sums_t *out) {
    static const char *const bytes[] = {"live_bytes", "peak_bytes", "rss_peak_bytes",
                                        "total_bytes"};
    static const char *const blocks[] = {"live_blocks", "peak_blocks", "rss_peak_blocks",
                                         "total_blocks"};
    static const char *const variance[] = {"live_variance", "peak_variance", "peak_variance",
                                           "total_variance"};
    *out = (profile_sums_t){0};
    for (int i = 0; i < PROFILE_GONE; i++) {
        out->bytes[i] = number(p, TABLE_ALLOCATIONS, bytes[i], row);
        out->blocks[i] = number(p, TABLE_ALLOCATIONS, blocks[i], row);
        out->variance[i] = (double)number(p, TABLE_ALLOCATIONS, variance[i], row) * 0x1p20;
        /* An estimate may be below 0 for a moment; no process has an exbibyte. */
        if (out->bytes[i] >> 60) out->bytes[i] = 0;
        if (out->blocks[i] >> 60) out->blocks[i] = 0;
    }
}

static void profile_move(profile_sums_t *sums, int from, int to) {
    sums->bytes[to] = sums->bytes[from];
    sums->blocks[to] = sums->blocks[from];
    sums->variance[to] = sums->variance[from];
    sums->bytes[from] = sums->blocks[from] = 0;
    sums->variance[from] = 0;
}

void profile_add_sums(profile_sums_t *to, const profile_sums_t *from) {
    for (int i = 0; i < PROFILE_FIGURES; i++) {
        if (__builtin_add_overflow(to->bytes[i], from->bytes[i], &to->bytes[i]))
            to->bytes[i] = UINT64_MAX;
        if (__builtin_add_overflow(to->blocks[i], from->blocks[i], &to->blocks[i]))
            to->blocks[i] = UINT64_MAX;
        to->variance[i] += from->variance[i];
    }
}

static double profile_unseen(double interval) {
    return UNSEEN_SAMPLES * interval * interval;
}

/* What the errors need beside the variances: profile_error. */
static void profile_doubt(profile_t *p) {
    double interval = 0, variance = p->sums.variance[PROFILE_PEAK];
    for (uint32_t i = 0; i < p->process_count; i++) {
        const profile_process_t *of = &p->processes[i];
        if (of->mode == PROFILE_SAMPLED && (double)of->interval_bytes > interval)
            interval = (double)of->interval_bytes;
    }
    p->unseen_variance = profile_unseen(interval);
    if (variance <= 0) return;
    double chosen = (double)p->sums.bytes[PROFILE_PEAK] - (double)p->sums.bytes[PROFILE_RSS_PEAK];
    double most = CHANCE_MOST * sqrt(variance);
    p->chosen_share = (chosen < 0 ? 0 : chosen > most ? most : chosen) / variance;
}

/* The recorder keeps the variance of the heap's peak alone; what lived at the other moment is made up as all that the site made. */
static void profile_rss_variance(profile_sums_t *s) {
    const uint64_t bytes = s->bytes[PROFILE_RSS_PEAK], total = s->bytes[PROFILE_TOTAL];
    if (bytes == s->bytes[PROFILE_PEAK] || !total) return;
    double part = bytes < total ? (double)bytes / (double)total : 1;
    s->variance[PROFILE_RSS_PEAK] = s->variance[PROFILE_TOTAL] * part;
}

/* Address space that is reserved and never touched counts for the heap while it is highest, and is left out of what was alive then: so
 * there may have been clearly more when the resident memory was at its highest. */
static void profile_choose_peaks(profile_t *p, profile_sums_t *of_process) {
    for (uint32_t i = 0; i < p->cell_count; i++) {
        profile_rss_variance(&p->cells[i].sums);
        profile_add_sums(&of_process[p->cells[i].process], &p->cells[i].sums);
    }
    for (uint32_t i = 0; i < p->process_count; i++) {
        const uint64_t peak = of_process[i].bytes[PROFILE_PEAK];
        p->processes[i].peak_is_rss =
            of_process[i].bytes[PROFILE_RSS_PEAK] / PEAK_CLEARLY > peak / (PEAK_CLEARLY - 1);
    }
    for (uint32_t i = 0; i < p->cell_count; i++) {
        profile_sums_t *s = &p->cells[i].sums;
        if (!p->processes[p->cells[i].process].peak_is_rss) continue;
        s->bytes[PROFILE_PEAK] = s->bytes[PROFILE_RSS_PEAK];
        s->blocks[PROFILE_PEAK] = s->blocks[PROFILE_RSS_PEAK];
        s->variance[PROFILE_PEAK] = s->variance[PROFILE_RSS_PEAK];
    }
}

static int profile_cells(profile_t *p, map_t *known) {
    uint32_t rows = profile_rows(p, TABLE_ALLOCATIONS);
    p->cells = profile_room(p, rows, sizeof *p->cells);
    if (!p->cells) return -ENOMEM;
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t process = number(p, TABLE_ALLOCATIONS, "process", i);
        uint32_t stack = profile_stack_of(p, number(p, TABLE_ALLOCATIONS, "stack", i));
        uint64_t domain = number(p, TABLE_ALLOCATIONS, "domain", i);
        if (process >= p->process_count || stack == LOWTIDE_NONE || domain >= PROFILE_DOMAINS)
            continue;
        int fresh;
        uint64_t key = (process * p->stack_count + stack) * PROFILE_DOMAINS + domain;
        uint32_t *cell = map_put(known, key, &fresh);
        if (!cell) return -ENOMEM;
        if (fresh) *cell = p->cell_count++;
        p->cells[*cell] = (profile_cell_t){
            .process = (uint32_t)process, .stack = stack, .domain = (uint32_t)domain};
        profile_cell(p, i, &p->cells[*cell].sums);
    }
    profile_sums_t *of_process = mem_alloc(p->process_count * sizeof *of_process);
    if (p->process_count && !of_process) return -ENOMEM;
    memset(of_process, 0, p->process_count * sizeof *of_process);
    profile_choose_peaks(p, of_process);
    mem_free(of_process);
    for (uint32_t i = 0; i < p->cell_count; i++) {
        const profile_process_t *of = &p->processes[p->cells[i].process];
        profile_sums_t *sums = &p->cells[i].sums;
        if (of->ended && p->cells[i].process != p->main_process) {
            profile_move(sums, PROFILE_LIVE, PROFILE_GONE);
        }
        profile_add_sums(&p->sites[p->stacks[p->cells[i].stack].site].sums, sums);
        profile_add_sums(&p->sums, sums);
    }
    profile_doubt(p);
    return 0;
}

typedef struct profile_rank {
    uint64_t bytes, second;
    uint32_t site;
} profile_rank_t;

static int profile_compare(const void *a, const void *b) {
    const profile_rank_t *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    if (x->second != y->second) return x->second < y->second ? 1 : -1;
    return x->site < y->site ? -1 : x->site > y->site;
}

int profile_order(const profile_t *p, int figure, uint32_t **out, err_t *e) {
    uint32_t *order = mem_alloc((p->site_count + 1) * sizeof *order);
    profile_rank_t *rank = mem_alloc((p->site_count + 1) * sizeof *rank);
    int status = order && rank ? 0 : profile_no_memory(e);
    for (uint32_t i = 0; i < p->site_count && !status; i++) {
        const profile_sums_t *s = &p->sites[i].sums;
        rank[i] = (profile_rank_t){s->bytes[figure], s->bytes[PROFILE_TOTAL], i};
    }
    if (!status) qsort(rank, p->site_count, sizeof *rank, profile_compare);
    for (uint32_t i = 0; i < p->site_count && !status; i++) order[i] = rank[i].site;
    mem_free(rank);
    if (status) mem_free(order);
    *out = status ? NULL : order;
    return status;
}

/* Puts the sites in the order of the peak and drops those that are but callers. */
static int profile_sort(profile_t *p, err_t *e) {
    uint32_t *order, *place = profile_room(p, p->site_count, sizeof *place), kept = 0;
    profile_site_t *sites = profile_room(p, p->site_count, sizeof *sites);
    if (!place || !sites) return profile_no_memory(e);
    int status = profile_order(p, PROFILE_PEAK, &order, e);
    if (status) return status;
    for (uint32_t i = 0; i < p->cell_count; i++) place[p->stacks[p->cells[i].stack].site] = 1;
    for (uint32_t i = 0; i < p->sample_count; i++) place[p->stacks[p->samples[i].stack].site] = 1;
    for (uint32_t i = 0; i < p->peak_sample_count; i++) {
        place[p->stacks[p->peak_samples[i].stack].site] = 1;
    }
    for (uint32_t i = 0; i < p->site_count; i++) {
        bool made = place[order[i]];
        if (made) sites[kept] = p->sites[order[i]];
        place[order[i]] = made ? kept++ : LOWTIDE_NONE;
    }
    for (uint32_t i = 0; i < p->stack_count; i++) {
        if (p->stacks[i].site != LOWTIDE_NONE) p->stacks[i].site = place[p->stacks[i].site];
    }
    p->sites = sites;
    p->site_count = kept;
    mem_free(order);
    return 0;
}

/* ---- Timeline, events, samples ---- */

static int profile_timeline(profile_t *p) {
    uint32_t rows = profile_rows(p, TABLE_TIMELINE);
    p->points = profile_room(p, rows, sizeof *p->points);
    if (!p->points) return -ENOMEM;
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t process = number(p, TABLE_TIMELINE, "process", i);
        profile_point_t point = {.process = (uint32_t)process,
                                 .t_us = number(p, TABLE_TIMELINE, "t_us", i),
                                 .rss_bytes = number(p, TABLE_TIMELINE, "rss_bytes", i),
                                 .heap_bytes = number(p, TABLE_TIMELINE, "heap_bytes", i)};
        if (process >= p->process_count || point.rss_bytes >> 60 || point.t_us >> 60) continue;
        if (point.heap_bytes >> 60) point.heap_bytes = 0;
        p->points[p->point_count++] = point;
        profile_process_t *of = &p->processes[process];
        if (!of->peak_is_rss && point.heap_bytes > of->heap_peak_bytes) {
            of->heap_peak_bytes = point.heap_bytes;
            of->heap_peak_us = point.t_us;
        }
        if (point.rss_bytes > of->rss_peak_bytes) {
            of->rss_peak_bytes = point.rss_bytes;
            of->peak_us = point.t_us;
            if (of->peak_is_rss) of->heap_peak_us = point.t_us;
            if (of->peak_is_rss) of->heap_peak_bytes = point.heap_bytes;
        }
        if (point.rss_bytes > p->rss_peak_bytes) {
            p->rss_peak_bytes = point.rss_bytes;
            p->peak_us = point.t_us;
            p->peak_process = (uint32_t)process;
        }
    }
    return 0;
}

static int profile_events(profile_t *p) {
    uint32_t rows = profile_rows(p, TABLE_EVENTS);
    p->events = profile_room(p, rows, sizeof *p->events);
    if (!p->events) return -ENOMEM;
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t process = number(p, TABLE_EVENTS, "process", i);
        if (process >= p->process_count) continue;
        p->events[p->event_count++] =
            (profile_event_t){.process = (uint32_t)process,
                              .kind = (uint32_t)number(p, TABLE_EVENTS, "kind", i),
                              .t_us = number(p, TABLE_EVENTS, "t_us", i),
                              .duration_us = number(p, TABLE_EVENTS, "duration_us", i),
                              .value = number(p, TABLE_EVENTS, "value", i),
                              .text = text(p, TABLE_EVENTS, "text", i)};
    }
    return 0;
}

static int profile_sample_compare(const void *a, const void *b) {
    const profile_sample_t *x = a, *y = b;
    if (x->process != y->process) return x->process < y->process ? -1 : 1;
    return x->address < y->address ? -1 : x->address > y->address;
}

static int profile_samples(profile_t *p, const lowtide_table *t, profile_sample_t **out,
                           uint32_t *count) {
    uint32_t rows = lowtide_table_rows(t), kept = 0;
    uint32_t process = lowtide_table_column(t, "process"), stack = lowtide_table_column(t, "stack");
    uint32_t domain = lowtide_table_column(t, "domain"), bytes = lowtide_table_column(t, "bytes");
    uint32_t address = lowtide_table_column(t, "address");
    profile_sample_t *samples = profile_room(p, rows, sizeof *samples);
    if (!samples) return -ENOMEM;
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t of = lowtide_table_number(t, process, i);
        uint32_t at = profile_stack_of(p, lowtide_table_number(t, stack, i));
        profile_sample_t s = {.process = (uint32_t)of,
                              .stack = at,
                              .domain = (uint32_t)lowtide_table_number(t, domain, i),
                              .object = LOWTIDE_NONE,
                              .address = lowtide_table_number(t, address, i),
                              .bytes = lowtide_table_number(t, bytes, i)};
        if (of >= p->process_count || at == LOWTIDE_NONE || s.bytes >> 60) continue;
        double interval = (double)p->processes[of].interval_bytes, size = (double)s.bytes;
        double chance = interval > 0 ? -expm1(-size / interval) : 1;
        s.weight = chance > 0 ? (uint64_t)(size / chance + 0.5) : 0;
        samples[kept++] = s;
    }
    qsort(samples, kept, sizeof *samples, profile_sample_compare);
    *out = samples;
    *count = kept;
    return 0;
}

/* The nested heap of the highest memory; one that is damaged is as good as none. */
static int profile_peak(profile_t *p, const lowtide_recording *rec) {
    const char *name;
    const void *bytes;
    size_t n;
    uint64_t most = 0;
    for (uint32_t i = 0; lowtide_nested_at(rec, i, &name, &bytes, &n); i++) {
        lowtide_recording *one;
        lowtide_error error;
        if (strcmp(name, "peak") != 0 || lowtide_open_memory(bytes, n, &one, &error)) continue;
        const char *rss = lowtide_meta(one, "rss_bytes");
        uint64_t high = rss ? strtoull(rss, NULL, 10) : 0;
        bool better = lowtide_objects(one) && (!p->peak || high >= most);
        lowtide_close(better ? p->peak : one);
        if (!better) continue;
        p->peak = one;
        most = high;
    }
    if (!p->peak) return 0;
    const char *pid = lowtide_meta(p->peak, "pid"), *us = lowtide_meta(p->peak, "t_us");
    uint64_t wanted = pid ? strtoull(pid, NULL, 10) : 0;
    p->peak_heap_us = us ? strtoull(us, NULL, 10) : 0;
    p->peak_heap_process = p->main_process;
    for (uint32_t i = 0; i < p->process_count; i++) {
        if (p->processes[i].pid == wanted) p->peak_heap_process = i;
    }
    const char *number = lowtide_meta(p->peak, "process"); /* a pid may have been given twice */
    uint64_t process = number ? strtoull(number, NULL, 10) : UINT64_MAX;
    if (process < p->process_count) p->peak_heap_process = (uint32_t)process;
    lowtide_table *t;
    lowtide_error error;
    int status = lowtide_table_load(p->peak, "samples", &t, &error);
    if (status) return status == -ENOMEM ? status : 0;
    status = profile_samples(p, t, &p->peak_samples, &p->peak_sample_count);
    lowtide_table_free(t);
    return status;
}

/* ---- Building ---- */

static int profile_fill(profile_t *p, const lowtide_recording *rec, const namer_t *namer,
                        err_t *e) {
    map_t sites = {0}, known = {0};
    int status = profile_processes(p, rec);
    if (!status) status = profile_frames(p);
    if (!status) status = profile_native_name(p, namer);
    if (!status) status = profile_stacks(p, &sites);
    if (!status) status = profile_cells(p, &known);
    if (!status) status = profile_timeline(p);
    if (!status) status = profile_events(p);
    if (!status)
        status = profile_samples(p, p->tables->table[TABLE_SAMPLES], &p->samples, &p->sample_count);
    if (!status) status = profile_peak(p, rec);
    map_free(&sites);
    map_free(&known);
    if (!status) status = profile_sort(p, e);
    if (!status) status = profile_lines(p);
    if (!status) status = profile_courses(p, rec);
    if (!status) status = profile_together(p);
    return status ? profile_no_memory(e) : 0;
}

int profile_build(const lowtide_recording *rec, const namer_t *namer, profile_t **out, err_t *e) {
    *out = NULL;
    profile_t *p = mem_alloc(sizeof *p);
    if (!p) return profile_no_memory(e);
    *p = (profile_t){0};
    p->tables = arena_alloc(&p->arena, sizeof *p->tables);
    int status = p->tables ? 0 : profile_no_memory(e);
    for (int i = 0; i < TABLES && !status; i++) {
        lowtide_error error;
        status = lowtide_table_load(rec, profile_table_names[i], &p->tables->table[i], &error);
        if (status) err_set(e, status, "%s", error.text);
    }
    if (!status) status = profile_fill(p, rec, namer, e);
    if (status) {
        profile_free(p);
        return status;
    }
    *out = p;
    return 0;
}

void profile_free(profile_t *p) {
    if (!p) return;
    for (int i = 0; p->tables && i < TABLES; i++) lowtide_table_free(p->tables->table[i]);
    lowtide_close(p->peak);
    arena_free(&p->arena);
    mem_free(p);
}

static uint64_t profile_rounded(double error) {
    return error < 0x1p60 ? (uint64_t)(error + 0.5) : UINT64_MAX;
}

uint64_t profile_spread(double variance, uint64_t interval_bytes) {
    return profile_rounded(HALF_OF_95 * sqrt(variance + profile_unseen((double)interval_bytes)));
}

uint64_t profile_error(const profile_t *p, const profile_sums_t *sums, int figure) {
    double error = HALF_OF_95 * sqrt(sums->variance[figure] + p->unseen_variance);
    if (figure == PROFILE_PEAK) error += sums->variance[figure] * p->chosen_share;
    return profile_rounded(error);
}

bool profile_is_told(const profile_t *p, const profile_sums_t *sums, int figure) {
    return sums->bytes[figure] > profile_error(p, sums, figure);
}
