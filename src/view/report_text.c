#define _GNU_SOURCE
#include "view/profile_view.h"
#include "view/report_notes.h"
#include "view/report_resources.h"
#include "view/report_view.h"
#include "view/units.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Figures stand left, right-aligned in columns of these widths, and names right, where they have
 * the rest of the line: so bytes stand below bytes through the whole report, at any width. */
enum { BYTES_CELLS = 10, COUNT_CELLS = 11, GAP = 2, NARROW = 64, DEPTH_MAX = 12 };
enum { UNTOUCHED_MIN_BYTES = 1 << 20 };

static void figure(const screen_t *s, const char *text, int cells) {
    fprintf(s->file, "%*s", cells, text);
}

void view_heading(const screen_t *s, const char *title, const char *note) {
    screen_style(s, STYLE_BOLD);
    fputs(title, s->file);
    screen_style(s, STYLE_PLAIN);
    if (note) {
        screen_gap(s, GAP);
        screen_wrapped(s, note, GAP, s->width - (int)strlen(title) - GAP);
    } else {
        screen_end(s);
    }
}

static void column_names(const screen_t *s, const char *const *names, const int *cells, int n,
                         const char *last) {
    screen_style(s, STYLE_DIM);
    for (int i = 0; i < n; i++) fprintf(s->file, "%*s", cells[i], names[i]);
    screen_gap(s, GAP);
    fputs(last, s->file);
    screen_style(s, STYLE_PLAIN);
    screen_end(s);
}

/* Begins with a capital, unless it begins with a name or with Python. */
static void sentence(const screen_t *s, const char *text, int indent, int cells) {
    size_t word = strspn(text, "abcdefghijklmnopqrstuvwxyz");
    bool code = strncmp(text, "del ", 4) == 0;
    char *copy = word && text[word] == ' ' && !code ? strdup(text) : NULL;
    if (copy) copy[0] = (char)(copy[0] - 'a' + 'A');
    screen_wrapped(s, copy ? copy : text, indent, cells);
    free(copy);
}

/* Who adds the figures up would count it twice. */
static void within_text(const model_finding_t *one, const screen_t *s, int indent) {
    enum { LEAST_PART = 20 };
    static const char *const nth[] = {"first", "second",  "third",  "fourth", "fifth",
                                      "sixth", "seventh", "eighth", "ninth",  "tenth"};
    const size_t named = sizeof nth / sizeof *nth;
    char line[128], size[UNITS_BYTES], which[32];
    if (one->within == LOWTIDE_NONE || one->within_bytes < one->bytes / LEAST_PART) return;
    if (one->within < named)
        snprintf(which, sizeof which, "the %s", nth[one->within]);
    else
        snprintf(which, sizeof which, "finding %u", one->within + 1);
    if (one->within_bytes >= one->bytes - one->bytes / LEAST_PART)
        snprintf(line, sizeof line, "part of %s: their bytes do not add up", which);
    else
        snprintf(line, sizeof line, "%s of it are part of %s, too",
                 units_size(size, one->within_bytes), which);
    screen_gap(s, indent);
    screen_dim(s, line, s->width - indent);
    screen_end(s);
}

void view_findings_text(const model_findings_t *f, const screen_t *s) {
    char size[UNITS_BYTES];
    int indent = BYTES_CELLS + GAP, cells = s->width - indent;
    for (uint32_t i = 0; i < f->count; i++) {
        const model_finding_t *one = &f->findings[i];
        if (i) screen_end(s);
        screen_style(s, STYLE_GOOD);
        figure(s, units_size(size, one->bytes), BYTES_CELLS);
        screen_style(s, STYLE_PLAIN);
        screen_gap(s, GAP);
        screen_style(s, STYLE_BOLD);
        sentence(s, one->fix, indent, cells);
        screen_style(s, STYLE_PLAIN);
        screen_gap(s, indent);
        screen_wrapped(s, one->title, indent, cells);
        char tail[128];
        int n = snprintf(tail, sizeof tail, "%s, %s confidence", one->kind, one->confidence);
        int used = 0;
        screen_gap(s, indent);
        if (one->path) {
            screen_style(s, STYLE_ACCENT);
            used = screen_text(s, one->path, strlen(one->path), cells) + GAP;
            screen_style(s, STYLE_PLAIN);
            bool fits = used + n <= cells;
            if (!fits) screen_end(s);
            screen_gap(s, fits ? GAP : indent);
            used = fits ? used : 0;
        }
        screen_style(s, STYLE_DIM);
        screen_text(s, tail, (size_t)n, cells - used);
        screen_style(s, STYLE_PLAIN);
        screen_end(s);
        if (one->site_file) {
            profile_frame_t made = {.file = one->site_file,
                                    .line = one->site_line,
                                    .function = one->site_function ? one->site_function : "",
                                    .source = one->site_source};
            char lead[32] = "made by ";
            if (one->site_share > 0)
                snprintf(lead, sizeof lead, "%.0f %% of it made by ", one->site_share * 100);
            view_made_text(s, lead, &made, indent);
        }
        if (one->held_at_peak) {
            screen_gap(s, indent);
            screen_style(s, STYLE_DIM);
            used = screen_text(s, "held at the peak by ", 20, cells);
            screen_style(s, STYLE_ACCENT);
            screen_text(s, one->held_at_peak, strlen(one->held_at_peak), cells - used);
            screen_style(s, STYLE_PLAIN);
            screen_end(s);
        }
        within_text(one, s, indent);
    }
}

/* What no finding tells; whether there was any. */
static bool notes_text(const report_t *r, const screen_t *s) {
    char note[REPORT_NOTE_ROOM];
    bool found = r->findings.count > 0;
    if (!report_native_note(r, note) && (found || !report_missing_note(r, note))) return false;
    screen_wrapped(s, note, 0, s->width);
    if (found) screen_end(s);
    return true;
}

/* What there is to change stands before why no more is known. */
static void missing_text(const report_t *r, const screen_t *s) {
    char note[REPORT_NOTE_ROOM];
    if (!r->findings.count || !report_missing_note(r, note)) return;
    screen_end(s);
    screen_wrapped(s, note, 0, s->width);
}

/* What follows is of one process, and so is every finding about objects. */
static void whose_text(const report_t *r, const screen_t *s) {
    char note[REPORT_NOTE_ROOM];
    if (!report_whose_note(r, note)) return;
    screen_end(s);
    screen_wrapped(s, note, 0, s->width);
}

static void nothing_found(const report_t *r, const screen_t *s, bool noted) {
    const model_totals_t *t = model_totals(r->model);
    if (!t->objects) {
        if (!noted) screen_wrapped(s, "Nothing to change: no finding.", 0, s->width);
        return;
    }
    char count[UNITS_BYTES], size[UNITS_BYTES], line[160];
    snprintf(line, sizeof line, "%s in %s objects, %s.",
             noted ? "There is no finding" : "Nothing to change: no finding",
             units_count(count, t->objects), units_size(size, t->shallow_bytes));
    screen_wrapped(s, line, 0, s->width);
    profile_whose_heap(r, s);
}

/* Facts stand side by side with dots between them; one that no longer fits begins a line. */
static void fact(const screen_t *s, int *used, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void fact(const screen_t *s, int *used, const char *fmt, ...) {
    const char *dot = screen_symbol(s, " · ", " | ");
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    int cells = screen_cells(s, text, strlen(text));
    if (*used && *used + 3 + cells > s->width) {
        screen_end(s);
        *used = 0;
    }
    if (*used) fputs(dot, s->file);
    *used += (*used ? 3 : 0) + screen_text(s, text, strlen(text), s->width);
}

static void command_text(const report_t *r, const screen_t *s) {
    const char *command = lowtide_meta(r->rec, "command");
    if (!command || !*command) return;
    char *words = strdup(command);
    for (char *c = words; c && *c; c++)
        if (*c == '\x1f') *c = ' ';
    if (words) {
        screen_style(s, STYLE_BOLD);
        screen_text(s, words, strlen(words), s->width);
        screen_style(s, STYLE_PLAIN);
        screen_end(s);
    }
    free(words);
}

static void process_text(const report_t *r, const screen_t *s) {
    const char *python = lowtide_meta(r->rec, "python"), *when = lowtide_meta(r->rec, "captured");
    char span[UNITS_BYTES], time[UNITS_BYTES];
    int used = 0;
    command_text(r, s);
    if (r->has_pid) fact(s, &used, "pid %" PRId64, r->pid);
    if (python) fact(s, &used, "Python %s", python);
    if (r->has_duration) fact(s, &used, "up %s", units_span(span, r->duration_s));
    if (r->has_exit) fact(s, &used, "exit status %" PRId64, r->exit_status);
    if (when) fact(s, &used, "captured %s", units_time(time, when));
    if (r->has_pause) fact(s, &used, "paused %s", units_span(span, r->pause_ms / 1e3));
    if (used) screen_end(s);
}

static void bar(const screen_t *s, uint64_t part, uint64_t whole, int gap, int cells) {
    static const char *const eighth[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    if (part > whole) part = whole;
    int n = whole ? (int)((double)part * cells * 8 / (double)whole + 0.5) : 0;
    if (n < (s->utf8 ? 1 : 8)) return;
    screen_gap(s, gap);
    screen_style(s, STYLE_ACCENT);
    for (int i = 0; i < n / 8; i++) fputs(screen_symbol(s, "█", "#"), s->file);
    if (s->utf8) fputs(eighth[n % 8], s->file);
    screen_style(s, STYLE_PLAIN);
}

static void memory_line(const screen_t *s, uint64_t bytes, uint64_t whole, const char *name) {
    char size[UNITS_BYTES], share[UNITS_BYTES];
    enum { SHARE_CELLS = 7, NAME_CELLS = 26 };
    figure(s, units_size(size, bytes), BYTES_CELLS);
    figure(s, units_share(share, bytes, whole), SHARE_CELLS);
    screen_gap(s, GAP);
    int rest = s->width - BYTES_CELLS - SHARE_CELLS - GAP;
    int cells = rest - NAME_CELLS - GAP;
    if (cells > 40) cells = 40;
    int used = screen_text(s, name, strlen(name), cells >= 8 ? NAME_CELLS : rest);
    if (cells >= 8) bar(s, bytes, whole, NAME_CELLS - used + GAP, cells);
    screen_end(s);
}

/* The ledger's big lines; all of them stand in the JSON, and in `lowtide rss`. */
static void ledger_lines(const report_t *r, const screen_t *s, uint64_t whole) {
    uint64_t returnable = 0;
    for (uint32_t i = 0; i < r->ledger_count; i++) {
        const report_ledger_t *line = &r->ledger[i];
        returnable += line->returnable_bytes;
        if (line->bytes * 100 >= whole) memory_line(s, line->bytes, whole, line->name);
    }
    if (returnable * 100 >= whole) memory_line(s, returnable, whole, "  returnable now");
}

/* " 300.0 MiB  private mappings: mmap.mmap  cache.file" */
static void owners_lines(const report_t *r, const screen_t *s, uint64_t whole) {
    enum { OWNERS_SAID = 5, SHARE_CELLS = 7 };
    char size[UNITS_BYTES], line[768];
    for (uint32_t i = 0; i < r->owners.count && i < OWNERS_SAID; i++) {
        const model_owner_t *o = &r->owners.owners[i];
        if (o->bytes * 100 < whole) break;
        int n =
            snprintf(line, sizeof line, "of it %.200s  %.300s (%.120s)", o->type, o->path, o->line);
        figure(s, units_size(size, o->bytes), BYTES_CELLS);
        screen_gap(s, SHARE_CELLS + GAP);
        screen_text(s, line, (size_t)n, s->width - BYTES_CELLS - SHARE_CELLS - GAP);
        screen_end(s);
    }
}

/* "        37.0 MiB  in 37 nearly empty arenas, kept by 412 Order in app.cache" */
static void pins_lines(const report_t *r, const screen_t *s, uint64_t whole) {
    enum { PINS_SAID = 5, SHARE_CELLS = 7 };
    char size[UNITS_BYTES], arenas[UNITS_BYTES], count[UNITS_BYTES], line[1024], place[300];
    for (uint32_t i = 0; i < r->pins.count && i < PINS_SAID; i++) {
        const model_pin_t *p = &r->pins.pins[i];
        if (p->bytes * 100 < whole) break;
        const profile_frame_t *site = view_pin_site(r->profile, r->model, p);
        snprintf(line, sizeof line, "%s nearly empty %s, kept by %s%s%.200s%s%.300s%s%.300s",
                 units_count(arenas, p->arenas), p->arenas == 1 ? "arena" : "arenas",
                 p->objects ? units_count(count, p->objects) : "", p->objects ? " " : "",
                 p->objects ? p->type : "blocks that are no objects", p->path ? ", held by " : "",
                 p->path ? p->path : "", site ? ", made at " : "",
                 site ? view_place(place, sizeof place, site->file, site->line) : "");
        figure(s, units_size(size, p->bytes), BYTES_CELLS);
        screen_gap(s, SHARE_CELLS + GAP);
        screen_wrapped(s, line, BYTES_CELLS + SHARE_CELLS + GAP,
                       s->width - BYTES_CELLS - SHARE_CELLS - GAP);
    }
}

/* Beside the resident memory, not within it. */
static void gpu_lines(const report_t *r, const screen_t *s) {
    char size[UNITS_BYTES], line[512];
    enum { SHARE_CELLS = 7 };
    for (uint32_t i = 0; i < r->resources.count; i++) {
        const model_resource_t *x = &r->resources.rows[i];
        if (strcmp(x->kind, "gpu") != 0) continue;
        figure(s, x->bytes ? units_size(size, x->bytes) : "?", BYTES_CELLS);
        screen_gap(s, SHARE_CELLS + GAP);
        int n =
            snprintf(line, sizeof line, "%.300s%s%.100s", x->name, *x->note ? ", " : "", x->note);
        screen_text(s, line, (size_t)n, s->width - BYTES_CELLS - SHARE_CELLS - GAP);
        screen_end(s);
    }
}

static void memory_text(const report_t *r, const screen_t *s) {
    const model_totals_t *t = model_totals(r->model);
    char rss[UNITS_BYTES], peak[UNITS_BYTES], count[UNITS_BYTES], note[160];
    note[0] = 0;
    if (!r->has_rss && !t->objects) return;
    if (r->has_rss)
        snprintf(note, sizeof note, "%s resident%s%s%s", units_size(rss, r->rss_bytes),
                 r->has_peak ? ", " : "", r->has_peak ? units_size(peak, r->peak_rss_bytes) : "",
                 r->has_peak ? " at the peak" : "");
    screen_end(s);
    view_heading(s, "MEMORY", note[0] ? note : NULL);
    uint64_t whole = r->has_rss ? r->rss_bytes : t->shallow_bytes;
    if (!t->objects) return;
    snprintf(note, sizeof note, "%s Python objects", units_count(count, t->objects));
    memory_line(s, t->shallow_bytes, whole, note);
    if (t->unreachable_objects) memory_line(s, t->unreachable_bytes, whole, "  garbage");
    if (t->native_objects) memory_line(s, t->native_bytes, whole, "  held by C code alone");
    if (t->untouched_bytes >= UNTOUCHED_MIN_BYTES)
        memory_line(s, t->untouched_bytes, 0, "  and never touched");
    if (!r->from_system && r->ledger_count == 2)
        memory_line(s, r->ledger[1].bytes, whole, "not Python objects");
    if (!r->from_system) return;
    screen_gap(s, BYTES_CELLS);
    screen_style(s, STYLE_DIM);
    fputs("       and by who has the resident pages:", s->file);
    screen_style(s, STYLE_PLAIN);
    screen_end(s);
    ledger_lines(r, s, whole);
    owners_lines(r, s, whole);
    pins_lines(r, s, whole);
    gpu_lines(r, s);
}

static void more_line(const screen_t *s, int indent, uint64_t more, const char *what) {
    char count[UNITS_BYTES], line[96];
    screen_gap(s, indent);
    screen_style(s, STYLE_DIM);
    int n = snprintf(line, sizeof line, "%s %s more %s", screen_symbol(s, "…", "..."),
                     units_count(count, more), what);
    screen_text(s, line, (size_t)n, s->width - indent);
    screen_style(s, STYLE_PLAIN);
    screen_end(s);
}

static void types_text(const report_t *r, const screen_t *s) {
    uint32_t count;
    const model_type_t *types = model_types(r->model, &count);
    if (!count) return;
    bool narrow = s->width < NARROW;
    static const char *const names[] = {"retained", "count", "shallow"};
    static const int cells[] = {BYTES_CELLS, COUNT_CELLS, BYTES_CELLS + 1};
    int figures = BYTES_CELLS + COUNT_CELLS + (narrow ? 0 : BYTES_CELLS + 1) + GAP;
    char text[UNITS_BYTES];
    screen_end(s);
    view_heading(s, "TYPES", NULL);
    column_names(s, names, cells, narrow ? 2 : 3, "type");
    uint32_t shown = 0, more = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (types[i].type_id == LOWTIDE_NONE) continue; /* frames, threads … */
        if (shown == r->options.top) {
            more++;
            continue;
        }
        shown++;
        figure(s, units_size(text, types[i].retained_bytes), BYTES_CELLS);
        figure(s, units_count(text, types[i].count), COUNT_CELLS);
        if (!narrow) figure(s, units_size(text, types[i].shallow_bytes), BYTES_CELLS + 1);
        screen_gap(s, GAP);
        screen_text(s, types[i].name, strlen(types[i].name), s->width - figures);
        screen_end(s);
    }
    if (more) more_line(s, figures, more, more == 1 ? "type" : "types");
}

/* ---- The tree of dominators ---- */

typedef struct tree {
    const model_dominators_t *list;
    const profile_t *profile;
    profile_kept_t kept; /* of which heap */
    const screen_t *s;
    uint32_t made[DEPTH_MAX]; /* the line that is said to have made it: not said again below */
    bool last[DEPTH_MAX];     /* of the line's ancestors: nothing follows at that depth */
} tree_t;

static int tree_figures(const screen_t *s) {
    return BYTES_CELLS + (s->width < NARROW ? 0 : COUNT_CELLS) + GAP;
}

/* The lines that lead from a line's ancestors to it; `corner`: to it, else past it. Returns the cells left. */
static int branch(const tree_t *t, int depth, bool corner) {
    const screen_t *s = t->s;
    int rest = s->width - tree_figures(s);
    screen_style(s, STYLE_DIM);
    for (int i = 1; i <= depth && rest > 20; i++, rest -= 3) {
        bool last = t->last[i];
        if (i < depth || !corner)
            fputs(last ? "   " : screen_symbol(s, "│  ", "|  "), s->file);
        else
            fputs(last ? screen_symbol(s, "└─ ", "`- ") : screen_symbol(s, "├─ ", "|- "), s->file);
    }
    screen_style(s, STYLE_PLAIN);
    return rest;
}

/* What the line above said already is not said again. */
static const char *path_below(const char *path, const char *above) {
    size_t common = above ? strlen(above) : 0;
    if (!common || strncmp(path, above, common) != 0) return path;
    if (!path[common] || !strchr(".[ ", path[common])) return path;
    path += common;
    return path + strspn(path, " >");
}

static void dominator_line(const tree_t *t, const model_dominator_t *d, int depth,
                           const char *above) {
    const screen_t *s = t->s;
    char text[UNITS_BYTES], kind[256];
    figure(s, units_size(text, d->retained_bytes), BYTES_CELLS);
    if (s->width >= NARROW) figure(s, units_count(text, d->retained_objects), COUNT_CELLS);
    screen_gap(s, GAP);
    int rest = branch(t, depth, true);
    const char *path = path_below(d->path ? d->path : "", above);
    if (d->members > 1)
        snprintf(kind, sizeof kind, "%s %s %.200s", units_count(text, d->members),
                 screen_symbol(s, "×", "x"), d->type);
    else
        snprintf(kind, sizeof kind, "%.200s", d->type);
    int kind_cells = screen_cells(s, kind, strlen(kind));
    int path_cells = screen_cells(s, path, strlen(path));
    /* Where both do not fit, the type may keep two fifths, and what the path leaves. */
    int left = rest - GAP - path_cells, least = rest * 2 / 5;
    if (kind_cells > left)
        kind_cells = left > least ? left : kind_cells < least ? kind_cells : least;
    screen_text(s, path, strlen(path), rest - GAP - kind_cells);
    screen_gap(s, GAP);
    screen_dim(s, kind, kind_cells);
    screen_end(s);
}

static void holders_lines(const tree_t *t, const model_dominator_t *d, int depth) {
    static const char lead[] = "held by ";
    const screen_t *s = t->s;
    for (uint32_t i = 0; i < d->holders_count; i++) {
        screen_gap(s, tree_figures(s));
        int rest = branch(t, depth, false) - GAP - (int)sizeof lead + 1;
        screen_gap(s, GAP);
        screen_style(s, STYLE_DIM);
        screen_padded(s, i ? "" : lead, (int)sizeof lead - 1);
        screen_text(s, d->holders[i], strlen(d->holders[i]), rest);
        screen_style(s, STYLE_PLAIN);
        screen_end(s);
    }
}

static bool is_leaf(const tree_t *t, const model_dominator_t *d) {
    uint32_t index = (uint32_t)(d - t->list->lines);
    for (uint32_t i = 0; i < t->list->count; i++)
        if (t->list->lines[i].parent == index) return false;
    return true;
}

/* Where several lines made it, those stand with the parts below that each of them made. */
static void maker_line(tree_t *t, const model_dominator_t *d, int depth) {
    const screen_t *s = t->s;
    char text[1024];
    profile_share_t most;
    t->kept.orders = d->orders;
    t->kept.count = d->members;
    t->made[depth] = depth ? t->made[depth - 1] : LOWTIDE_NONE;
    int cells = s->width - tree_figures(s) - 3 * depth - GAP;
    if (!profile_maker_say(t->profile, &t->kept, s, cells, text, sizeof text, &most)) return;
    bool mostly = most.bytes / 2 >= d->retained_bytes / 3;
    if (most.line == t->made[depth] || (!mostly && !is_leaf(t, d))) return;
    t->made[depth] = most.line;
    screen_gap(s, tree_figures(s));
    int rest = branch(t, depth, false) - GAP;
    screen_gap(s, GAP);
    screen_dim(s, text, rest);
    screen_end(s);
}

static void subtree(tree_t *t, uint32_t parent, int depth) {
    const model_dominators_t *list = t->list;
    uint32_t last = UINT32_MAX;
    for (uint32_t i = 0; i < list->count; i++)
        if (list->lines[i].parent == parent) last = i;
    const char *above = parent == UINT32_MAX ? NULL : list->lines[parent].path;
    for (uint32_t i = 0; last != UINT32_MAX && i <= last; i++) {
        if (list->lines[i].parent != parent) continue;
        t->last[depth] = i == last;
        dominator_line(t, &list->lines[i], depth, above);
        holders_lines(t, &list->lines[i], depth);
        maker_line(t, &list->lines[i], depth);
        /* What lies deeper than a line has room for stands below its holder. */
        subtree(t, i, depth + 1 < DEPTH_MAX ? depth + 1 : depth);
    }
}

static void holders_text(const report_t *r, int when, const screen_t *s, const char *title,
                         const char *note) {
    bool peak = when == PROFILE_AT_PEAK;
    const model_dominators_t *list = peak ? &r->peak_dominators : &r->dominators;
    if (!list->count) return;
    static const char *const names[] = {"retained", "objects"};
    static const int cells[] = {BYTES_CELLS, COUNT_CELLS};
    screen_end(s);
    view_heading(s, title, note);
    column_names(s, names, cells, s->width < NARROW ? 1 : 2, "path and type");
    tree_t t = {.list = list,
                .profile = r->profile,
                .kept = {.model = peak ? r->peak : r->model, .when = when},
                .s = s};
    subtree(&t, UINT32_MAX, 0);
}

static void dominators_text(const report_t *r, const screen_t *s) {
    char note[160], size[UNITS_BYTES], at[48] = "";
    if (r->peak) {
        uint64_t us = r->profile->peak_heap_us;
        if (us) snprintf(at, sizeof at, ", %.1f s in", (double)us / 1e6);
        snprintf(note, sizeof note, "who held the %s of Python objects at a peak%s",
                 units_size(size, model_totals(r->peak)->shallow_bytes), at);
        holders_text(r, PROFILE_AT_PEAK, s, "HELD AT THE PEAK", note);
    }
    holders_text(r, PROFILE_AT_END, s, "HOLDERS", "what would go if the object went");
}

static void garbage_text(const report_t *r, const screen_t *s) {
    const model_totals_t *t = model_totals(r->model);
    if (!t->unreachable_objects) return;
    char count[UNITS_BYTES], size[UNITS_BYTES], note[160];
    snprintf(note, sizeof note, "%s in %s objects that nothing holds; gc.collect() would free them",
             units_size(size, t->unreachable_bytes), units_count(count, t->unreachable_objects));
    screen_end(s);
    view_heading(s, "GARBAGE", note);
    if (!r->cycles.count) return;
    static const char *const names[] = {"bytes", "cycles"};
    static const int cells[] = {BYTES_CELLS, COUNT_CELLS};
    column_names(s, names, cells, 2, "closed by");
    int rest = s->width - BYTES_CELLS - COUNT_CELLS - GAP;
    for (uint32_t i = 0; i < r->cycles.count; i++) {
        const model_cycle_t *c = &r->cycles.cycles[i];
        figure(s, units_size(size, c->bytes), BYTES_CELLS);
        figure(s, units_count(count, c->count), COUNT_CELLS);
        screen_gap(s, GAP);
        int used = screen_text(s, c->edge, strlen(c->edge), rest);
        if (rest - used > 24 && strcmp(c->edge, c->text) != 0) {
            screen_gap(s, GAP);
            screen_dim(s, c->text, rest - used - GAP);
        }
        screen_end(s);
    }
}

static void groups_text(const report_t *r, const screen_t *s) {
    if (!r->options.grouped) return;
    static const char *const names[] = {"bytes", "objects"};
    static const int cells[] = {BYTES_CELLS, COUNT_CELLS};
    char text[UNITS_BYTES], title[32];
    snprintf(title, sizeof title, "BY %.20s", r->options.by_name);
    for (char *c = title; *c; c++)
        if (*c >= 'a' && *c <= 'z') *c = (char)(*c - 'a' + 'A');
    screen_end(s);
    view_heading(s, title, NULL);
    column_names(s, names, cells, 2, r->options.by_name);
    int figures = BYTES_CELLS + COUNT_CELLS + GAP;
    for (uint32_t i = 0; i < r->groups.count && i < r->options.top; i++) {
        const model_group_t *g = &r->groups.groups[i];
        figure(s, units_size(text, g->bytes), BYTES_CELLS);
        figure(s, units_count(text, g->objects), COUNT_CELLS);
        screen_gap(s, GAP);
        screen_text(s, g->name, strlen(g->name), s->width - figures);
        screen_end(s);
    }
    if (r->groups.count > r->options.top)
        more_line(s, figures, r->groups.count - r->options.top, "groups");
}

void report_text(const report_t *r, const screen_t *s) {
    const char *cut = lowtide_cut(r->rec);
    if (cut) {
        screen_style(s, STYLE_WARN);
        screen_wrapped(s, cut, 0, s->width);
        screen_style(s, STYLE_PLAIN);
        screen_end(s);
    }
    bool noted = notes_text(r, s);
    if (r->findings.count)
        view_findings_text(&r->findings, s);
    else
        nothing_found(r, s, noted);
    missing_text(r, s);
    if (r->findings.count) whose_text(r, s);
    screen_end(s);
    process_text(r, s);
    memory_text(r, s);
    profile_text(r, s);
    types_text(r, s);
    dominators_text(r, s);
    groups_text(r, s);
    resources_text(r, s);
    garbage_text(r, s);
}
