#define _GNU_SOURCE
#include "base/mem.h"
#include "view/profile_view.h"
#include "view/units.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    BYTES_CELLS = 10,
    COUNT_CELLS = 11,
    GAP = 2,
    NARROW = 64,
    PLOT_ROWS = 6,
    PLOT_CELLS_MOST = 78,
    MARKS_MOST = 8,
    HELD_MOST = 3
};

static void line_end(const screen_t *s) {
    fputc('\n', s->file);
}

static void dim(const screen_t *s, const char *text, int cells) {
    screen_style(s, STYLE_DIM);
    screen_text(s, text, strlen(text), cells);
    screen_style(s, STYLE_PLAIN);
}

/* ---- Timeline ---- */

/* The highest RSS of all processes together in each column. Between its points a process has what
 * it had at the last one. */
static void plot_fill(const profile_t *p, uint64_t begin, uint64_t span, uint64_t *column, int n) {
    uint64_t *one = mem_alloc((size_t)n * sizeof *one);
    if (!one) return;
    for (uint32_t process = 0; process < p->process_count; process++) {
        int last = -1;
        memset(one, 0, (size_t)n * sizeof *one);
        for (uint32_t i = 0; i < p->point_count; i++) {
            const profile_point_t *point = &p->points[i];
            if (point->process != process) continue;
            int x = (int)((double)(point->t_us - begin) / (double)span * (n - 1) + 0.5);
            if (x < 0 || x >= n) continue;
            for (int k = last + 1; last >= 0 && k < x; k++) one[k] = one[last];
            if (point->rss_bytes > one[x]) one[x] = point->rss_bytes;
            last = x;
        }
        for (int k = 0; k < n; k++) column[k] += one[k];
    }
    mem_free(one);
}

static void plot_rows(const screen_t *s, const uint64_t *column, int n, uint64_t most) {
    static const char *const eighth[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    char size[UNITS_BYTES];
    for (int row = PLOT_ROWS - 1; row >= 0; row--) {
        const char *label = row == PLOT_ROWS - 1 ? units_size(size, most) : row ? "" : "0 B";
        fprintf(s->file, "%*s", BYTES_CELLS, label);
        screen_gap(s, GAP);
        screen_style(s, STYLE_ACCENT);
        for (int x = 0; x < n; x++) {
            double high = (double)column[x] * PLOT_ROWS * 8 / (double)most - row * 8;
            int level = high <= 0 ? 0 : high >= 8 ? 8 : (int)(high + 0.5);
            fputs(s->utf8 ? eighth[level] : level >= 4 ? "#" : " ", s->file);
        }
        screen_style(s, STYLE_PLAIN);
        line_end(s);
    }
}

static void marks_text(const profile_t *p, const screen_t *s) {
    uint32_t told = 0, collections = 0;
    uint64_t spent_us = 0;
    char line[256], span[UNITS_BYTES];
    for (uint32_t i = 0; i < p->event_count; i++) {
        const profile_event_t *v = &p->events[i];
        if (v->kind == PROFILE_EVENT_GC) {
            collections++;
            spent_us += v->duration_us;
        } else if (v->kind == PROFILE_EVENT_MARK && told++ < MARKS_MOST) {
            screen_gap(s, BYTES_CELLS + GAP);
            snprintf(line, sizeof line, "%9.2f s  %.200s", (double)v->t_us / 1e6, v->text);
            dim(s, line, s->width - BYTES_CELLS - GAP);
            line_end(s);
        }
    }
    if (!collections) return;
    screen_gap(s, BYTES_CELLS + GAP);
    snprintf(line, sizeof line, "%" PRIu32 " garbage collection%s took %s", collections,
             collections == 1 ? "" : "s", units_span(span, (double)spent_us / 1e6));
    dim(s, line, s->width - BYTES_CELLS - GAP);
    line_end(s);
}

static void timeline_text(const profile_t *p, const screen_t *s) {
    uint64_t begin = UINT64_MAX, end = 0, most = 0, column[PLOT_CELLS_MOST] = {0};
    char size[UNITS_BYTES], note[160], last[UNITS_BYTES];
    for (uint32_t i = 0; i < p->point_count; i++) {
        if (p->points[i].t_us < begin) begin = p->points[i].t_us;
        if (p->points[i].t_us > end) end = p->points[i].t_us;
    }
    if (p->point_count < 2 || end <= begin) return;
    int n = s->width - BYTES_CELLS - GAP;
    if (n > PLOT_CELLS_MOST) n = PLOT_CELLS_MOST;
    plot_fill(p, begin, end - begin, column, n);
    for (int i = 0; i < n; i++) most = column[i] > most ? column[i] : most;
    if (!most) return;
    snprintf(note, sizeof note, "resident memory%s; highest %s %.1f s in",
             p->process_count > 1 ? " of all processes" : "", units_size(size, p->rss_peak_bytes),
             (double)p->peak_us / 1e6);
    line_end(s);
    view_heading(s, "TIMELINE", note);
    plot_rows(s, column, n, most);
    int width = snprintf(last, sizeof last, "%.1f s", (double)end / 1e6);
    screen_gap(s, BYTES_CELLS + GAP);
    screen_style(s, STYLE_DIM);
    int used = fprintf(s->file, "%.1f s", (double)begin / 1e6);
    if (used + width < n) screen_gap(s, n - used - width);
    fputs(last, s->file);
    screen_style(s, STYLE_PLAIN);
    line_end(s);
    marks_text(p, s);
}

static void processes_text(const report_t *r, const screen_t *s) {
    static const char *const how[] = {"", "started", "forked", "started", "attached"};
    const profile_t *p = r->profile;
    char size[UNITS_BYTES], line[512];
    if (p->process_count < 2) return;
    line_end(s);
    snprintf(line, sizeof line, "%" PRIu32 ", each with its own highest resident memory",
             p->process_count);
    view_heading(s, "PROCESSES", line);
    for (uint32_t i = 0; i < p->process_count && i < r->options.top; i++) {
        const profile_process_t *one = &p->processes[i];
        fprintf(s->file, "%*s", BYTES_CELLS, units_size(size, one->rss_peak_bytes));
        char exit[48] = "";
        if (one->has_exit) snprintf(exit, sizeof exit, ", exit status %d", one->exit_status);
        int n = snprintf(line, sizeof line, "pid %" PRIu64 " %s%s  %.300s", one->pid,
                         one->how < 5 ? how[one->how] : "", exit, one->command);
        for (char *c = line; *c; c++)
            if (*c == '\x1f') *c = ' ';
        screen_gap(s, GAP);
        screen_text(s, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1,
                    s->width - BYTES_CELLS - GAP);
        line_end(s);
    }
    if (p->process_count > r->options.top) {
        snprintf(line, sizeof line, "%s %" PRIu32 " more", screen_symbol(s, "…", "..."),
                 p->process_count - r->options.top);
        screen_gap(s, BYTES_CELLS + GAP);
        dim(s, line, s->width - BYTES_CELLS - GAP);
        line_end(s);
    }
}

/* ---- Sites ---- */

/* The line of source, without what it is indented by; false where the file is not there. */
static bool source_line(const char *path, uint32_t line, char *out, size_t room) {
    if (path[0] != '/' || !line) return false;
    FILE *f = fopen(path, "re");
    char *text = NULL;
    size_t size = 0;
    ssize_t n = -1;
    if (!f) return false;
    for (uint32_t i = 0; i < line; i++)
        if ((n = getline(&text, &size, f)) < 0) break;
    fclose(f);
    if (n > 0) {
        while (n > 0 && strchr(" \t\r\n", text[n - 1])) text[--n] = 0;
        const char *start = text + strspn(text, " \t");
        snprintf(out, room, "%s", start);
    }
    free(text);
    return n > 0 && out[0];
}

/* Where the objects that a site made are held, as far as samples tell. */
static void held_text(const report_t *r, const screen_t *s, uint32_t site, int indent) {
    uint32_t *ids, count;
    model_routes_t routes;
    err_t e;
    char line[512];
    if (profile_made(r->profile, site, &ids, &count, &e)) return;
    if (count && !model_routes_of(r->model, ids, count, NULL, &routes, &e)) {
        if (routes.count && routes.routes[0].through) {
            snprintf(line, sizeof line, "held by %.400s", routes.routes[0].through);
            screen_gap(s, indent);
            dim(s, line, s->width - indent);
            line_end(s);
        }
        model_routes_free(&routes);
    }
    mem_free(ids);
}

static void site_text(const report_t *r, const screen_t *s, uint32_t index, int figure) {
    const profile_site_t *site = &r->profile->sites[index];
    bool narrow = s->width < NARROW;
    bool sampled = r->profile->mode == PROFILE_SAMPLED && !narrow;
    int indent = BYTES_CELLS + (sampled ? BYTES_CELLS + 3 : 0) + (narrow ? 0 : COUNT_CELLS) + GAP;
    char size[UNITS_BYTES], line[1024];
    fprintf(s->file, "%*s", BYTES_CELLS, units_size(size, site->sums.bytes[figure]));
    if (sampled) {
        fputs(screen_symbol(s, " ± ", " +-"), s->file);
        fprintf(s->file, "%-*s", BYTES_CELLS, units_size(size, profile_error(&site->sums, figure)));
    }
    if (!narrow) fprintf(s->file, "%*s", COUNT_CELLS, units_count(size, site->sums.blocks[figure]));
    screen_gap(s, GAP);
    if (site->frame.kind == PROFILE_PYTHON || site->frame.line)
        snprintf(line, sizeof line, "%s:%u", site->frame.file, site->frame.line);
    else
        snprintf(line, sizeof line, "%s", site->frame.file);
    int rest = s->width - indent, name = (int)strlen(site->frame.function);
    int room = rest - name - GAP > 24 ? rest - name - GAP : rest;
    int used = screen_text(s, line, strlen(line), room);
    if (rest - used - GAP > 3) {
        screen_gap(s, GAP);
        screen_style(s, STYLE_ACCENT);
        screen_text(s, site->frame.function, (size_t)name, rest - used - GAP);
        screen_style(s, STYLE_PLAIN);
    }
    line_end(s);
    if (source_line(site->frame.file, site->frame.line, line, sizeof line)) {
        screen_gap(s, indent);
        dim(s, line, rest);
        line_end(s);
    }
    if (figure == PROFILE_LIVE) held_text(r, s, index, indent);
}

/* Much made, little kept: what was alive at the peak is but a tenth of what was made. */
static bool is_churn(const profile_sums_t *sums) {
    return sums->bytes[PROFILE_TOTAL] / 10 > sums->bytes[PROFILE_PEAK] &&
           sums->bytes[PROFILE_TOTAL] / 10 > sums->bytes[PROFILE_LIVE];
}

static void sites_text(const report_t *r, const screen_t *s, int figure, const char *title,
                       const char *note) {
    const profile_t *p = r->profile;
    uint32_t *order, shown = 0;
    char whole[UNITS_BYTES], line[200];
    err_t e;
    if (!p->sums.bytes[figure] || profile_order(p, figure, &order, &e)) return;
    uint64_t least = p->sums.bytes[figure] / 1000;
    for (uint32_t i = 0; i < p->site_count && shown < r->options.top; i++) {
        const profile_sums_t *sums = &p->sites[order[i]].sums;
        if (!sums->bytes[figure] || sums->bytes[figure] < least) break;
        if (figure == PROFILE_TOTAL && !is_churn(sums)) continue;
        if (!shown++) {
            line_end(s);
            snprintf(line, sizeof line, note, units_size(whole, p->sums.bytes[figure]));
            view_heading(s, title, line);
        }
        site_text(r, s, order[i], figure);
    }
    mem_free(order);
}

void profile_text(const report_t *r, const screen_t *s) {
    const profile_t *p = r->profile;
    char size[UNITS_BYTES], line[200];
    if (!p) return;
    timeline_text(p, s);
    processes_text(r, s);
    if (p->mode == PROFILE_NONE || !p->site_count) return;
    sites_text(r, s, PROFILE_PEAK, "AT THE PEAK", "%s allocated; the lines that made it");
    sites_text(r, s, PROFILE_LIVE, "STILL ALIVE AT THE END", "%s");
    sites_text(r, s, PROFILE_TOTAL, "CHURN", "much made, little kept, of %s in all");
    if (p->mode != PROFILE_SAMPLED) return;
    snprintf(line, sizeof line,
             "Sampled once in %s on average; behind %s stands how far a figure may be off (95 %%).",
             units_size(size, p->interval_bytes), screen_symbol(s, "±", "+-"));
    line_end(s);
    screen_style(s, STYLE_DIM);
    screen_wrapped(s, line, 0, s->width);
    screen_style(s, STYLE_PLAIN);
}
