#define _GNU_SOURCE
#include "view/diff_view.h"

#include "view/diff_lines.h"
#include "view/json.h"
#include "view/report_view.h"
#include "view/units.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    BYTES_CELLS = 10,
    COUNT_CELLS = 11,
    GROWN_CELLS = 11,
    GAP = 2,
    NARROW = 72,
    TREND_MAX = 12,
    SHRUNK_LINES = 3
};

/* Frames, threads and the like are no types to anybody. */
static bool is_told(const model_growth_t *g) {
    return g->path || !g->type || g->type[0] != '<';
}

static uint32_t recordings(const diff_view_t *d) {
    return d->diff->recordings;
}

/* ---- Text ---- */

static void recordings_text(const diff_view_t *d, const screen_t *s) {
    char size[UNITS_BYTES], count[UNITS_BYTES];
    screen_style(s, STYLE_DIM);
    bool lines = d->lines->count > 0;
    int rest = s->width - BYTES_CELLS - COUNT_CELLS - GAP - (lines ? 2 * BYTES_CELLS : 0);
    if (lines) fprintf(s->file, "%*s%*s", BYTES_CELLS, "live", BYTES_CELLS, "peak");
    fprintf(s->file, "%*s%*s  recording", BYTES_CELLS, "heap", COUNT_CELLS, "objects");
    screen_style(s, STYLE_PLAIN);
    screen_end(s);
    for (uint32_t i = 0; i < recordings(d); i++) {
        const model_totals_t *t = model_totals(d->models[i]);
        const char *iso = lowtide_meta(model_recording(d->models[i]), "captured");
        char time[UNITS_BYTES];
        const char *when = iso ? units_time(time, iso) : NULL;
        const profile_sums_t *sums = lines ? d->lines->all.sums[i] : NULL;
        if (lines)
            fprintf(s->file, "%*s", BYTES_CELLS, units_size(size, sums->bytes[PROFILE_LIVE]));
        if (lines)
            fprintf(s->file, "%*s", BYTES_CELLS, units_size(size, sums->bytes[PROFILE_PEAK]));
        fprintf(s->file, "%*s", BYTES_CELLS,
                t->objects ? units_size(size, t->shallow_bytes) : screen_symbol(s, "–", "-"));
        fprintf(s->file, "%*s", COUNT_CELLS, units_count(count, t->objects));
        screen_gap(s, GAP);
        int used = screen_text(s, d->names[i], strlen(d->names[i]), rest);
        if (when && rest - used - GAP >= (int)strlen(when)) {
            screen_gap(s, GAP);
            screen_dim(s, when, rest - used - GAP);
        }
        screen_end(s);
    }
}

/* One small column a recording: the shape of the growth at a glance. */
static void trend(const diff_view_t *d, const screen_t *s, const model_growth_t *g) {
    static const char *const level[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    uint64_t most = 1;
    for (uint32_t i = 0; i < recordings(d); i++)
        if (g->retained_bytes[i] > most) most = g->retained_bytes[i];
    screen_gap(s, GAP);
    screen_style(s, g->steady ? STYLE_WARN : STYLE_DIM);
    for (uint32_t i = 0; i < recordings(d); i++)
        fputs(level[(int)((double)g->retained_bytes[i] * 7 / (double)most)], s->file);
    screen_style(s, STYLE_PLAIN);
}

static void growth_line(const diff_view_t *d, const screen_t *s, const model_growth_t *g) {
    char text[UNITS_BYTES];
    uint32_t last = recordings(d) - 1;
    bool narrow = s->width < NARROW;
    bool draw = recordings(d) > 2 && recordings(d) <= TREND_MAX && !narrow && s->utf8;
    int rest = s->width - GROWN_CELLS - COUNT_CELLS - GAP - (narrow ? 0 : BYTES_CELLS + 1) -
               (draw ? (int)recordings(d) + GAP : 0);
    screen_style(s, g->grown_bytes > 0 ? STYLE_WARN : STYLE_GOOD);
    fprintf(s->file, "%*s", GROWN_CELLS, units_growth(text, g->grown_bytes));
    screen_style(s, STYLE_PLAIN);
    fprintf(s->file, "%*s", COUNT_CELLS, units_count_growth(text, g->grown_count));
    if (!narrow) {
        fprintf(s->file, "%*s", BYTES_CELLS + 1, units_size(text, g->retained_bytes[last]));
        if (draw) trend(d, s, g);
    }
    screen_gap(s, GAP);
    const char *steady = recordings(d) > 2 && g->steady ? "every time" : "";
    int room = rest - (*steady ? (int)strlen(steady) + GAP : 0);
    bool tell = *steady && room > 24;
    const char *name = g->path ? g->path : g->type;
    int used = screen_text(s, name, strlen(name), tell ? room : rest);
    room -= used + GAP;
    if (g->path && g->type && room > 8) {
        screen_gap(s, GAP);
        screen_dim(s, g->type, room);
    }
    if (tell) {
        screen_gap(s, GAP);
        screen_style(s, STYLE_WARN);
        fputs(steady, s->file);
        screen_style(s, STYLE_PLAIN);
    }
    screen_end(s);
}

static void more_line(const screen_t *s, int indent, uint32_t more) {
    char left[UNITS_BYTES];
    screen_gap(s, indent);
    screen_style(s, STYLE_DIM);
    fprintf(s->file, "%s %s more", screen_symbol(s, "…", "..."), units_count(left, more));
    screen_style(s, STYLE_PLAIN);
    screen_end(s);
}

static void growth_list(const diff_view_t *d, const screen_t *s, const char *title,
                        const model_growth_t *list, uint32_t count, const char *name) {
    if (!count) return;
    bool narrow = s->width < NARROW;
    screen_end(s);
    view_heading(s, title, NULL);
    screen_style(s, STYLE_DIM);
    fprintf(s->file, "%*s%*s", GROWN_CELLS, "growth", COUNT_CELLS, "count");
    if (!narrow) {
        fprintf(s->file, "%*s", BYTES_CELLS + 1, "retained");
        if (recordings(d) > 2 && recordings(d) <= TREND_MAX && s->utf8)
            screen_gap(s, GAP + (int)recordings(d));
    }
    fprintf(s->file, "  %s", name);
    screen_style(s, STYLE_PLAIN);
    screen_end(s);
    /* What grew most, and at the list's end what shrank most. */
    uint32_t shown = 0, more = 0, last = count;
    for (; last && count - last < SHRUNK_LINES && list[last - 1].grown_bytes < 0; last--) continue;
    for (uint32_t i = 0; i < last; i++) {
        if (!is_told(&list[i])) continue;
        if (shown < d->top) {
            growth_line(d, s, &list[i]);
            shown++;
        } else {
            more++;
        }
    }
    if (more) more_line(s, GROWN_CELLS + COUNT_CELLS + (narrow ? 0 : BYTES_CELLS + 1) + GAP, more);
    for (uint32_t i = last; i < count; i++)
        if (is_told(&list[i])) growth_line(d, s, &list[i]);
}

void diff_text(const diff_view_t *d, const screen_t *s) {
    const model_diff_t *diff = d->diff;
    const model_totals_t *first = model_totals(d->models[0]);
    const model_totals_t *last = model_totals(d->models[recordings(d) - 1]);
    int64_t grown = (int64_t)(last->shallow_bytes - first->shallow_bytes);
    if (diff->findings.count) {
        view_findings_text(&diff->findings, s);
    } else if (!diff_lines_first(d->lines, s)) {
        char size[UNITS_BYTES], count[UNITS_BYTES], line[200];
        snprintf(line, sizeof line, "No finding. The heap: %s, %s objects.",
                 units_growth(size, grown),
                 units_count_growth(count, (int64_t)(last->objects - first->objects)));
        screen_wrapped(s, line, 0, s->width);
    }
    screen_end(s);
    recordings_text(d, s);
    diff_lines_text(d->lines, d->top, s);
    growth_list(d, s, "GROWTH BY PATH", diff->paths, diff->path_count, "path and type");
    growth_list(d, s, "GROWTH BY TYPE", diff->types, diff->type_count, "type");
}

/* ---- JSON ---- */

static void growth_json(const diff_view_t *d, json_t *j, const model_growth_t *g) {
    json_open(j, NULL, '{');
    if (g->path) json_text(j, "path", g->path);
    json_text(j, "type", g->type);
    json_int(j, "grown_bytes", g->grown_bytes);
    json_int(j, "grown_count", g->grown_count);
    json_bool(j, "steady", g->steady);
    json_open(j, "retained_bytes", '[');
    for (uint32_t i = 0; i < recordings(d); i++) json_uint(j, NULL, g->retained_bytes[i]);
    json_close(j);
    json_open(j, "count", '[');
    for (uint32_t i = 0; i < recordings(d); i++) json_uint(j, NULL, g->count[i]);
    json_close(j);
    json_close(j);
}

static void growths_json(const diff_view_t *d, json_t *j, const char *key,
                         const model_growth_t *list, uint32_t count) {
    uint32_t shown = 0;
    json_open(j, key, '[');
    for (uint32_t i = 0; i < count && shown < d->top; i++) {
        if (!is_told(&list[i])) continue;
        growth_json(d, j, &list[i]);
        shown++;
    }
    json_close(j);
}

static void recordings_json(const diff_view_t *d, json_t *j) {
    json_open(j, "recordings", '[');
    for (uint32_t i = 0; i < recordings(d); i++) {
        lowtide_recording *rec = model_recording(d->models[i]);
        const model_totals_t *t = model_totals(d->models[i]);
        const char *pid = lowtide_meta(rec, "pid"), *rss = lowtide_meta(rec, "rss_bytes");
        json_open(j, NULL, '{');
        json_text(j, "file", d->names[i]);
        if (pid)
            json_int(j, "pid", strtoll(pid, NULL, 10));
        else
            json_null(j, "pid");
        json_text(j, "captured", lowtide_meta(rec, "captured"));
        if (rss)
            json_uint(j, "rss_bytes", strtoull(rss, NULL, 10));
        else
            json_null(j, "rss_bytes");
        json_uint(j, "objects", t->objects);
        json_uint(j, "shallow_bytes", t->shallow_bytes);
        json_close(j);
    }
    json_close(j);
}

void diff_json(const diff_view_t *d, FILE *file) {
    json_t j;
    json_init(&j, file);
    json_open(&j, NULL, '{');
    json_uint(&j, "schema", 1);
    json_text(&j, "lowtide", LOWTIDE_VERSION);
    recordings_json(d, &j);
    growths_json(d, &j, "types", d->diff->types, d->diff->type_count);
    growths_json(d, &j, "paths", d->diff->paths, d->diff->path_count);
    diff_lines_json(d->lines, d->top, &j);
    view_findings_json(&d->diff->findings, &j);
    json_close(&j);
}
