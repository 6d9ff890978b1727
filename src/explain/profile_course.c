#define _GNU_SOURCE
#include "explain/profile_course.h"

#include "base/mem.h"
#include "explain/profile_lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- Reading ---- */

/* The line that each frame is of; LOWTIDE_NONE where it is none's. */
static int course_lines(const profile_t *p, uint32_t **out) {
    map_t known = {0};
    uint32_t *of = mem_alloc(((size_t)p->frame_count + 1) * sizeof *of);
    int status = of ? 0 : -ENOMEM, fresh;
    for (uint32_t i = 0; i < p->line_count && !status; i++) {
        uint32_t *line = map_put(&known, profile_line_key(&p->lines[i].frame), &fresh);
        if (line) *line = i;
        status = line ? 0 : -ENOMEM;
    }
    for (uint32_t i = 0; i < p->frame_count && !status; i++) {
        const uint32_t *line = map_get(&known, profile_line_key(&p->frames[i]));
        of[i] = line ? *line : LOWTIDE_NONE;
    }
    map_free(&known);
    *out = of;
    return status;
}

static void course_read(profile_t *p, const lowtide_table *t, const uint32_t *of) {
    uint32_t process = lowtide_table_column(t, "process"), at = lowtide_table_column(t, "t_us");
    uint32_t frame = lowtide_table_column(t, "frame"), high = lowtide_table_column(t, "high_bytes");
    uint32_t live = lowtide_table_column(t, "live_bytes");
    uint32_t made = lowtide_table_column(t, "made_bytes");
    for (uint32_t i = 0; i < lowtide_table_rows(t); i++) {
        uint64_t number = lowtide_table_number(t, frame, i);
        uint64_t owner = lowtide_table_number(t, process, i);
        profile_course_t row = {.process = (uint32_t)owner,
                                .frame = number && number <= p->frame_count ? (uint32_t)number - 1
                                                                            : LOWTIDE_NONE,
                                .line = LOWTIDE_NONE,
                                .t_us = lowtide_table_number(t, at, i),
                                .live_bytes = lowtide_table_number(t, live, i),
                                .made_bytes = lowtide_table_number(t, made, i),
                                .high_bytes = lowtide_table_number(t, high, i)};
        if (row.frame != LOWTIDE_NONE) row.line = of[row.frame];
        bool sound = owner < p->process_count && !(row.live_bytes >> 60) &&
                     !(row.made_bytes >> 60) && !(row.high_bytes >> 60) && !(row.t_us >> 60);
        if (sound && (!number || row.line != LOWTIDE_NONE)) p->courses[p->course_count++] = row;
    }
}

int profile_courses(profile_t *p, const lowtide_recording *rec) {
    lowtide_table *t;
    lowtide_error error;
    uint32_t *of = NULL;
    int status = lowtide_table_load(rec, "lines", &t, &error);
    if (status) return status == -ENOMEM ? status : 0;
    size_t rows = lowtide_table_rows(t);
    p->courses = arena_alloc(&p->arena, (rows + 1) * sizeof *p->courses);
    status = p->courses ? course_lines(p, &of) : -ENOMEM;
    if (!status) course_read(p, t, of);
    mem_free(of);
    lowtide_table_free(t);
    return status;
}

/* ---- Without lines ---- */

/* Between two rows of the heap: a window. */
typedef struct course {
    const profile_t *p;
    profile_without_t *ask;
    uint64_t *frame, *line; /* what each has as it was last told */
    uint64_t *high;         /* by line: the most that it may have had in the window */
    uint64_t heap;          /* at the window's begin, of all */
    uint64_t had[PROFILE_WITHOUT_MOST],
        made[PROFILE_WITHOUT_MOST]; /* of the lines: then, and in it */
    /* Rows of the heap that windows begin at, or LOWTIDE_NONE: this one's; and that of the one with the highest. */
    uint32_t begin, found_begin;
} course_t;

static uint64_t course_less(uint64_t a, uint64_t b) {
    return a > b ? a - b : 0;
}

/* What goes with the lines when each has so much. */
static uint64_t course_goes(const course_t *x, const uint64_t *had) {
    uint64_t goes = 0;
    for (uint32_t i = 0; i < x->ask->count; i++) goes += course_less(had[i], x->ask->kept_bytes[i]);
    return goes;
}

static void course_row(course_t *x, const profile_course_t *row) {
    uint64_t before = x->line[row->line];
    x->line[row->line] += row->live_bytes - x->frame[row->frame];
    x->frame[row->frame] = row->live_bytes;
    uint64_t now = x->line[row->line], may = before + row->made_bytes;
    x->high[row->line] = may > now ? may : now;
    for (uint32_t i = 0; i < x->ask->count; i++)
        if (row->line == x->ask->lines[i]) x->made[i] += row->made_bytes;
}

/* At both its ends the rest is known. Within it the heap was as high as it says, and each line had no more than what it had and made. */
static uint64_t course_rest(const course_t *x, const profile_course_t *all) {
    uint64_t now[PROFILE_WITHOUT_MOST], most[PROFILE_WITHOUT_MOST];
    for (uint32_t i = 0; i < x->ask->count; i++) {
        now[i] = x->line[x->ask->lines[i]];
        most[i] = x->had[i] + x->made[i];
        if (now[i] > most[i]) most[i] = now[i];
    }
    uint64_t begin = x->begin != LOWTIDE_NONE ? course_less(x->heap, course_goes(x, x->had)) : 0;
    uint64_t end = course_less(all->live_bytes, course_goes(x, now));
    uint64_t within = course_less(all->high_bytes, course_goes(x, most));
    if (end > begin) begin = end;
    return within > begin ? within : begin;
}

/* What was made in it by others may have been alive at once, as far as the heap was so high and the lines had less. */
static uint64_t course_may(const course_t *x, const profile_course_t *all, uint64_t rest) {
    uint64_t least[PROFILE_WITHOUT_MOST], made = 0;
    for (uint32_t i = 0; i < x->ask->count; i++) {
        uint64_t now = x->line[x->ask->lines[i]];
        least[i] = x->had[i] < now ? x->had[i] : now;
        if (x->made[i] && course_less(now, x->made[i]) < least[i])
            least[i] = course_less(now, x->made[i]);
        made += x->made[i];
    }
    uint64_t by_heap = course_less(all->high_bytes, course_goes(x, least));
    uint64_t by_made =
        course_less(x->heap, course_goes(x, x->had)) + course_less(all->made_bytes, made);
    uint64_t may = by_heap < by_made ? by_heap : by_made;
    return may > rest ? may : rest;
}

static void course_begin(course_t *x, uint64_t heap, uint32_t begin) {
    x->heap = heap;
    x->begin = begin;
    for (uint32_t i = 0; i < x->ask->count; i++) {
        x->had[i] = x->line[x->ask->lines[i]];
        x->made[i] = 0;
    }
}

/* Goes through the windows up to the one whose row is `last`, with the highest of the rest. */
static uint32_t course_walk(course_t *x, uint32_t last) {
    const profile_t *p = x->p;
    uint32_t found = LOWTIDE_NONE;
    memset(x->frame, 0, p->frame_count * sizeof *x->frame);
    memset(x->line, 0, p->line_count * sizeof *x->line);
    course_begin(x, 0, LOWTIDE_NONE);
    for (uint32_t i = 0; i < p->course_count; i++) {
        const profile_course_t *row = &p->courses[i];
        if (row->process != x->ask->process) continue;
        if (row->frame != LOWTIDE_NONE) {
            course_row(x, row);
            continue;
        }
        uint64_t rest = course_rest(x, row), may = course_may(x, row, rest);
        if (i == last) return last;
        if (rest > x->ask->high_bytes) {
            x->ask->high_bytes = rest;
            x->ask->t_us = row->t_us;
            found = i;
            x->found_begin = x->begin;
        }
        if (may > x->ask->may_bytes) x->ask->may_bytes = may;
        course_begin(x, row->live_bytes, i);
        if (last != LOWTIDE_NONE && i == x->found_begin)
            memcpy(x->high, x->line, p->line_count * sizeof *x->high);
    }
    return found;
}

static bool course_is_asked(const course_t *x, uint32_t line) {
    for (uint32_t i = 0; i < x->ask->count; i++)
        if (x->ask->lines[i] == line) return true;
    return false;
}

/* Of what is made and gone again in a window not all was alive at once; the whole was no more than the heap. */
static void course_others(course_t *x, const uint64_t *at_peak) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < x->p->line_count; i++) {
        const profile_sums_t *sums = &x->p->lines[i].sums;
        uint64_t fresh = course_is_asked(x, i) ? 0 : course_less(x->high[i], at_peak[i]);
        if (fresh > x->ask->high_bytes) fresh = x->ask->high_bytes;
        if (sums->bytes[PROFILE_TOTAL])
            x->ask->fresh_variance +=
                sums->variance[PROFILE_TOTAL] * (double)fresh / (double)sums->bytes[PROFILE_TOTAL];
        if (fresh <= most) continue;
        most = fresh;
        x->ask->other = i;
    }
}

int profile_without(const profile_t *p, const uint64_t *at_peak, profile_without_t *ask) {
    course_t x = {.p = p, .ask = ask};
    size_t frames = (size_t)p->frame_count + 1, lines = (size_t)p->line_count + 1;
    x.frame = mem_alloc((frames + 2 * lines) * sizeof *x.frame);
    if (!x.frame) return -ENOMEM;
    x.line = x.frame + frames;
    x.high = x.line + lines;
    memset(x.high, 0, lines * sizeof *x.high);
    ask->high_bytes = ask->may_bytes = ask->t_us = 0;
    ask->fresh_variance = 0;
    ask->other = LOWTIDE_NONE;
    /* What is not in it may have been higher. */
    bool is_cut = ask->process < p->process_count && p->processes[ask->process].lines_until_us > 0;
    uint32_t highest = is_cut ? LOWTIDE_NONE : course_walk(&x, LOWTIDE_NONE);
    ask->known = highest != LOWTIDE_NONE;
    if (ask->known) {
        memset(x.high, 0, lines * sizeof *x.high);
        course_walk(&x, highest);
        course_others(&x, at_peak);
    }
    mem_free(x.frame);
    return 0;
}

/* ---- How a line rose ---- */

/* What the line has after the row in the row's process; `had` is of each of its frames. */
static int rises_next(map_t *frames, uint64_t *had, const profile_course_t *row, uint64_t *now) {
    int fresh;
    uint32_t next = (uint32_t)frames->count;
    uint32_t *at = map_put(frames, (uint64_t)row->process << 32 | row->frame, &fresh);
    if (!at) return -ENOMEM;
    if (fresh) {
        *at = next;
        had[next] = 0;
    }
    *now += row->live_bytes - had[*at];
    had[*at] = row->live_bytes;
    return 0;
}

/* Twice through its rows: what it had last has to be known before one can say since when. */
int profile_rises(const profile_t *p, const uint32_t *with, uint32_t line, profile_rise_t *of) {
    uint64_t *had = mem_alloc(((size_t)p->course_count + 1) * sizeof *had);
    uint64_t *now = mem_alloc(((size_t)p->process_count + 1) * sizeof *now);
    int status = had && now ? 0 : -ENOMEM;
    memset(of, 0, p->process_count * sizeof *of);
    for (int pass = 0; pass < 2 && !status; pass++) {
        map_t frames = {0};
        memset(now, 0, p->process_count * sizeof *now);
        for (uint32_t i = 0; i < p->course_count && !status; i++) {
            const profile_course_t *row = &p->courses[i];
            if (row->frame == LOWTIDE_NONE || (with ? with[row->line] : row->line) != line)
                continue;
            profile_rise_t *rise = &of[row->process];
            uint64_t last = rise->had_bytes, before = now[row->process];
            status = rises_next(&frames, had, row, &now[row->process]);
            if (!pass) continue;
            if (before < last / 2 && now[row->process] >= last / 2) rise->half_us = row->t_us;
            if (before < last - last / 8 && now[row->process] >= last - last / 8)
                rise->whole_us = row->t_us;
        }
        for (uint32_t i = 0; i < p->process_count && !pass; i++)
            of[i].had_bytes = p->processes[i].lines_until_us ? 0 : now[i];
        map_free(&frames);
    }
    mem_free(had);
    mem_free(now);
    return status;
}
