#define _GNU_SOURCE
#include "base/mem.h"
#include "view/profile_view.h"
#include "view/units.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES_CELLS = 10, GAP = 2, PLOT_ROWS = 6, PLOT_CELLS_MOST = 78, MARKS_MOST = 9 };

typedef struct span {
    uint64_t begin, end; /* of the timeline, in µs */
    int cells;
} span_t;

static int span_cell(const span_t *span, uint64_t t_us) {
    if (t_us < span->begin || t_us > span->end) return -1;
    return (int)((double)(t_us - span->begin) / (double)(span->end - span->begin + 1) *
                 span->cells);
}

/* The highest RSS of all processes together in each column. Between two points they have what they had at the last one. */
static void plot_fill(const profile_t *p, const span_t *span, uint64_t *column) {
    profile_series_t series;
    int next = 0;
    uint64_t last = 0;
    if (profile_series(p, (uint32_t)span->cells, &series)) return;
    for (uint32_t i = 0; i < series.count; i++) {
        int x = span_cell(span, series.at[i].t_us);
        while (next < x) column[next++] = last;
        last = series.at[i].rss_bytes;
        if (x >= 0) column[x] = last;
        if (next <= x) next = x + 1;
    }
    mem_free(series.at);
}

static void plot_rows(const screen_t *s, const uint64_t *column, int n, uint64_t most) {
    static const char *const eighth[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    char size[UNITS_BYTES];
    for (int row = PLOT_ROWS - 1; row >= 0; row--) {
        const char *label = row == PLOT_ROWS - 1 ? units_size(size, most) : row ? "" : "0 B";
        fprintf(s->file, "%*s", BYTES_CELLS, label);
        screen_gap(s, GAP);
        screen_style(s, STYLE_ACCENT);
        int last = n; /* no spaces at a line's end */
        while (last > 0 && (double)column[last - 1] * PLOT_ROWS * 8 / (double)most - row * 8 < 0.5)
            last--;
        for (int x = 0; x < last; x++) {
            double high = (double)column[x] * PLOT_ROWS * 8 / (double)most - row * 8;
            int level = high <= 0 ? 0 : high >= 8 ? 8 : (int)(high + 0.5);
            fputs(s->utf8 ? eighth[level] : level >= 4 ? "#" : " ", s->file);
        }
        screen_style(s, STYLE_PLAIN);
        screen_end(s);
    }
}

/* Below the plot: a dot where a collection of 1 ms and more was, the number of a mark. */
static void events_row(const profile_t *p, const screen_t *s, const span_t *span) {
    enum { FELT_US = 1000 };
    char row[PLOT_CELLS_MOST + 1];
    uint32_t told = 0;
    int last = -1;
    memset(row, ' ', sizeof row);
    for (uint32_t i = 0; i < p->event_count; i++) {
        const profile_event_t *v = &p->events[i];
        int x = span_cell(span, v->t_us);
        bool mark = v->kind == PROFILE_EVENT_MARK && told < MARKS_MOST;
        bool felt = v->kind == PROFILE_EVENT_GC && v->duration_us >= FELT_US;
        if (mark) told++;
        if (x < 0 || (!mark && (!felt || row[x] != ' '))) continue;
        row[x] = mark ? (char)('0' + told) : '.';
        if (x > last) last = x;
    }
    if (last < 0) return;
    screen_gap(s, BYTES_CELLS + GAP);
    screen_style(s, STYLE_WARN);
    for (int x = 0; x <= last; x++) {
        if (row[x] == '.')
            fputs(screen_symbol(s, "·", "."), s->file);
        else
            fputc(row[x], s->file);
    }
    screen_style(s, STYLE_PLAIN);
    screen_end(s);
}

static void events_text(const profile_t *p, const screen_t *s) {
    uint32_t told = 0, collections = 0;
    uint64_t spent_us = 0;
    const profile_event_t *longest = NULL;
    char line[256], spent[UNITS_BYTES], most[UNITS_BYTES];
    int cells = s->width - BYTES_CELLS - GAP;
    for (uint32_t i = 0; i < p->event_count; i++) {
        const profile_event_t *v = &p->events[i];
        if (v->kind == PROFILE_EVENT_GC) {
            collections++;
            spent_us += v->duration_us;
            if (!longest || v->duration_us > longest->duration_us) longest = v;
        } else if (v->kind == PROFILE_EVENT_MARK && told < MARKS_MOST) {
            screen_gap(s, BYTES_CELLS + GAP);
            snprintf(line, sizeof line, "%" PRIu32 "  %.2f s  %.200s", ++told,
                     (double)v->t_us / 1e6, v->text);
            screen_dim(s, line, cells);
            screen_end(s);
        }
    }
    if (!longest) return;
    screen_gap(s, BYTES_CELLS + GAP);
    snprintf(line, sizeof line,
             "%" PRIu32 " garbage collection%s took %s, the longest %s, %.1f s in (generation "
             "%" PRIu64 ")",
             collections, collections == 1 ? "" : "s", units_span(spent, (double)spent_us / 1e6),
             units_span(most, (double)longest->duration_us / 1e6), (double)longest->t_us / 1e6,
             longest->value);
    screen_dim(s, line, cells);
    screen_end(s);
}

void profile_timeline_text(const profile_t *p, const screen_t *s) {
    uint64_t column[PLOT_CELLS_MOST] = {0};
    span_t span = {.begin = UINT64_MAX, .cells = s->width - BYTES_CELLS - GAP};
    char size[UNITS_BYTES], note[160], last[UNITS_BYTES];
    for (uint32_t i = 0; i < p->point_count; i++) {
        if (p->points[i].t_us < span.begin) span.begin = p->points[i].t_us;
        if (p->points[i].t_us > span.end) span.end = p->points[i].t_us;
    }
    if (p->point_count < 2 || span.end <= span.begin) return;
    if (span.cells > PLOT_CELLS_MOST) span.cells = PLOT_CELLS_MOST;
    plot_fill(p, &span, column);
    if (!p->together_bytes) return;
    snprintf(note, sizeof note, "resident memory%s; highest %s %.1f s in",
             p->process_count > 1 ? " of all processes together" : "",
             units_size(size, p->together_bytes), (double)p->together_us / 1e6);
    screen_end(s);
    view_heading(s, "TIMELINE", note);
    plot_rows(s, column, span.cells, p->together_bytes);
    events_row(p, s, &span);
    int width = snprintf(last, sizeof last, "%.1f s", (double)span.end / 1e6);
    screen_gap(s, BYTES_CELLS + GAP);
    screen_style(s, STYLE_DIM);
    int used = fprintf(s->file, "%.1f s", (double)span.begin / 1e6);
    if (used + width < span.cells) screen_gap(s, span.cells - used - width);
    fputs(last, s->file);
    screen_style(s, STYLE_PLAIN);
    screen_end(s);
    events_text(p, s);
}
