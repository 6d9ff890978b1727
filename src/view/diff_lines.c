#define _GNU_SOURCE
#include "view/diff_lines.h"

#include "base/mem.h"
#include "view/report_view.h"
#include "view/units.h"

#include <inttypes.h>
#include <string.h>

enum { GROWN_CELLS = 11, ERROR_CELLS = 10, NOW_CELLS = 11, GAP = 2, NARROW = 72, SHRUNK_LINES = 3 };

static const struct {
    int figure;
    const char *name, *title;
} told[] = {
    {PROFILE_LIVE, "live", "GROWTH BY LINE  still alive at the end"},
    {PROFILE_PEAK, "peak", "GROWTH BY LINE  alive at the peak"},
    {PROFILE_TOTAL, "total", "GROWTH BY LINE  made in all"},
};
enum { TOLD = sizeof told / sizeof told[0] };

static uint64_t bytes_in(const profile_diff_t *d, const profile_change_t *c, uint32_t k,
                         int figure) {
    (void)d;
    return c->sums[k] ? c->sums[k]->bytes[figure] : 0;
}

static bool is_narrow(const screen_t *s) {
    return s->width < NARROW;
}

static int indent_of(const screen_t *s) {
    return GROWN_CELLS + (is_narrow(s) ? 0 : 3 + ERROR_CELLS + NOW_CELLS) + GAP;
}

static void line_text(const profile_diff_t *d, const profile_change_t *c, int figure,
                      const screen_t *s) {
    char text[UNITS_BYTES], place[1024], moved[48] = "";
    uint64_t off = c->error_bytes[figure];
    int rest = s->width - indent_of(s);
    screen_style(s, c->grown_bytes[figure] > 0 ? STYLE_WARN : STYLE_GOOD);
    fprintf(s->file, "%*s", GROWN_CELLS, units_growth(text, c->grown_bytes[figure]));
    screen_style(s, STYLE_PLAIN);
    if (!is_narrow(s)) {
        fputs(off ? screen_symbol(s, " ± ", " +-") : "   ", s->file);
        fprintf(s->file, "%-*s", ERROR_CELLS, off ? units_size(text, off) : "");
        fprintf(s->file, "%*s", NOW_CELLS,
                units_size(text, bytes_in(d, c, d->recordings - 1, figure)));
    }
    screen_gap(s, GAP);
    view_place(place, sizeof place, c->frame->file, c->frame->line);
    if (c->line_before) snprintf(moved, sizeof moved, " (was line %u)", c->line_before);
    int behind = (int)strlen(moved) + GAP + (int)strlen(c->frame->function);
    int used = screen_text(s, place, strlen(place), rest - behind > 24 ? rest - behind : rest);
    if (*moved && rest - used > (int)strlen(moved)) {
        used += screen_dim(s, moved, rest - used);
    }
    if (rest - used - GAP > 3) {
        screen_gap(s, GAP);
        screen_style(s, STYLE_ACCENT);
        screen_text(s, c->frame->function, strlen(c->frame->function), rest - used - GAP);
        screen_style(s, STYLE_PLAIN);
    }
    screen_end(s);
    if (c->from) view_made_text(s, "from ", c->from, indent_of(s));
}

static void heading(const profile_diff_t *d, const screen_t *s, int i) {
    char note[160], grown[UNITS_BYTES], error[UNITS_BYTES];
    uint64_t off = d->all.error_bytes[told[i].figure];
    snprintf(note, sizeof note, "%s%s%s in all%s",
             units_growth(grown, d->all.grown_bytes[told[i].figure]),
             off ? screen_symbol(s, " ± ", " +- ") : "", off ? units_size(error, off) : "",
             profile_change_within(&d->all, told[i].figure) && off ? ", within error" : "");
    screen_end(s);
    view_heading(s, told[i].title, note);
    screen_style(s, STYLE_DIM);
    fprintf(s->file, "%*s", GROWN_CELLS, "growth");
    if (!is_narrow(s))
        fprintf(s->file, "%s%-*s%*s", screen_symbol(s, " ± ", " +-"), ERROR_CELLS, "error",
                NOW_CELLS, "now");
    fputs("  line and function\n", s->file);
    screen_style(s, STYLE_PLAIN);
}

static void list_text(const profile_diff_t *d, uint32_t top, const screen_t *s, int i) {
    int figure = told[i].figure;
    uint32_t *order, shown = 0, within = 0, more = 0, last = d->count, count = 0;
    err_t e;
    if (profile_diff_order(d, figure, &order, &e)) return;
    for (uint32_t k = 0; k < d->count; k++) { /* those to be told move to the front */
        const profile_change_t *c = &d->changes[order[k]];
        bool is_within = profile_change_within(c, figure);
        within += is_within && c->grown_bytes[figure];
        if (!is_within) order[count++] = order[k];
    }
    for (last = count; last && count - last < SHRUNK_LINES; last--)
        if (d->changes[order[last - 1]].grown_bytes[figure] >= 0) break;
    for (uint32_t k = 0; k < count; k++) {
        if (k < last && shown >= top) {
            more++;
            continue;
        }
        if (!shown++) heading(d, s, i);
        line_text(d, &d->changes[order[k]], figure, s);
    }
    if (!shown && within) heading(d, s, i);
    if (more + within) {
        char count_text[UNITS_BYTES], within_text[UNITS_BYTES], line[128];
        snprintf(line, sizeof line, "%s %s more line%s, %s within error",
                 screen_symbol(s, "…", "..."), units_count(count_text, more + within),
                 more + within == 1 ? "" : "s", units_count(within_text, within));
        screen_gap(s, indent_of(s));
        screen_dim(s, line, s->width - indent_of(s));
        screen_end(s);
    }
    mem_free(order);
}

void diff_lines_text(const profile_diff_t *d, uint32_t top, const screen_t *s) {
    for (int i = 0; i < TOLD; i++) list_text(d, top, s, i);
}

bool diff_lines_first(const profile_diff_t *d, const screen_t *s) {
    uint32_t *order;
    err_t e;
    char line[1400], place[1024], grown[UNITS_BYTES], error[UNITS_BYTES];
    if (!d->count || profile_diff_order(d, PROFILE_LIVE, &order, &e)) return false;
    const profile_change_t *c = NULL;
    for (uint32_t i = 0; i < d->count && !c; i++)
        if (!profile_change_within(&d->changes[order[i]], PROFILE_LIVE)) c = &d->changes[order[i]];
    mem_free(order);
    if (!c || c->grown_bytes[PROFILE_LIVE] <= 0) {
        uint64_t off = d->all.error_bytes[PROFILE_LIVE];
        snprintf(line, sizeof line, "No line grew by more than its error. In all: %s%s%s.",
                 units_growth(grown, d->all.grown_bytes[PROFILE_LIVE]),
                 off ? screen_symbol(s, " ± ", " +- ") : "", off ? units_size(error, off) : "");
    } else {
        uint64_t off = c->error_bytes[PROFILE_LIVE];
        const profile_frame_t *f = c->from ? c->from : c->frame;
        snprintf(line, sizeof line, "%s%s%s more is alive at the end of what %s makes (%.100s).",
                 units_size(grown, (uint64_t)c->grown_bytes[PROFILE_LIVE]),
                 off ? screen_symbol(s, " ± ", " +- ") : "", off ? units_size(error, off) : "",
                 view_place(place, sizeof place, f->file, f->line), f->function);
    }
    screen_wrapped(s, line, 0, s->width);
    return true;
}

/* ---- JSON ---- */

static void change_json(const profile_diff_t *d, const profile_change_t *c, json_t *j) {
    char key[64];
    json_open(j, NULL, '{');
    json_text(j, "file", c->frame->file);
    json_uint(j, "line", c->frame->line);
    if (c->line_before)
        json_uint(j, "line_before", c->line_before);
    else
        json_null(j, "line_before");
    json_text(j, "function", c->frame->function);
    json_text(j, "source", c->frame->source && *c->frame->source ? c->frame->source : NULL);
    for (int i = 0; i < TOLD; i++) {
        int figure = told[i].figure;
        snprintf(key, sizeof key, "%s_bytes", told[i].name);
        json_open(j, key, '[');
        for (uint32_t k = 0; k < d->recordings; k++) json_uint(j, NULL, bytes_in(d, c, k, figure));
        json_close(j);
        snprintf(key, sizeof key, "%s_grown_bytes", told[i].name);
        json_int(j, key, c->grown_bytes[figure]);
        snprintf(key, sizeof key, "%s_grown_blocks", told[i].name);
        json_int(j, key, c->grown_blocks[figure]);
        snprintf(key, sizeof key, "%s_error_bytes", told[i].name);
        json_uint(j, key, c->error_bytes[figure]);
        snprintf(key, sizeof key, "%s_within_error", told[i].name);
        json_bool(j, key, profile_change_within(c, figure));
    }
    json_close(j);
}

void diff_lines_json(const profile_diff_t *d, uint32_t top, json_t *j) {
    uint32_t *order = NULL;
    err_t e;
    int status = d->count ? profile_diff_order(d, PROFILE_LIVE, &order, &e) : -1;
    json_open(j, "sites", '[');
    for (uint32_t i = 0; !status && i < d->count && i < top; i++)
        change_json(d, &d->changes[order[i]], j);
    json_close(j);
    mem_free(order);
}
