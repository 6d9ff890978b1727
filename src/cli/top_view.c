#include "cli/top_view.h"

#include "explain/profile.h"
#include "view/json.h"
#include "view/units.h"

#include <stdio.h>
#include <string.h>

/* PLOT_CELLS: of what stands before the plot. */
enum { PLOT_ROWS_MOST = 3, PLOT_CELLS = 15, EIGHTHS = 8, ROWS_FOR_ALL = 20, A_SIXTH = 6 };
enum { JSON_SITES_MOST = 100, JSON_POINTS_MOST = 600 };
/* What the plot's height is at least, so that a level line looks level: a part of the highest. */
enum { PLOT_PART = 16 };

typedef struct drawing {
    const top_t *t;
    const screen_t *s;
    int left; /* rows */
} drawing_t;

static const collect_process_t *process_of(const top_t *t) {
    return t->record.collect.processes.at[0];
}

static bool row_ends(drawing_t *d) {
    fputs(d->s->color ? "\033[K\n" : "\n", d->s->file);
    return --d->left > 0;
}

static void words(char *out, size_t room, const char *command) {
    snprintf(out, room, "%s", command);
    for (char *at = out; *at; at++)
        if (*at == '\x1f') *at = ' ';
}

/* ── RSS over time ── */

/* The highest in each of `columns` stretches of the time so far; 0 where nothing was looked at. Returns the highest of all. */
static uint64_t rss_columns(const top_t *t, uint64_t *out, int columns) {
    const collect_points_t *points = &t->record.collect.timeline;
    const collect_process_t *p = process_of(t);
    uint64_t begin = p->begin_us, now = collect_now_us(&t->record.collect), highest = 0;
    uint64_t span = now > begin ? now - begin + 1 : 1;
    memset(out, 0, (size_t)columns * sizeof *out);
    for (size_t i = 0; i < points->count; i++) {
        const collect_point_t *point = &points->at[i];
        if (point->process || point->t_us < begin || point->t_us > now) continue;
        uint64_t at = (point->t_us - begin) * (uint64_t)columns / span;
        if (point->rss_bytes > out[at]) out[at] = point->rss_bytes;
    }
    if (p->rss_bytes > out[columns - 1]) out[columns - 1] = p->rss_bytes;
    for (int i = 0; i < columns; i++) {
        if (!out[i] && i) out[i] = out[i - 1];
        if (out[i] > highest) highest = out[i];
    }
    return highest;
}

static uint64_t rss_begin(const top_t *t) {
    const collect_points_t *points = &t->record.collect.timeline;
    for (size_t i = 0; i < points->count; i++)
        if (!points->at[i].process) return points->at[i].rss_bytes;
    return process_of(t)->rss_bytes;
}

static void plot_cell(const screen_t *s, int eighths) {
    static const char *const bars[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char ascii[] = " ..::||##";
    if (eighths < 0) eighths = 0;
    if (eighths > EIGHTHS) eighths = EIGHTHS;
    if (s->utf8)
        fputs(bars[eighths], s->file);
    else
        fputc(ascii[eighths], s->file);
}

/* Between the lowest and the highest: what grows slowly is to be seen. */
static bool draw_plot(drawing_t *d, int rows) {
    uint64_t columns[SCREEN_WIDTH_MAX], lowest = UINT64_MAX;
    char text[UNITS_BYTES];
    int n = d->s->width - PLOT_CELLS - 1;
    uint64_t highest = rss_columns(d->t, columns, n);
    for (int i = 0; i < n; i++)
        if (columns[i] && columns[i] < lowest) lowest = columns[i];
    if (lowest > highest) lowest = highest;
    uint64_t span = highest - lowest, least = highest / PLOT_PART + 1;
    if (span < least) lowest -= (least - span) < lowest ? least - span : lowest;
    span = highest - lowest;
    for (int row = rows; row > 0; row--) {
        const char *label = row == rows ? units_size(text, highest)
                            : row == 1  ? units_size(text, lowest)
                                        : "";
        fprintf(d->s->file, "%12s   ", label);
        for (int i = 0; i < n; i++) {
            uint64_t above = columns[i] > lowest ? columns[i] - lowest : 0;
            int level = (int)(above * (uint64_t)(rows * EIGHTHS - 1) / (span ? span : 1));
            plot_cell(d->s, columns[i] ? level + 1 - (row - 1) * EIGHTHS : 0);
        }
        if (!row_ends(d)) return false;
    }
    return true;
}

/* ── The rest of the screen ── */

static bool draw_head(drawing_t *d) {
    const top_t *t = d->t;
    const collect_process_t *p = process_of(t);
    char line[4096], a[UNITS_BYTES], b[UNITS_BYTES], c[UNITS_BYTES], g[UNITS_BYTES];
    uint64_t now = collect_now_us(&t->record.collect);
    words(line, sizeof line, p->command);
    int used = fprintf(d->s->file, "%d  ", (int)t->pid);
    screen_text(d->s, line, strlen(line), d->s->width - used - 1);
    if (!row_ends(d)) return false;
    int n = snprintf(line, sizeof line, "RSS %s  %s in %s  peak %s", units_size(a, p->rss_bytes),
                     units_growth(g, (int64_t)p->rss_bytes - (int64_t)rss_begin(t)),
                     units_span(c, (double)(now - p->begin_us) / 1e6),
                     units_size(b, p->rss_peak_bytes));
    screen_text(d->s, line, (size_t)n, d->s->width - 1);
    return row_ends(d);
}

static bool draw_children(drawing_t *d, size_t most) {
    const top_more_t *m = &d->t->more;
    char size[UNITS_BYTES];
    size_t n = m->count < most ? m->count : most;
    for (size_t i = 0; i < n; i++) {
        const top_child_t *c = &m->children[i];
        int depth = c->depth < 8 ? c->depth : 8;
        int used = fprintf(d->s->file, "%12s  %*s%d  ", units_size(size, c->rss_bytes),
                           2 * (depth - 1), "", (int)c->pid);
        screen_text(d->s, c->command, strlen(c->command), d->s->width - used - 1);
        if (!row_ends(d)) return false;
    }
    if (m->count > n) {
        fprintf(d->s->file, "%12s  and %zu more processes", "", m->count - n);
        if (!row_ends(d)) return false;
    }
    return !m->count || row_ends(d);
}

static bool draw_line(drawing_t *d, const top_line_t *line) {
    char size[UNITS_BYTES], growth[UNITS_BYTES];
    int64_t grown = top_growth(&d->t->more, line);
    fprintf(d->s->file, "%12s %12s  ", units_size(size, line->bytes),
            grown ? units_growth(growth, grown) : "");
    screen_text(d->s, line->name, strlen(line->name), d->s->width - 28);
    return row_ends(d);
}

/* The largest, and the one that grows most. */
static bool draw_ledger(drawing_t *d, size_t most) {
    const top_more_t *m = &d->t->more;
    size_t n = m->lines < most ? m->lines : most, grows = 0;
    for (size_t i = 1; i < m->lines; i++)
        if (top_growth(m, &m->ledger[i]) > top_growth(m, &m->ledger[grows])) grows = i;
    for (size_t i = 0; i < n; i++) {
        bool last = i + 1 == n && grows >= n;
        if (!draw_line(d, &m->ledger[last ? grows : i])) return false;
    }
    return !n || row_ends(d);
}

/* Both figures with their errors; where that leaves the line no room, what is alive alone. */
enum { BYTES_CELLS = 12, ERROR_CELLS = 7, BOTH_FROM = 64 };

/* Returns the cells. */
static int draw_figure(const screen_t *s, const char *figure, const char *error) {
    char text[UNITS_BYTES + 8];
    fprintf(s->file, "%*s", BYTES_CELLS, figure);
    snprintf(text, sizeof text, " %s%.20s", screen_symbol(s, "±", "+-"), error);
    screen_padded(s, text, ERROR_CELLS);
    return BYTES_CELLS + ERROR_CELLS;
}

static int draw_estimate(const screen_t *s, uint64_t bytes, uint64_t error) {
    char size[UNITS_BYTES], off[UNITS_BYTES];
    return draw_figure(s, units_size(size, bytes), units_short(off, error));
}

static bool draw_site(drawing_t *d, const top_site_t *site) {
    const collect_sites_t *sites = &d->t->record.collect.sites;
    const collect_frame_t *f = sites->frames.at + site->frame;
    char where[8192];
    uint64_t every = d->t->interval_bytes;
    const char *file = sites_text_at(sites, f->file), *slash = strrchr(file, '/');
    int n = snprintf(where, sizeof where, "%s", sites_text_at(sites, f->function));
    if (*file && n >= 0 && (size_t)n < sizeof where)
        snprintf(where + n, sizeof where - (size_t)n, "  %s:%u", slash ? slash + 1 : file, f->line);
    int used = draw_estimate(d->s, site->live_bytes, profile_spread(site->live_variance, every));
    if (d->s->width >= BOTH_FROM)
        used += draw_estimate(d->s, site->total_bytes, profile_spread(site->total_variance, every));
    screen_gap(d->s, 1);
    screen_text(d->s, where, strlen(where), d->s->width - used - 2);
    return row_ends(d);
}

static bool draw_sites(drawing_t *d) {
    const top_t *t = d->t;
    char rate[UNITS_BYTES], off[UNITS_BYTES], line[128];
    screen_style(d->s, STYLE_BOLD);
    int used = draw_figure(d->s, "live", "err");
    bool both = d->s->width >= BOTH_FROM;
    if (both) used += draw_figure(d->s, "allocated", "err");
    int n = snprintf(line, sizeof line, " %s%s %s%s/s", both ? "by line; " : "",
                     both ? units_size(rate, t->rate) : units_short(rate, t->rate),
                     screen_symbol(d->s, "±", "+-"), units_short(off, t->rate_error));
    screen_text(d->s, line, (size_t)n, d->s->width - used - 1);
    screen_style(d->s, STYLE_PLAIN);
    if (!row_ends(d)) return false;
    for (size_t i = 0; i < t->count; i++)
        if (t->sites[i].total_bytes && !draw_site(d, &t->sites[i])) return false;
    return true;
}

void top_draw(const top_t *t, const screen_t *s, int rows) {
    drawing_t d = {t, s, rows};
    size_t most = rows >= A_SIXTH ? (size_t)rows / A_SIXTH : 1;
    bool room = draw_head(&d) && draw_plot(&d, rows >= ROWS_FOR_ALL ? PLOT_ROWS_MOST : 1) &&
                row_ends(&d) && draw_children(&d, most) && draw_ledger(&d, most + 1) &&
                draw_sites(&d);
    (void)room;
    fflush(s->file);
}

/* ── JSON ── */

static void timeline_json(const top_t *t, json_t *j) {
    const collect_points_t *points = &t->record.collect.timeline;
    size_t step = points->count / JSON_POINTS_MOST + 1;
    json_open(j, "timeline", '[');
    for (size_t i = 0; i < points->count; i += step) {
        json_open(j, NULL, '{');
        json_real(j, "t_s", (double)points->at[i].t_us / 1e6);
        json_uint(j, "rss_bytes", points->at[i].rss_bytes);
        json_close(j);
    }
    json_close(j);
}

static void ledger_json(const top_t *t, json_t *j) {
    json_open(j, "ledger", '[');
    for (size_t i = 0; i < t->more.lines; i++) {
        json_open(j, NULL, '{');
        json_text(j, "name", t->more.ledger[i].name);
        json_uint(j, "bytes", t->more.ledger[i].bytes);
        json_int(j, "growth_bytes", top_growth(&t->more, &t->more.ledger[i]));
        json_close(j);
    }
    json_close(j);
}

static void processes_json(const top_t *t, json_t *j) {
    json_open(j, "processes", '[');
    for (size_t i = 0; i < t->more.count; i++) {
        json_open(j, NULL, '{');
        json_int(j, "pid", t->more.children[i].pid);
        json_int(j, "depth", t->more.children[i].depth);
        json_uint(j, "rss_bytes", t->more.children[i].rss_bytes);
        json_text(j, "command", t->more.children[i].command);
        json_close(j);
    }
    json_close(j);
}

static void sites_json(const top_t *t, json_t *j) {
    const collect_sites_t *sites = &t->record.collect.sites;
    uint64_t every = t->interval_bytes;
    json_open(j, "sites", '[');
    for (size_t i = 0; i < t->count && i < JSON_SITES_MOST; i++) {
        const collect_frame_t *f = sites->frames.at + t->sites[i].frame;
        json_open(j, NULL, '{');
        json_text(j, "file", sites_text_at(sites, f->file));
        json_uint(j, "line", f->line);
        json_text(j, "function", sites_text_at(sites, f->function));
        json_uint(j, "live_bytes", t->sites[i].live_bytes);
        json_uint(j, "live_error_bytes", profile_spread(t->sites[i].live_variance, every));
        json_uint(j, "live_blocks", t->sites[i].live_blocks);
        json_uint(j, "total_bytes", t->sites[i].total_bytes);
        json_uint(j, "total_error_bytes", profile_spread(t->sites[i].total_variance, every));
        json_close(j);
    }
    json_close(j);
}

void top_json(const top_t *t, FILE *file) {
    const collect_process_t *p = process_of(t);
    char command[4096];
    json_t j;
    words(command, sizeof command, p->command);
    json_init(&j, file);
    json_open(&j, NULL, '{');
    json_int(&j, "pid", t->pid);
    json_text(&j, "command", command);
    json_real(&j, "watched_s", (double)(collect_now_us(&t->record.collect) - p->begin_us) / 1e6);
    json_uint(&j, "rss_bytes", p->rss_bytes);
    json_int(&j, "rss_growth_bytes", (int64_t)p->rss_bytes - (int64_t)rss_begin(t));
    json_uint(&j, "peak_rss_bytes", p->rss_peak_bytes);
    json_uint(&j, "live_bytes", observed_heap_bytes(&p->observed));
    json_uint(&j, "live_error_bytes", profile_spread(t->live_variance, t->interval_bytes));
    json_uint(&j, "allocated_bytes_a_second", t->rate);
    json_uint(&j, "allocated_error_bytes_a_second", t->rate_error);
    timeline_json(t, &j);
    ledger_json(t, &j);
    processes_json(t, &j);
    sites_json(t, &j);
    json_close(&j);
}
