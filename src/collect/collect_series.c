#define _GNU_SOURCE
#include "collect/collect_series.h"

#include "base/origin.h"
#include "collect/collect_source.h"

enum {
    STEP_BYTES_MIN = 1 << 20,
    STEP_PART = 256,   /* of the highest heap */
    STEP_LARGER = 16,  /* once there are more rows than should be */
    TORN_MOST = 4,     /* looks at no one moment, before one of them is told all the same */
    CHURN_PART = 8,    /* of the heap: what was made and is gone again may have been so high */
    COST_PART = 100,   /* of the time */
    LOOKS_PART = 2000, /* of the age lie between two looks at least */
    ROWS_AT_ONCE = 4096,
    ROWS_A_SECOND = 400, /* at the begin; later less and less, up to ROWS_LATER in all */
    ROWS_LATER = SERIES_MOST / 2
};

static bool is_python(const collect_sites_t *s, uint32_t frame) {
    return frame < s->frames.count && s->frames.at[frame].kind == REGION_FRAME_PYTHON;
}

static bool is_own(const collect_sites_t *s, uint32_t frame) {
    if (!is_python(s, frame)) return false;
    const collect_frame_t *f = s->frames.at + frame;
    const char *file = sites_text_at(s, f->file), *function = sites_text_at(s, f->function);
    if (origin_of(file, NULL) != ORIGIN_OWN) return false;
    if (!origin_may_launch(file, function)) return true;
    char source[ORIGIN_LAUNCH_BYTES];
    source_line(file, f->line, source, sizeof source);
    return !origin_is_launch(file, function, source);
}

/* Parents stand before their children. */
static int find_lines(collect_sites_t *s) {
    for (size_t i = s->lines.count; i < s->stacks.count; i++) {
        const collect_stack_t *stack = s->stacks.at + i;
        const collect_stack_line_t *above =
            stack->parent && stack->parent <= i ? s->lines.at + stack->parent - 1 : NULL;
        collect_stack_line_t line = {.site = stack->frame, .own = COLLECT_NO_FRAME};
        if (!is_python(s, stack->frame) && above && is_python(s, above->site))
            line.site = above->site;
        if (is_own(s, stack->frame))
            line.own = stack->frame;
        else if (above)
            line.own = above->own;
        if (collect_stack_lines_push(&s->lines, line)) return -1;
    }
    return 0;
}

static int lines_room(collect_seen_t *seen, size_t frames) {
    if (frames <= seen->lines.count) return 0;
    if (collect_lines_reserve(&seen->lines, frames - seen->lines.count)) return -1;
    seen->lines.count = frames; /* what is new reads as 0 */
    return 0;
}

/* The cells, summed up by line, and all of them. */
static bool sum_up(collect_t *c, collect_process_t *p, uint64_t *all) {
    collect_seen_t *seen = &p->seen;
    *all = 0;
    if (observed_used(&p->observed.cells) > seen->cells.count)
        sites_read(&c->sites, p->pid, &p->observed, seen);
    if (find_lines(&c->sites) || lines_room(seen, c->sites.frames.count)) return false;
    for (size_t i = 0; i < seen->lines.count; i++)
        seen->lines.at[i].now = seen->lines.at[i].total = seen->lines.at[i].untouched = 0;
    for (size_t i = 0; i < seen->cells.count; i++) {
        const collect_cell_t *cell = seen->cells.at + i;
        uint64_t live, total;
        if (!cell->figures.domain || !observed_cell_now(&p->observed, i, &live, &total)) continue;
        const collect_stack_line_t *of = c->sites.lines.at + cell->figures.stack;
        collect_line_t *line = seen->lines.at + (of->own == COLLECT_NO_FRAME ? of->site : of->own);
        const uint64_t untouched = live < cell->untouched ? live : cell->untouched;
        line->now += live - untouched;
        line->untouched += untouched;
        line->total += total;
        *all += live;
    }
    return true;
}

static uint64_t apart(uint64_t a, uint64_t b) {
    return a > b ? a - b : b - a;
}

static uint64_t less(uint64_t a, uint64_t b) {
    return a > b ? a - b : 0;
}

/* What was touched for the first time is as good as made; or it went, and nobody knows. */
static uint64_t made(const collect_line_t *line) {
    return less(line->total, line->then_total) + less(line->then_untouched, line->untouched);
}

/* Has it clearly more or less than it was told with, or may it have had between? */
static bool is_news(const collect_line_t *line, uint64_t step, uint64_t high) {
    return apart(line->now, line->told) >= step ||
           (made(line) >= high / CHURN_PART && made(line) >= STEP_PART / CHURN_PART * step);
}

/* A course with a hole would be taken for the whole: it ends there, and the recording says so. */
static void tell(collect_t *c, collect_row_t row) {
    collect_process_t *p = c->processes.at[row.process];
    if (p->series.until_us) return;
    if (c->series.count < SERIES_MOST && !collect_series_push(&c->series, row)) {
        p->series.rows++;
        return;
    }
    p->series.until_us = row.t_us ? row.t_us : 1;
    p->changed = true;
}

/* How many rows there should be by now, of all processes together. */
static uint64_t rows_by(uint64_t t_us) {
    const uint64_t half_us = (uint64_t)ROWS_LATER * 1000000 / ROWS_A_SECOND;
    return ROWS_AT_ONCE + (uint64_t)((double)ROWS_LATER * (double)t_us / (double)(t_us + half_us));
}

/* With half as many again nothing is told for a while: the windows grow longer. A process that has less than its part goes on. */
static bool is_crowded(const collect_t *c, const collect_process_t *p, uint64_t rows) {
    uint64_t most = rows + rows / 2;
    return c->series.count > most && p->series.rows > most / c->processes.count;
}

/* Those with news, and the heap: all that stands at one time is one moment. */
static void tell_all(collect_t *c, uint32_t number, uint64_t t_us, uint64_t step) {
    collect_process_t *p = c->processes.at[number];
    collect_line_t all = {.now = p->series.heap};
    for (size_t i = 0; i < p->seen.lines.count; i++) {
        collect_line_t *line = p->seen.lines.at + i;
        all.total += made(line);
        if (is_news(line, step, p->series.high)) {
            tell(c, (collect_row_t){.process = number,
                                    .frame = (uint32_t)i + 1,
                                    .t_us = t_us,
                                    .live_bytes = line->now,
                                    .made_bytes = made(line)});
            line->told = line->now;
        }
        line->then_total = line->total;
        line->then_untouched = line->untouched;
    }
    tell(c, (collect_row_t){.process = number,
                            .t_us = t_us,
                            .live_bytes = all.now,
                            .made_bytes = all.total,
                            .high_bytes = p->series.high > all.now ? p->series.high : all.now});
    p->series.told = p->series.heap;
    p->series.high = 0;
}

/* The highest since it was last told; returns how high it is now. What was not touched at the last look may be gone by now, and did
 * count for it. */
static uint64_t note_high(collect_process_t *p) {
    uint64_t high = observed_heap_recent_bytes(&p->observed);
    uint64_t heap = observed_heap_bytes(&p->observed), untouched = p->untouched_bytes;
    p->series.heap = less(heap, untouched);
    if (untouched < p->series.untouched) untouched = p->series.untouched;
    p->series.untouched = p->untouched_bytes;
    const uint64_t most = high;
    high = less(high, untouched);
    /* It was touched after all, where the RSS was higher by then. */
    if (p->rss_peak_bytes > p->series.rss_peak) {
        uint64_t touched = less(p->rss_peak_bytes, less(p->rss_bytes, p->series.heap));
        if (touched > most) touched = most;
        if (high < touched) high = touched;
    }
    p->series.rss_peak = p->rss_peak_bytes;
    if (high < p->series.heap) high = p->series.heap;
    if (high > p->rss_peak_bytes) high = p->rss_peak_bytes;
    if (high > p->series.high) p->series.high = high;
    if (high > p->series.highest) p->series.highest = high;
    return heap;
}

static uint64_t next_due(uint64_t begin_cost_us, uint64_t t_us, uint64_t age_us) {
    uint64_t wait = (collect_cost_us() - begin_cost_us) * COST_PART;
    return t_us + (wait > age_us / LOOKS_PART ? wait : age_us / LOOKS_PART);
}

void series_look(collect_t *c, uint32_t number, uint64_t t_us, bool now, bool known) {
    collect_process_t *p = c->processes.at[number];
    if (!p->observed.region || p->series.until_us) return;
    uint64_t heap = note_high(p), all;
    if (!known || (!now && t_us < p->series.due_us)) return;
    uint64_t rows = rows_by(t_us);
    if (!now && is_crowded(c, p, rows)) return;
    uint64_t begin = collect_cost_us(), age_us = t_us - p->begin_us;
    uint64_t step = p->series.highest / STEP_PART;
    if (step < STEP_BYTES_MIN) step = STEP_BYTES_MIN;
    if (c->series.count > rows) step *= STEP_LARGER;
    if (!sum_up(c, p, &all)) return;
    bool torn = apart(all, heap) >= step || apart(observed_heap_bytes(&p->observed), heap) >= step;
    if (torn && !now && ++p->series.torn < TORN_MOST) {
        p->series.due_us = next_due(begin, t_us, age_us);
        return;
    }
    p->series.torn = 0;
    bool news =
        apart(p->series.heap, p->series.told) >= step || p->series.high >= p->series.told + step;
    for (size_t i = 0; i < p->seen.lines.count && !news; i++)
        news = is_news(p->seen.lines.at + i, step, p->series.high);
    if (news) tell_all(c, number, t_us, step);
    p->series.due_us = next_due(begin, t_us, age_us);
}
