#define _GNU_SOURCE
#include "collect/collect_write.h"

#include "collect/collect_peak.h"
#include "collect/collect_source.h"
#include "format/rec_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BEGIN(w, name, columns)                                                                    \
    rec_table_begin(w, name, columns, (uint32_t)(sizeof columns / sizeof columns[0]))

static void put_text(rec_writer_t *w, const char *text) {
    rec_table_text(w, text, strlen(text));
}

/* ── Rows ── */

static void write_processes(const collect_t *c, rec_writer_t *w, bool changed) {
    static const rec_table_column_t columns[] = {
        {"process", REC_DELTA}, {"parent", REC_VARINT},  {"pid", REC_VARINT},
        {"how", REC_VARINT},    {"begin_us", REC_DELTA}, {"end_us", REC_VARINT},
        {"status", REC_VARINT}, {"mode", REC_VARINT},    {"interval_bytes", REC_VARINT},
        {"command", REC_TEXT},  {"python", REC_TEXT},    {"lines_until_us", REC_VARINT}};
    bool begun = false;
    for (size_t i = 0; i < c->processes.count; i++) {
        const collect_process_t *p = c->processes.at[i];
        if (changed && !p->changed) continue;
        if (!begun) BEGIN(w, "processes", columns);
        begun = true;
        rec_table_number(w, i);
        rec_table_number(w, p->parent);
        rec_table_number(w, (uint64_t)p->pid);
        rec_table_number(w, p->how);
        rec_table_number(w, p->begin_us);
        rec_table_number(w, p->end_us);
        rec_table_number(w, p->status);
        rec_table_number(w, p->mode);
        rec_table_number(w, p->interval_bytes);
        put_text(w, p->command);
        put_text(w, p->python);
        rec_table_number(w, p->series.until_us);
    }
    if (begun) rec_table_end(w);
}

static void write_frames(const collect_t *c, rec_writer_t *w, size_t from, bool with_sources) {
    static const rec_table_column_t columns[] = {{"kind", REC_VARINT},       {"function", REC_TEXT},
                                                 {"file", REC_TEXT},         {"line", REC_VARINT},
                                                 {"first_line", REC_VARINT}, {"offset", REC_VARINT},
                                                 {"module", REC_TEXT},       {"build_id", REC_TEXT},
                                                 {"inlined_in", REC_VARINT}, {"source", REC_TEXT}};
    collect_sources_t sources = {0};
    if (from >= c->sites.frames.count) return;
    if (with_sources) sources_read(&c->sites, &sources);
    BEGIN(w, "frames", columns);
    for (size_t i = from; i < c->sites.frames.count; i++) {
        const collect_frame_t *f = c->sites.frames.at + i;
        rec_table_number(w, f->kind);
        put_text(w, sites_text_at(&c->sites, f->function));
        put_text(w, sites_text_at(&c->sites, f->file));
        rec_table_number(w, f->line);
        rec_table_number(w, f->first_line);
        rec_table_number(w, f->offset);
        put_text(w, sites_text_at(&c->sites, f->module));
        put_text(w, sites_text_at(&c->sites, f->build_id));
        rec_table_number(w, f->inlined_in);
        put_text(w, sources_at(&sources, i));
    }
    rec_table_end(w);
    sources_free(&sources);
}

static void write_stacks(const collect_t *c, rec_writer_t *w, size_t from) {
    static const rec_table_column_t columns[] = {{"parent", REC_VARINT}, {"frame", REC_VARINT}};
    if (from >= c->sites.stacks.count) return;
    BEGIN(w, "stacks", columns);
    for (size_t i = from; i < c->sites.stacks.count; i++) {
        rec_table_number(w, c->sites.stacks.at[i].parent);
        rec_table_number(w, c->sites.stacks.at[i].frame);
    }
    rec_table_end(w);
}

/* What was never touched is no memory. */
static void write_counts(rec_writer_t *w, const observed_counts_t *counts, uint64_t untouched) {
    uint64_t bytes = (uint64_t)counts->bytes;
    rec_table_number(w, bytes > untouched ? bytes - untouched : 0);
    rec_table_number(w, (uint64_t)counts->blocks);
}

/* A peak may have passed before anybody looked. */
static uint64_t untouched_at(const collect_cell_t *c, const observed_counts_t *peak,
                             uint64_t then) {
    return cell_lives_as(c, peak) && c->untouched > then ? c->untouched : then;
}

static void write_cell(rec_writer_t *w, uint64_t process, const collect_cell_t *c, bool kept) {
    const observed_cell_t *cell = &c->figures;
    const observed_counts_t *live = kept ? &c->kept_live : &cell->live;
    rec_table_number(w, process);
    rec_table_number(w, cell->stack);
    rec_table_number(w, cell->domain);
    write_counts(w, live, kept ? c->kept_untouched : c->untouched);
    write_counts(w, &cell->total, 0);
    write_counts(w, &cell->peak, untouched_at(c, &cell->peak, c->peak_untouched));
    write_counts(w, &cell->rss_peak, untouched_at(c, &cell->rss_peak, c->rss_peak_untouched));
    rec_table_number(w, live->variance);
    rec_table_number(w, cell->total.variance);
    rec_table_number(w, cell->peak.variance);
}

static void write_allocations(const collect_t *c, rec_writer_t *w, bool changed) {
    static const rec_table_column_t columns[] = {
        {"process", REC_DELTA},          {"stack", REC_DELTA},
        {"domain", REC_VARINT},          {"live_bytes", REC_VARINT},
        {"live_blocks", REC_VARINT},     {"total_bytes", REC_VARINT},
        {"total_blocks", REC_VARINT},    {"peak_bytes", REC_VARINT},
        {"peak_blocks", REC_VARINT},     {"rss_peak_bytes", REC_VARINT},
        {"rss_peak_blocks", REC_VARINT}, {"live_variance", REC_VARINT},
        {"total_variance", REC_VARINT},  {"peak_variance", REC_VARINT}};
    bool begun = false;
    for (size_t i = 0; i < c->processes.count; i++) {
        const collect_cells_t *cells = &c->processes.at[i]->seen.cells;
        for (size_t k = 0; k < cells->count; k++) {
            const collect_cell_t *cell = cells->at + k;
            if (!cell->figures.domain || (changed && !cell->changed)) continue;
            if (!begun) BEGIN(w, "allocations", columns);
            begun = true;
            write_cell(w, i, cell, c->processes.at[i]->live_kept);
        }
    }
    if (begun) rec_table_end(w);
}

static void write_timeline(const collect_t *c, rec_writer_t *w, size_t from) {
    static const rec_table_column_t columns[] = {{"process", REC_DELTA},
                                                 {"t_us", REC_DELTA},
                                                 {"rss_bytes", REC_DELTA},
                                                 {"heap_bytes", REC_DELTA}};
    if (from >= c->timeline.count) return;
    BEGIN(w, "timeline", columns);
    for (size_t i = from; i < c->timeline.count; i++) {
        const collect_point_t *p = c->timeline.at + i;
        rec_table_number(w, p->process);
        rec_table_number(w, p->t_us);
        rec_table_number(w, p->rss_bytes);
        rec_table_number(w, p->heap_bytes);
    }
    rec_table_end(w);
}

static void write_series(const collect_t *c, rec_writer_t *w, size_t from) {
    static const rec_table_column_t columns[] = {
        {"process", REC_DELTA},     {"t_us", REC_DELTA},        {"frame", REC_VARINT},
        {"live_bytes", REC_VARINT}, {"made_bytes", REC_VARINT}, {"high_bytes", REC_VARINT}};
    if (from >= c->series.count) return;
    BEGIN(w, "lines", columns);
    for (size_t i = from; i < c->series.count; i++) {
        const collect_row_t *row = c->series.at + i;
        rec_table_number(w, row->process);
        rec_table_number(w, row->t_us);
        rec_table_number(w, row->frame);
        rec_table_number(w, row->live_bytes);
        rec_table_number(w, row->made_bytes);
        rec_table_number(w, row->high_bytes);
    }
    rec_table_end(w);
}

static void write_events(const collect_t *c, rec_writer_t *w, size_t from) {
    static const rec_table_column_t columns[] = {
        {"process", REC_DELTA},      {"t_us", REC_DELTA},   {"kind", REC_VARINT},
        {"duration_us", REC_VARINT}, {"value", REC_VARINT}, {"text", REC_TEXT}};
    if (from >= c->events.count) return;
    BEGIN(w, "events", columns);
    for (size_t i = from; i < c->events.count; i++) {
        const collect_event_t *v = c->events.at + i;
        rec_table_number(w, v->process);
        rec_table_number(w, v->t_us);
        rec_table_number(w, v->kind);
        rec_table_number(w, v->duration_us);
        rec_table_number(w, v->value);
        put_text(w, sites_text_at(&c->sites, v->text));
    }
    rec_table_end(w);
}

void write_samples(const collect_samples_t *samples, rec_writer_t *w) {
    static const rec_table_column_t columns[] = {{"process", REC_DELTA},
                                                 {"address", REC_DELTA},
                                                 {"bytes", REC_VARINT},
                                                 {"stack", REC_VARINT},
                                                 {"domain", REC_VARINT}};
    if (!samples->count) return;
    BEGIN(w, "samples", columns);
    for (size_t i = 0; i < samples->count; i++) {
        const collect_sample_t *s = samples->at + i;
        rec_table_number(w, s->process);
        rec_table_number(w, s->address);
        rec_table_number(w, s->bytes);
        rec_table_number(w, s->stack);
        rec_table_number(w, s->domain);
    }
    rec_table_end(w);
}

/* ── Meta ── */

static void meta_number(rec_writer_t *w, const char *key, uint64_t v) {
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, v);
    rec_meta(w, key, text);
}

static void meta_time(rec_writer_t *w, const char *key, uint64_t ns) {
    char text[40];
    time_t s = (time_t)(ns / 1000000000u);
    struct tm tm;
    gmtime_r(&s, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    rec_meta(w, key, text);
}

static void write_lost(const collect_t *c, rec_writer_t *w) {
    uint64_t stacks = 0, blocks = 0;
    for (size_t i = 0; i < c->processes.count; i++) {
        stacks += c->processes.at[i]->lost_stacks;
        blocks += c->processes.at[i]->lost_blocks;
    }
    if (stacks) meta_number(w, "lost_stacks", stacks);
    if (blocks) meta_number(w, "lost_blocks", blocks);
}

static void write_not_followed(const collect_t *c, rec_writer_t *w) {
    char text[3 * sizeof c->refused];
    size_t used = (size_t)snprintf(text, sizeof text, "%s", c->refused);
    char names[COLLECT_SILENT_ROOM];
    uint64_t silent = 0;
    memcpy(names, c->silent, sizeof names);
    for (size_t i = 0; i < c->processes.count && used < sizeof c->refused; i++) {
        const collect_process_t *p = c->processes.at[i];
        if (!p->mute_children) continue;
        used += (size_t)snprintf(text + used, sizeof text - used,
                                 "%s%" PRIu64 " forked from process %d: %s", used ? "\x1f" : "",
                                 p->mute_children, (int)p->pid,
                                 collect_why_mute(p->mute_children_code));
    }
    for (size_t i = 0; i < c->processes.count; i++) {
        silent += c->processes.at[i]->silent_programs;
        collect_silent_names(c->processes.at[i], names);
    }
    if (silent)
        used += (size_t)snprintf(text + used, sizeof text - used,
                                 "%s%" PRIu64 " started that %s static, set-user-ID, or of another "
                                 "machine, libc or root: %s",
                                 used ? "\x1f" : "", silent, silent == 1 ? "is" : "are", names);
    if (used) rec_meta(w, "not_followed", text);
}

/* The process that the recording is of, as what it was when it began and what it became by exec. */
static void write_whose(const collect_t *c, bool heap, const collect_process_t **first,
                        const collect_process_t **last) {
    pid_t pid = heap && c->heap_pid ? c->heap_pid : c->processes.at[0]->pid;
    *first = NULL;
    for (size_t i = 0; i < c->processes.count; i++) {
        if (c->processes.at[i]->pid != pid) continue;
        if (!*first) *first = c->processes.at[i];
        *last = c->processes.at[i];
    }
    if (!*first) *first = *last = c->processes.at[0];
}

void write_meta(const collect_t *c, rec_writer_t *w, bool heap) {
    if (!c->processes.count) return;
    const collect_process_t *began, *last;
    write_whose(c, heap, &began, &last);
    uint64_t end_us = last->end_us ? last->end_us : collect_now_us(c);
    char text[256];
    if (!heap) {
        rec_meta(w, "lowtide", LOWTIDE_VERSION);
        meta_number(w, "pid", (uint64_t)last->pid);
        if (last->command[0]) rec_meta(w, "command", last->command);
        if (last->python[0]) rec_meta(w, "python", last->python);
        meta_time(w, "started", c->began_ns + began->begin_us * 1000);
        meta_time(w, "captured", c->began_ns + end_us * 1000);
        if (gethostname(text, sizeof text - 1) == 0) rec_meta(w, "hostname", text);
        meta_number(w, "rss_bytes", last->rss_bytes);
        meta_number(w, "peak_rss_bytes", last->rss_peak_bytes);
    }
    if (!heap || last->ended) {
        snprintf(text, sizeof text, "%" PRIu64 ".%03u", (end_us - began->begin_us) / 1000000,
                 (unsigned)((end_us - began->begin_us) / 1000 % 1000));
        rec_meta(w, "duration_s", text);
    }
    write_not_followed(c, w);
    write_lost(c, w);
    if (last->status) {
        int how = (int)last->status - 1; /* as a shell says it */
        meta_number(w, "exit_status",
                    how & 0x7f ? 128u + (unsigned)(how & 0x7f) : (unsigned)(how >> 8 & 0xff));
    }
}

void write_tables(const collect_t *c, rec_writer_t *w, const collect_rows_t *rows) {
    write_processes(c, w, rows->changed);
    write_frames(c, w, rows->frames, rows->sources);
    write_stacks(c, w, rows->stacks);
    write_allocations(c, w, rows->changed);
    write_timeline(c, w, rows->points);
    write_series(c, w, rows->series);
    write_events(c, w, rows->events);
}

void collect_write(const collect_t *c, rec_writer_t *w, bool heap) {
    write_meta(c, w, heap);
    write_tables(c, w, &(collect_rows_t){.sources = true});
    if (heap) write_samples(&c->samples, w);
    peaks_write(c, w, heap);
}
