#define _GNU_SOURCE
#include "view/report_view.h"

#include "view/report_ledger.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool meta_real(const report_t *r, const char *key, double *out) {
    const char *text = lowtide_meta(r->rec, key);
    if (!text || !*text) return false;
    char *end;
    double v = strtod(text, &end);
    if (*end || !(v >= 0) || v > 1e15) return false;
    *out = v;
    return true;
}

static bool meta_int(const report_t *r, const char *key, int64_t *out) {
    const char *text = lowtide_meta(r->rec, key);
    if (!text || !*text) return false;
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (*end || errno) return false;
    *out = v;
    return true;
}

static bool meta_bytes(const report_t *r, const char *key, uint64_t *out) {
    int64_t v;
    if (!meta_int(r, key, &v) || v < 0) return false;
    *out = (uint64_t)v;
    return true;
}

static void read_meta(report_t *r) {
    r->has_pid = meta_int(r, "pid", &r->pid);
    r->has_exit = meta_int(r, "exit_status", &r->exit_status);
    r->has_duration = meta_real(r, "duration_s", &r->duration_s);
    r->has_pause = meta_real(r, "pause_ms", &r->pause_ms);
    r->has_walk = meta_real(r, "walk_ms", &r->walk_ms);
    r->has_rss = meta_bytes(r, "rss_bytes", &r->rss_bytes);
    r->has_peak = meta_bytes(r, "peak_rss_bytes", &r->peak_rss_bytes);
}

int report_build(const model_t *m, const report_options_t *options, report_t *out, err_t *e) {
    *out = (report_t){.model = m, .rec = model_recording(m), .options = *options};
    read_meta(out);
    int status = report_ledger_read(out, e);
    if (!status) status = profile_build(out->rec, model_namer(m), &out->profile, e);
    err_t damaged; /* a peak that cannot be explained is left out */
    if (!status && out->profile->peak) model_build(out->profile->peak, &out->peak, &damaged);
    if (!status) status = profile_join(out->profile, m, out->peak, e);
    if (!status) status = model_resources(m, out->profile, &out->resources, e);
    if (!status) status = model_findings(m, &out->findings, e);
    if (!status) status = profile_findings(out->profile, m, out->peak, &out->findings, e);
    if (!status) status = model_findings_within(m, &out->findings, e);
    /* A line that holds less than a thousandth is no answer to where the memory went. */
    uint64_t least = model_totals(m)->shallow_bytes / 1000;
    if (!status) status = model_dominators(m, options->top, least, &out->dominators, e);
    if (!status && out->peak) {
        least = model_totals(out->peak)->shallow_bytes / 100;
        status = model_dominators(out->peak, options->top, least, &out->peak_dominators, e);
    }
    if (!status) status = model_cycles(m, options->top, &out->cycles, e);
    if (!status) status = model_owners(m, options->top, &out->owners, e);
    if (!status) status = model_pins(m, options->top, &out->pins, e);
    if (!status && options->grouped) status = model_group_by(m, options->by, &out->groups, e);
    if (status) report_free(out);
    return status;
}

void report_free(report_t *r) {
    model_dominators_free(&r->peak_dominators);
    model_free(r->peak);
    profile_free(r->profile);
    model_findings_free(&r->findings);
    model_resources_free(&r->resources);
    model_dominators_free(&r->dominators);
    model_cycles_free(&r->cycles);
    model_owners_free(&r->owners);
    model_pins_free(&r->pins);
    model_groups_free(&r->groups);
    *r = (report_t){0};
}
