#define _GNU_SOURCE
#include "view/profile_view.h"
#include "view/report_notes.h"
#include "view/report_resources.h"
#include "view/report_view.h"

#include <string.h>

static void uint_or_null(json_t *j, const char *key, bool has, uint64_t v) {
    if (has)
        json_uint(j, key, v);
    else
        json_null(j, key);
}

static void real_or_null(json_t *j, const char *key, bool has, double v) {
    if (has)
        json_real(j, key, v);
    else
        json_null(j, key);
}

static void process_json(const report_t *r, json_t *j) {
    json_open(j, "process", '{');
    if (r->has_pid)
        json_int(j, "pid", r->pid);
    else
        json_null(j, "pid");
    json_open(j, "command", '[');
    const char *word = lowtide_meta(r->rec, "command");
    while (word) {
        const char *end = strchr(word, '\x1f');
        json_text_n(j, NULL, word, end ? (size_t)(end - word) : strlen(word));
        word = end ? end + 1 : NULL;
    }
    json_close(j);
    json_text(j, "python", lowtide_meta(r->rec, "python"));
    json_text(j, "started", lowtide_meta(r->rec, "started"));
    real_or_null(j, "duration_s", r->has_duration, r->duration_s);
    if (r->has_exit)
        json_int(j, "exit_status", r->exit_status);
    else
        json_null(j, "exit_status");
    json_close(j);
}

static void memory_json(const report_t *r, json_t *j) {
    json_open(j, "memory", '{');
    uint_or_null(j, "rss_bytes", r->has_rss, r->rss_bytes);
    uint_or_null(j, "peak_rss_bytes", r->has_peak, r->peak_rss_bytes);
    profile_timeline_json(r, j);
    uint64_t native;
    bool known = report_native_bytes(r, &native);
    char note[REPORT_NOTE_ROOM];
    uint_or_null(j, "native_bytes", known, known ? native : 0);
    json_text(j, "native_note", report_native_note(r, note) ? note : NULL);
    json_close(j);
}

static void capture_json(const report_t *r, json_t *j) {
    const model_totals_t *t = model_totals(r->model);
    json_open(j, "capture", '{');
    real_or_null(j, "pause_ms", r->has_pause, r->pause_ms);
    json_uint(j, "objects", t->objects);
    json_uint(j, "edges", t->references);
    real_or_null(j, "duration_s", r->has_walk, r->walk_ms / 1e3);
    json_uint(j, "file_bytes", lowtide_file_bytes(r->rec));
    char note[REPORT_NOTE_ROOM];
    json_text(j, "missing", report_missing(r));
    json_text(j, "missing_note", report_missing_note(r, note) ? note : NULL);
    json_text(j, "whose_note", report_whose_note(r, note) ? note : NULL);
    json_close(j);
}

static void ledger_json(const report_t *r, json_t *j) {
    json_open(j, "ledger", '[');
    for (uint32_t i = 0; i < r->ledger_count; i++) {
        json_open(j, NULL, '{');
        json_text(j, "name", r->ledger[i].name);
        json_uint(j, "bytes", r->ledger[i].bytes);
        json_uint(j, "returnable_bytes", r->ledger[i].returnable_bytes);
        json_text(j, "note", r->ledger[i].note);
        json_close(j);
    }
    json_close(j);
}

const profile_frame_t *view_pin_site(const profile_t *p, const model_t *m, const model_pin_t *pin) {
    profile_share_t share;
    if (pin->holder == LOWTIDE_NONE || !p) return NULL;
    uint32_t order = model_order(m, pin->holder);
    profile_kept_t kept = {.model = m, .when = PROFILE_AT_END, .orders = &order, .count = 1};
    return profile_makers(p, &kept, 1, &share) ? &p->lines[share.line].frame : NULL;
}

void view_pin_site_json(const profile_t *p, const model_t *m, const model_pin_t *pin, json_t *j) {
    const profile_frame_t *frame = view_pin_site(p, m, pin);
    if (!frame) {
        json_null(j, "site");
        return;
    }
    json_open(j, "site", '{');
    json_text(j, "file", frame->file);
    json_uint(j, "line", frame->line);
    json_text(j, "function", frame->function);
    json_close(j);
}

static void pins_json(const report_t *r, json_t *j) {
    json_open(j, "pins", '[');
    for (uint32_t i = 0; i < r->pins.count; i++) {
        const model_pin_t *p = &r->pins.pins[i];
        json_open(j, NULL, '{');
        json_text(j, "layer", "Python objects (pymalloc)");
        json_text(j, "type", p->type);
        json_uint(j, "objects", p->objects);
        json_text(j, "path", p->path);
        view_pin_site_json(r->profile, r->model, p, j);
        json_uint(j, "arenas", p->arenas);
        json_uint(j, "bytes", p->bytes);
        json_uint(j, "returnable_bytes", p->returnable_bytes);
        json_close(j);
    }
    json_close(j);
}

static void dominators_json(const report_t *r, int when, json_t *j) {
    bool peak = when == PROFILE_AT_PEAK;
    const model_dominators_t *list = peak ? &r->peak_dominators : &r->dominators;
    profile_kept_t kept = {.model = peak ? r->peak : r->model, .when = when};
    json_open(j, "dominators", '[');
    for (uint32_t i = 0; i < list->count; i++) {
        const model_dominator_t *d = &list->lines[i];
        json_open(j, NULL, '{');
        json_text(j, "path", d->path);
        json_text(j, "type", d->type);
        json_uint(j, "retained_bytes", d->retained_bytes);
        json_uint(j, "retained_objects", d->retained_objects);
        json_uint(j, "members", d->members);
        if (d->parent == UINT32_MAX)
            json_null(j, "parent");
        else
            json_uint(j, "parent", d->parent);
        json_open(j, "holders", '[');
        for (uint32_t k = 0; k < d->holders_count; k++) json_text(j, NULL, d->holders[k]);
        json_close(j);
        kept.orders = d->orders;
        kept.count = d->members;
        profile_makers_json(r->profile, &kept, j);
        json_close(j);
    }
    json_close(j);
}

static void peak_json(const report_t *r, json_t *j) {
    if (!r->peak) {
        json_null(j, "peak");
        return;
    }
    const model_totals_t *t = model_totals(r->peak);
    const profile_t *p = r->profile;
    json_open(j, "peak", '{');
    real_or_null(j, "t_s", p->peak_heap_us, (double)p->peak_heap_us / 1e6);
    uint_or_null(j, "pid", p->process_count,
                 p->process_count ? p->processes[p->peak_heap_process].pid : 0);
    json_uint(j, "objects", t->objects);
    json_uint(j, "shallow_bytes", t->shallow_bytes);
    dominators_json(r, PROFILE_AT_PEAK, j);
    json_close(j);
}

void view_owners_json(const model_owners_t *owners, json_t *j) {
    json_open(j, "owners", '[');
    for (uint32_t i = 0; i < owners->count; i++) {
        const model_owner_t *o = &owners->owners[i];
        json_open(j, NULL, '{');
        json_text(j, "layer", o->line);
        json_text(j, "type", o->type);
        json_text(j, "path", o->path);
        json_uint(j, "bytes", o->bytes);
        json_close(j);
    }
    json_close(j);
}

static void heap_json(const report_t *r, json_t *j) {
    const model_totals_t *t = model_totals(r->model);
    json_open(j, "heap", '{');
    json_uint(j, "objects", t->objects);
    json_uint(j, "shallow_bytes", t->shallow_bytes);
    json_uint(j, "untouched_bytes", t->untouched_bytes);
    json_uint(j, "unreachable_objects", t->unreachable_objects);
    json_uint(j, "unreachable_bytes", t->unreachable_bytes);
    uint32_t count;
    const model_type_t *types = model_types(r->model, &count);
    json_open(j, "types", '[');
    uint32_t shown = 0;
    for (uint32_t i = 0; i < count && shown < r->options.top; i++) {
        if (types[i].type_id == LOWTIDE_NONE) continue;
        shown++;
        json_open(j, NULL, '{');
        json_text(j, "type", types[i].name);
        json_uint(j, "count", types[i].count);
        json_uint(j, "shallow_bytes", types[i].shallow_bytes);
        json_uint(j, "retained_bytes", types[i].retained_bytes);
        json_close(j);
    }
    json_close(j);
    dominators_json(r, PROFILE_AT_END, j);
    if (r->options.grouped) {
        json_text(j, "grouped_by", r->options.by_name);
        json_open(j, "groups", '[');
        for (uint32_t i = 0; i < r->groups.count && i < r->options.top; i++) {
            json_open(j, NULL, '{');
            json_text(j, "name", r->groups.groups[i].name);
            json_uint(j, "objects", r->groups.groups[i].objects);
            json_uint(j, "bytes", r->groups.groups[i].bytes);
            json_close(j);
        }
        json_close(j);
    }
    json_close(j);
}

void view_findings_json(const model_findings_t *f, json_t *j) {
    json_open(j, "findings", '[');
    for (uint32_t i = 0; i < f->count; i++) {
        const model_finding_t *one = &f->findings[i];
        json_open(j, NULL, '{');
        json_text(j, "kind", one->kind);
        json_text(j, "title", one->title);
        json_uint(j, "bytes", one->bytes);
        json_uint(j, "objects", one->objects);
        json_text(j, "type", one->type);
        json_text(j, "path", one->path);
        if (one->site_file) {
            json_open(j, "site", '{');
            json_text(j, "file", one->site_file);
            json_uint(j, "line", one->site_line);
            json_text(j, "function", one->site_function);
            json_text(j, "source", one->site_source);
            if (one->site_share > 0) json_real(j, "share", one->site_share);
            json_close(j);
        } else {
            json_null(j, "site");
        }
        json_text(j, "held_at_peak", one->held_at_peak);
        json_text(j, "fix", one->fix);
        json_text(j, "confidence", one->confidence);
        uint_or_null(j, "within", one->within != LOWTIDE_NONE, one->within);
        json_uint(j, "within_bytes", one->within_bytes);
        json_close(j);
    }
    json_close(j);
}

void report_json_object(const report_t *r, json_t *j, const char *key) {
    json_open(j, key, '{');
    json_uint(j, "schema", 1);
    json_text(j, "lowtide", LOWTIDE_VERSION);
    json_text(j, "cut", lowtide_cut(r->rec));
    process_json(r, j);
    profile_processes_json(r, j);
    memory_json(r, j);
    capture_json(r, j);
    ledger_json(r, j);
    view_owners_json(&r->owners, j);
    pins_json(r, j);
    heap_json(r, j);
    peak_json(r, j);
    profile_json(r, j);
    resources_json(r, j);
    view_findings_json(&r->findings, j);
    json_close(j);
}

void report_json(const report_t *r, FILE *file) {
    json_t j;
    json_init(&j, file);
    report_json_object(r, &j, NULL);
}
