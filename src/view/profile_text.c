#define _GNU_SOURCE
#include "base/mem.h"
#include "base/origin.h"
#include "explain/profile_groups.h"
#include "view/profile_view.h"
#include "view/report_notes.h"
#include "view/units.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BYTES_CELLS = 10,
    SHORT_CELLS = 6, /* "+-412M" */
    COUNT_CELLS = 11,
    GAP = 2,
    NARROW = 64,
    LINE_BYTES = 1024
};

static void processes_text(const report_t *r, const screen_t *s) {
    static const char *const how[] = {"", "started", "forked", "spawned", "attached"};
    const profile_t *p = r->profile;
    char size[UNITS_BYTES], line[512];
    if (p->process_count < 2) return;
    screen_end(s);
    snprintf(line, sizeof line, "%" PRIu32 ", each with its own highest resident memory",
             p->process_count);
    view_heading(s, "PROCESSES", line);
    for (uint32_t i = 0; i < p->process_count && i < r->options.top; i++) {
        const profile_process_t *one = &p->processes[i];
        fprintf(s->file, "%*s", BYTES_CELLS, units_size(size, one->rss_peak_bytes));
        char exit[48] = "";
        if (one->has_exit && one->exit_status > 128)
            snprintf(exit, sizeof exit, ", killed by signal %d", one->exit_status - 128);
        else if (one->has_exit)
            snprintf(exit, sizeof exit, ", exit status %d", one->exit_status);
        else if (one->ended)
            snprintf(exit, sizeof exit, ", ended");
        int n = snprintf(line, sizeof line, "pid %" PRIu64 " %s%s  %.300s", one->pid,
                         one->how < 5 ? how[one->how] : "", exit, one->command);
        for (char *c = line; *c; c++)
            if (*c == '\x1f') *c = ' ';
        screen_gap(s, GAP);
        screen_text(s, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1,
                    s->width - BYTES_CELLS - GAP);
        screen_end(s);
    }
    if (p->process_count > r->options.top) {
        snprintf(line, sizeof line, "%s %" PRIu32 " more", screen_symbol(s, "…", "..."),
                 p->process_count - r->options.top);
        screen_gap(s, BYTES_CELLS + GAP);
        screen_dim(s, line, s->width - BYTES_CELLS - GAP);
        screen_end(s);
    }
}

void profile_whose_heap(const report_t *r, const screen_t *s) {
    char note[REPORT_NOTE_ROOM];
    if (report_whose_note(r, note)) screen_wrapped(s, note, 0, s->width);
}

/* Those below an attached process that could not be followed. */
static void not_followed_text(const report_t *r, const screen_t *s) {
    const char *at = lowtide_meta(r->rec, "not_followed");
    while (at && *at) {
        const char *end = strchr(at, '\x1f');
        size_t n = end ? (size_t)(end - at) : strlen(at);
        static const char head[] = "not followed: ";
        screen_gap(s, BYTES_CELLS + GAP);
        screen_dim(s, head, (int)sizeof head - 1);
        screen_text(s, at, n, s->width - BYTES_CELLS - GAP - (int)sizeof head);
        screen_end(s);
        at = end ? end + 1 : NULL;
    }
}

/* ---- Sites ---- */

/* The line of source, without what it is indented by, from the file as it is now: for recordings
 * that do not have it. false where it is not there. */
static bool source_read(const char *path, uint32_t line, char *out, size_t room) {
    struct stat st;
    if (path[0] != '/' || !line || stat(path, &st) || !S_ISREG(st.st_mode)) return false;
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

static bool source_line(const profile_frame_t *f, char *out, size_t room) {
    if (!f->source || !*f->source) return source_read(f->file, f->line, out, room);
    snprintf(out, room, "%s", f->source);
    return true;
}

/* A path as people say it: of libraries what stands behind the directory that all are in, of files
 * below the current directory what stands below. */
static const char *short_path(const char *file) {
    const char *below;
    if (origin_of(file, &below) != ORIGIN_OWN && *below) return below;
    char here[4096];
    size_t n = getcwd(here, sizeof here) ? strlen(here) : 0;
    return n > 1 && strncmp(file, here, n) == 0 && file[n] == '/' && file[n + 1] ? file + n + 1
                                                                                 : file;
}

const char *view_place(char *out, size_t room, const char *file, uint32_t line) {
    if (line)
        snprintf(out, room, "%s:%u", short_path(file), line);
    else
        snprintf(out, room, "%s", short_path(file));
    return out;
}

void view_made_text(const screen_t *s, const char *lead, const profile_frame_t *f, int indent) {
    char text[LINE_BYTES];
    int rest = s->width - indent;
    screen_gap(s, indent);
    int used = screen_dim(s, lead, rest);
    view_place(text, sizeof text, f->file, f->line);
    used += screen_text(s, text, strlen(text), rest - used);
    if (*f->function && rest - used - GAP > 3) {
        screen_gap(s, GAP);
        screen_style(s, STYLE_ACCENT);
        used += GAP + screen_text(s, f->function, strlen(f->function), rest - used - GAP);
        screen_style(s, STYLE_PLAIN);
    }
    if (!source_line(f, text, sizeof text)) {
        screen_end(s);
        return;
    }
    bool fits = rest - used - GAP >= screen_cells(s, text, strlen(text));
    if (!fits) screen_end(s);
    screen_gap(s, fits ? GAP : indent + GAP);
    screen_dim(s, text, fits ? rest - used - GAP : rest - GAP);
    screen_end(s);
}

bool profile_maker_say(const profile_t *p, const profile_kept_t *kept, const screen_t *s, int cells,
                       char *out, size_t room, profile_share_t *most) {
    char place[LINE_BYTES], size[UNITS_BYTES], error[UNITS_BYTES];
    if (!p || !profile_makers(p, kept, 1, most) || most->bytes <= most->error_bytes) return false;
    const profile_frame_t *f = &p->lines[most->line].frame;
    const char *base, *of = view_place(place, sizeof place, f->file, f->line);
    for (int i = 0; i < 2; i++, of = base ? base + 1 : of) {
        int n = snprintf(out, room, "made by %.600s%s%.200s, %s %s%s", of, *f->function ? "  " : "",
                         f->function, units_size(size, most->bytes), screen_symbol(s, "±", "+-"),
                         units_short(error, most->error_bytes));
        base = strrchr(place, '/');
        if (screen_cells(s, out, (size_t)n) <= cells) break;
    }
    return true;
}

/* Where the objects that a site made are held, as far as samples tell. */
static void held_text(const report_t *r, const screen_t *s, uint32_t site, int figure, int indent) {
    profile_held_t held;
    err_t e;
    char line[512], share[UNITS_BYTES];
    bool peak = figure == PROFILE_PEAK;
    profile_made_t made = {.model = peak ? r->peak : r->model,
                           .when = peak ? PROFILE_AT_PEAK : PROFILE_AT_END,
                           .site = site,
                           .line = LOWTIDE_NONE};
    if (!made.model || profile_held(r->profile, &made, &held, &e)) return;
    if (held.path && held.samples * 3 >= held.of) { /* else it is held by many, none by much */
        bool all = held.samples == held.of;
        snprintf(line, sizeof line, "held %sby %.400s%s%s%s", peak ? "at the peak " : "", held.path,
                 all ? "" : " (", all ? "" : units_share(share, held.samples, held.of),
                 all ? "" : ")");
        screen_gap(s, indent);
        screen_dim(s, line, s->width - indent);
        screen_end(s);
    }
    profile_held_free(&held);
}

static int error_cells(const report_t *r, const screen_t *s) {
    if (r->profile->mode != PROFILE_SAMPLED) return 0;
    return s->width < NARROW ? 1 + SHORT_CELLS : 3 + BYTES_CELLS;
}

static int site_indent(const report_t *r, const screen_t *s) {
    return BYTES_CELLS + error_cells(r, s) + (s->width < NARROW ? 0 : COUNT_CELLS) + GAP;
}

/* Behind a figure; on a narrow screen shortened, but never left out. */
static void error_text(const screen_t *s, uint64_t off, int cells) {
    char size[UNITS_BYTES], text[UNITS_BYTES + 8] = "";
    if (off && s->width < NARROW)
        snprintf(text, sizeof text, " %s%s", screen_symbol(s, "±", "+-"), units_short(size, off));
    else if (off)
        snprintf(text, sizeof text, "%s%s", screen_symbol(s, " ± ", " +-"), units_size(size, off));
    if (cells) screen_padded(s, text, cells);
}

static void sums_text(const report_t *r, const screen_t *s, const profile_sums_t *sums,
                      int figure) {
    bool narrow = s->width < NARROW;
    char size[UNITS_BYTES];
    fprintf(s->file, "%*s", BYTES_CELLS, units_size(size, sums->bytes[figure]));
    error_text(s, profile_error(r->profile, sums, figure), error_cells(r, s));
    if (!narrow) fprintf(s->file, "%*s", COUNT_CELLS, units_count(size, sums->blocks[figure]));
    screen_gap(s, GAP);
}

/* A line of a library says little by itself: the program's own line that it came by stands below,
 * and the source of that. */
static void site_text(const report_t *r, const screen_t *s, uint32_t index, int figure) {
    const profile_t *p = r->profile;
    const profile_site_t *site = &p->sites[index];
    int indent = site_indent(r, s), rest = s->width - indent;
    char line[LINE_BYTES];
    sums_text(r, s, &site->sums, figure);
    view_place(line, sizeof line, site->frame.file, site->frame.line);
    int name = (int)strlen(site->frame.function);
    int room = rest - name - GAP > 24 ? rest - name - GAP : rest;
    int used = screen_text(s, line, strlen(line), room);
    if (rest - used - GAP > 3 && name) {
        screen_gap(s, GAP);
        screen_style(s, STYLE_ACCENT);
        screen_text(s, site->frame.function, (size_t)name, rest - used - GAP);
        screen_style(s, STYLE_PLAIN);
    }
    screen_end(s);
    const profile_frame_t *from = profile_from(p, site);
    if (!from && strncmp(site->frame.file, "<frozen importlib", 17) == 0) {
        screen_gap(s, indent);
        screen_dim(s, "while modules were imported", rest);
        screen_end(s);
    } else if (from) {
        view_made_text(s, "from ", from, indent);
    } else if (source_line(&site->frame, line, sizeof line)) {
        screen_gap(s, indent);
        screen_dim(s, line, rest);
        screen_end(s);
    }
    if (figure == PROFILE_LIVE || figure == PROFILE_PEAK) held_text(r, s, index, figure, indent);
}

/* Much made, little kept: what was alive at the peak is but a tenth of what was made. That takes ten blocks; a mapping of
 * a gigabyte of which little was ever touched is none. */
static bool is_churn(const profile_sums_t *sums) {
    return sums->blocks[PROFILE_TOTAL] >= 10 &&
           sums->bytes[PROFILE_TOTAL] / 10 > sums->bytes[PROFILE_PEAK] &&
           sums->bytes[PROFILE_TOTAL] / 10 > sums->bytes[PROFILE_LIVE];
}

typedef struct sites_list {
    int figure;
    uint32_t shown;
    profile_group_t small, rest; /* of lines that do not; of what is not shown */
} sites_list_t;

static void list_add(profile_group_t *to, const profile_sums_t *sums, uint32_t lines) {
    profile_add_sums(&to->sums, sums);
    to->lines += lines;
}

static void sites_heading(const report_t *r, const screen_t *s, const char *title,
                          const char *note) {
    bool narrow = s->width < NARROW;
    int cells = error_cells(r, s);
    screen_end(s);
    view_heading(s, title, note);
    screen_style(s, STYLE_DIM);
    fprintf(s->file, "%*s", BYTES_CELLS, "bytes");
    if (cells)
        fprintf(s->file, "%s%-*s", screen_symbol(s, " ± ", " +-"), cells - 3,
                narrow ? "err" : "error");
    if (!narrow) fprintf(s->file, "%*s", COUNT_CELLS, "blocks");
    screen_gap(s, GAP);
    fputs("line and function", s->file);
    screen_style(s, STYLE_PLAIN);
    screen_end(s);
}

/* What is not listed, added up: what is below the list, and what a few samples cannot tell. */
static void rest_text(const report_t *r, const screen_t *s, const sites_list_t *l) {
    char count[UNITS_BYTES], line[128];
    if (!l->rest.lines || !l->rest.sums.bytes[l->figure]) return;
    bool alone = !l->shown && l->figure != PROFILE_TOTAL;
    sums_text(r, s, &l->rest.sums, l->figure);
    snprintf(line, sizeof line, "%s %s%s line%s%s", screen_symbol(s, "…", "..."),
             units_count(count, l->rest.lines), alone ? "" : " more", l->rest.lines == 1 ? "" : "s",
             alone ? ", none of which stands out" : "");
    screen_dim(s, line, s->width - site_indent(r, s));
    screen_end(s);
}

static void group_text(const report_t *r, const screen_t *s, const profile_group_t *group,
                       int figure) {
    char line[LINE_BYTES], count[UNITS_BYTES];
    int rest = s->width - site_indent(r, s);
    sums_text(r, s, &group->sums, figure);
    snprintf(line, sizeof line, "%.900s%s%.60s", short_path(group->frame->file),
             group->by_function ? "  " : "", group->by_function ? group->frame->function : "");
    int used = screen_text(s, line, strlen(line), rest - 14 > 24 ? rest - 14 : rest);
    snprintf(line, sizeof line, "%s lines", units_count(count, group->lines));
    screen_gap(s, GAP);
    screen_dim(s, line, rest - used - GAP);
    screen_end(s);
}

/* Where most is in lines of which none stands out, their functions do, or their files. */
static void groups_text(const report_t *r, const screen_t *s, sites_list_t *l) {
    const profile_t *p = r->profile;
    profile_groups_t groups = {.others = l->small};
    err_t e;
    if (l->figure != PROFILE_TOTAL && profile_groups(p, l->figure, &groups, &e))
        groups = (profile_groups_t){.others = l->small};
    for (uint32_t i = 0; i < groups.count; i++) {
        if (i < r->options.top) {
            group_text(r, s, &groups.at[i], l->figure);
            l->shown++;
        } else {
            list_add(&l->rest, &groups.at[i].sums, groups.at[i].lines);
        }
    }
    list_add(&l->rest, &groups.others.sums, groups.others.lines);
    mem_free(groups.at);
}

static const char *whole_text(const report_t *r, const screen_t *s, int figure,
                              char out[2 * UNITS_BYTES]) {
    char size[UNITS_BYTES], error[UNITS_BYTES];
    uint64_t off = profile_error(r->profile, &r->profile->sums, figure);
    snprintf(out, (size_t)2 * UNITS_BYTES, "%.20s%s%.20s",
             units_size(size, r->profile->sums.bytes[figure]),
             off ? screen_symbol(s, " ± ", " +- ") : "", off ? units_size(error, off) : "");
    return out;
}

/* Each line that stands out, most first; what does not is left to `rest`. */
static void list_text(const report_t *r, const screen_t *s, const uint32_t *order,
                      const char *title, const char *note, sites_list_t *l) {
    const profile_t *p = r->profile;
    if (l->figure != PROFILE_TOTAL) sites_heading(r, s, title, note);
    for (uint32_t i = 0; i < p->site_count; i++) {
        const profile_sums_t *sums = &p->sites[order[i]].sums;
        if (!sums->bytes[l->figure]) break;
        if (l->figure == PROFILE_TOTAL && !is_churn(sums)) continue;
        bool told = profile_stands_out(p, sums, l->figure);
        if (l->shown >= r->options.top || !told) {
            list_add(told ? &l->rest : &l->small, sums, 1);
            continue;
        }
        if (!l->shown++ && l->figure == PROFILE_TOTAL) sites_heading(r, s, title, note);
        site_text(r, s, order[i], l->figure);
    }
}

static void sites_text(const report_t *r, const screen_t *s, int figure, const char *title,
                       const char *note) {
    const profile_t *p = r->profile;
    uint32_t *order;
    char whole[2 * UNITS_BYTES], line[256];
    sites_list_t l = {.figure = figure};
    err_t e;
    if (!p->sums.bytes[figure] || profile_order(p, figure, &order, &e)) return;
    snprintf(line, sizeof line, note, whole_text(r, s, figure, whole));
    list_text(r, s, order, title, line, &l);
    groups_text(r, s, &l);
    if (figure != PROFILE_TOTAL || l.shown) rest_text(r, s, &l);
    mem_free(order);
}

static const char *sites_note(char *out, size_t room, const profile_t *p) {
    uint32_t alive = 0;
    for (uint32_t i = 0; i < p->process_count; i++) alive += p->processes[i].mode != PROFILE_NONE;
    snprintf(out, room, "%%s allocated%s%s, by line", alive > 1 ? ", each process at its own" : "",
             p->processes[p->peak_process].peak_is_rss ? ", while most was resident" : "");
    return out;
}

static void note_text(const screen_t *s, const char *line) {
    screen_end(s);
    screen_style(s, STYLE_DIM);
    screen_wrapped(s, line, 0, s->width);
    screen_style(s, STYLE_PLAIN);
}

static void lost_text(const profile_t *p, const screen_t *s) {
    char count[UNITS_BYTES], line[256];
    if (p->lost_stacks)
        note_text(s,
                  "The program has more call stacks than there is room for: some allocations count "
                  "for their line alone, without its callers.");
    if (p->lost_blocks) {
        snprintf(line, sizeof line, "There was no room for %s blocks: they are missing above.",
                 units_count(count, p->lost_blocks));
        note_text(s, line);
    }
}

void profile_text(const report_t *r, const screen_t *s) {
    const profile_t *p = r->profile;
    char size[UNITS_BYTES], line[256];
    if (!p) return;
    profile_timeline_text(p, s);
    processes_text(r, s);
    not_followed_text(r, s);
    if (p->mode == PROFILE_NONE || !p->site_count) return;
    sites_text(r, s, PROFILE_PEAK, "AT THE PEAK", sites_note(line, sizeof line, p));
    sites_text(r, s, PROFILE_LIVE, "STILL ALIVE AT THE END", "%s");
    /* A worker's leak is seen here alone; what every process has when it ends is no news. */
    if (p->sums.bytes[PROFILE_GONE] > p->sums.bytes[PROFILE_PEAK] / 10)
        sites_text(r, s, PROFILE_GONE, "GONE WITH ENDED PROCESSES", "%s alive when they ended");
    sites_text(r, s, PROFILE_TOTAL, "CHURN", "much made, little kept, of %s in all");
    lost_text(p, s);
    if (p->mode != PROFILE_SAMPLED) return;
    snprintf(line, sizeof line,
             "Sampled once in %s on average; behind %s stands how far a figure may be off (95 %%). "
             "Lines whose figure is not above that are added up.",
             units_size(size, p->interval_bytes), screen_symbol(s, "±", "+-"));
    note_text(s, line);
}
