#define _GNU_SOURCE
#include "view/export_view.h"

#include "base/mem.h"
#include "view/json.h"

#include <inttypes.h>
#include <string.h>

enum { DEPTH_MOST = 4096 };

static const char *const figure_names[PROFILE_FIGURES] = {"live", "peak", "rss peak", "total",
                                                          "gone with ended processes"};

/* Frames of a stack, outermost first. Returns how many. */
static uint32_t stack_frames(const profile_t *p, uint32_t stack, uint32_t *out) {
    uint32_t n = 0;
    for (uint32_t s = stack; s != LOWTIDE_NONE && n < DEPTH_MOST; s = p->stacks[s].parent)
        if (p->stacks[s].frame != LOWTIDE_NONE) out[n++] = p->stacks[s].frame;
    for (uint32_t i = 0; i < n / 2; i++) {
        uint32_t other = out[i];
        out[i] = out[n - 1 - i];
        out[n - 1 - i] = other;
    }
    return n;
}

/* ---- speedscope ---- */

static void speedscope_profile(const profile_t *p, int figure, json_t *j) {
    uint32_t frames[DEPTH_MOST];
    json_open(j, NULL, '{');
    json_text(j, "type", "sampled");
    json_text(j, "name", figure_names[figure]);
    json_text(j, "unit", "bytes");
    json_uint(j, "startValue", 0);
    json_uint(j, "endValue", p->sums.bytes[figure]);
    json_open(j, "samples", '[');
    for (uint32_t i = 0; i < p->cell_count; i++) {
        if (!p->cells[i].sums.bytes[figure]) continue;
        json_open(j, NULL, '[');
        uint32_t n = stack_frames(p, p->cells[i].stack, frames);
        for (uint32_t k = 0; k < n; k++) json_uint(j, NULL, frames[k]);
        json_close(j);
    }
    json_close(j);
    json_open(j, "weights", '[');
    for (uint32_t i = 0; i < p->cell_count; i++)
        if (p->cells[i].sums.bytes[figure]) json_uint(j, NULL, p->cells[i].sums.bytes[figure]);
    json_close(j);
    json_close(j);
}

int export_speedscope(const export_what_t *what, FILE *file, err_t *e) {
    const profile_t *p = what->profile;
    json_t j;
    (void)e;
    json_init(&j, file);
    j.compact = true;
    json_open(&j, NULL, '{');
    json_text(&j, "$schema", "https://www.speedscope.app/file-format-schema.json");
    json_text(&j, "exporter", "lowtide@" LOWTIDE_VERSION);
    json_text(&j, "name", "lowtide");
    json_uint(&j, "activeProfileIndex", 0);
    json_open(&j, "shared", '{');
    json_open(&j, "frames", '[');
    for (uint32_t i = 0; i < p->frame_count; i++) {
        json_open(&j, NULL, '{');
        json_text(&j, "name", p->frames[i].function);
        json_text(&j, "file", p->frames[i].file);
        if (p->frames[i].line) json_uint(&j, "line", p->frames[i].line);
        json_close(&j);
    }
    json_close(&j);
    json_close(&j);
    json_open(&j, "profiles", '[');
    speedscope_profile(p, what->figure, &j);
    for (int figure = 0; figure < PROFILE_FIGURES; figure++)
        if (figure != what->figure && p->sums.bytes[figure]) speedscope_profile(p, figure, &j);
    json_close(&j);
    json_close(&j);
    return 0;
}

/* ---- Collapsed stacks ---- */

/* A name on a line of names with semicolons between and a number behind. */
static void collapsed_name(const char *text, FILE *file) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        fputc(c == ';' ? ':' : c < 0x20 ? ' ' : c, file);
    }
}

int export_collapsed(const export_what_t *what, FILE *file, err_t *e) {
    const profile_t *p = what->profile;
    uint32_t frames[DEPTH_MOST];
    (void)e;
    for (uint32_t i = 0; i < p->cell_count; i++) {
        uint64_t bytes = p->cells[i].sums.bytes[what->figure];
        uint32_t n = bytes ? stack_frames(p, p->cells[i].stack, frames) : 0;
        for (uint32_t k = 0; k < n; k++) {
            const profile_frame_t *f = &p->frames[frames[k]];
            if (k) fputc(';', file);
            collapsed_name(f->function, file);
            fputs(" (", file);
            collapsed_name(f->file, file);
            if (f->line) fprintf(file, ":%u", f->line);
            fputc(')', file);
        }
        if (n) fprintf(file, " %" PRIu64 "\n", bytes);
    }
    return 0;
}

/* ---- CSV ---- */

static void csv_text(const char *text, FILE *file) {
    fputc('"', file);
    for (; *text; text++) {
        if (*text == '"') fputc('"', file);
        fputc(*text, file);
    }
    fputs("\",", file);
}

int export_csv(const export_what_t *what, FILE *file, err_t *e) {
    const profile_t *p = what->profile;
    uint32_t *order;
    int status = profile_order(p, what->figure, &order, e);
    if (status) return status;
    fputs("file,line,function,live_bytes,live_blocks,peak_bytes,peak_blocks,rss_peak_bytes,"
          "rss_peak_blocks,total_bytes,total_blocks,live_error_bytes,peak_error_bytes,"
          "total_error_bytes,gone_bytes,gone_blocks,gone_error_bytes,rss_peak_error_bytes\r\n",
          file);
    for (uint32_t i = 0; i < p->site_count; i++) {
        const profile_site_t *s = &p->sites[order[i]];
        csv_text(s->frame.file, file);
        fprintf(file, "%u,", s->frame.line);
        csv_text(s->frame.function, file);
        for (int figure = 0; figure < PROFILE_GONE; figure++)
            fprintf(file, "%" PRIu64 ",%" PRIu64 ",", s->sums.bytes[figure],
                    s->sums.blocks[figure]);
        fprintf(file,
                "%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64
                "\r\n",
                profile_error(p, &s->sums, PROFILE_LIVE), profile_error(p, &s->sums, PROFILE_PEAK),
                profile_error(p, &s->sums, PROFILE_TOTAL), s->sums.bytes[PROFILE_GONE],
                s->sums.blocks[PROFILE_GONE], profile_error(p, &s->sums, PROFILE_GONE),
                profile_error(p, &s->sums, PROFILE_RSS_PEAK));
    }
    mem_free(order);
    return 0;
}

/* ---- Perfetto: Chrome's trace events ---- */

static void trace_event(json_t *j, const char *phase, const char *name, uint64_t pid,
                        uint64_t t_us) {
    json_open(j, NULL, '{');
    json_text(j, "ph", phase);
    json_text(j, "name", name);
    json_uint(j, "pid", pid);
    json_uint(j, "tid", pid);
    json_uint(j, "ts", t_us);
}

static void trace_processes(const profile_t *p, json_t *j) {
    for (uint32_t i = 0; i < p->process_count; i++) {
        char name[256];
        snprintf(name, sizeof name, "%.200s", p->processes[i].command);
        for (char *c = name; *c; c++)
            if (*c == '\x1f') *c = ' ';
        trace_event(j, "M", "process_name", p->processes[i].pid, 0);
        json_open(j, "args", '{');
        json_text(j, "name", name);
        json_close(j);
        json_close(j);
    }
}

int export_perfetto(const export_what_t *what, FILE *file, err_t *e) {
    static const char *const names[] = {"", "collection", "mark", "heap snapshot", "limit"};
    const profile_t *p = what->profile;
    json_t j;
    (void)e;
    json_init(&j, file);
    j.compact = true;
    json_open(&j, NULL, '{');
    json_open(&j, "traceEvents", '[');
    trace_processes(p, &j);
    for (uint32_t i = 0; i < p->point_count; i++) {
        const profile_point_t *point = &p->points[i];
        trace_event(&j, "C", "memory", p->processes[point->process].pid, point->t_us);
        json_open(&j, "args", '{');
        json_uint(&j, "rss_bytes", point->rss_bytes);
        json_uint(&j, "heap_bytes", point->heap_bytes);
        json_close(&j);
        json_close(&j);
    }
    for (uint32_t i = 0; i < p->event_count; i++) {
        const profile_event_t *v = &p->events[i];
        const char *name = *v->text ? v->text : v->kind < 5 ? names[v->kind] : "event";
        trace_event(&j, v->duration_us ? "X" : "i", name, p->processes[v->process].pid, v->t_us);
        if (v->duration_us)
            json_uint(&j, "dur", v->duration_us);
        else
            json_text(&j, "s", "p");
        json_close(&j);
    }
    json_close(&j);
    json_text(&j, "displayTimeUnit", "ms");
    json_close(&j);
    return 0;
}
