#define _GNU_SOURCE
#include "view/report_notes.h"

#include "view/units.h"

#include <inttypes.h>
#include <string.h>

enum { NATIVE_MIN_BYTES = 32 << 20 };

bool report_native_bytes(const report_t *r, uint64_t *bytes) {
    static const char *const lines[] = {"Python objects (pymalloc)", "malloc: in use",
                                        "malloc: large", "private mappings"};
    const model_totals_t *t = model_totals(r->model);
    uint64_t sum = 0;
    if (!t->objects || !r->from_system) return false;
    for (uint32_t i = 0; i < r->ledger_count; i++) {
        for (size_t k = 0; k < sizeof lines / sizeof *lines; k++)
            if (strncmp(r->ledger[i].name, lines[k], strlen(lines[k])) == 0)
                sum += r->ledger[i].bytes;
    }
    *bytes = sum > t->shallow_bytes ? sum - t->shallow_bytes : 0;
    return true;
}

bool report_native_note(const report_t *r, char note[REPORT_NOTE_ROOM]) {
    uint64_t bytes, told = r->findings.count ? r->findings.findings[0].bytes : 0;
    char size[UNITS_BYTES], pid[24] = "PID";
    if (!report_native_bytes(r, &bytes) || r->profile->mode != PROFILE_NONE) return false;
    if (bytes < NATIVE_MIN_BYTES || bytes <= r->rss_bytes / 3 || bytes <= told) return false;
    if (r->has_pid) snprintf(pid, sizeof pid, "%" PRId64, r->pid);
    snprintf(note, REPORT_NOTE_ROOM,
             "%s is memory of C code, of no Python object: `lowtide attach %s --for 60s` tells "
             "which lines take more of it, `lowtide run` which took it.",
             units_size(size, bytes), pid);
    return true;
}

const char *report_missing(const report_t *r) {
    const char *why = lowtide_meta(r->rec, "no_heap");
    return why && *why && !model_totals(r->model)->objects ? why : NULL;
}

static bool missing_is_found(const report_t *r) {
    for (uint32_t i = 0; i < r->findings.count; i++)
        if (strcmp(r->findings.findings[i].kind, "kept-memory") == 0) return true;
    return false;
}

bool report_missing_note(const report_t *r, char note[REPORT_NOTE_ROOM]) {
    const char *why = report_missing(r);
    const profile_t *p = r->profile;
    const profile_site_t *most = NULL;
    char alive[UNITS_BYTES], size[UNITS_BYTES], off[64] = "", made[256] = "", place[160];
    if (!why) return false;
    for (uint32_t i = 0; i < p->line_count; i++) {
        const profile_site_t *one = &p->lines[i];
        if (!most || one->sums.bytes[PROFILE_LIVE] > most->sums.bytes[PROFILE_LIVE]) most = one;
    }
    if (most && profile_is_told(p, &most->sums, PROFILE_LIVE))
        snprintf(made, sizeof made, " (%s most: %s)",
                 *most->frame.file
                     ? view_place(place, sizeof place, most->frame.file, most->frame.line)
                     : "threads of C code",
                 units_size(size, most->sums.bytes[PROFILE_LIVE]));
    if (profile_error(p, &p->sums, PROFILE_LIVE))
        snprintf(off, sizeof off, " (± %s)",
                 units_size(size, profile_error(p, &p->sums, PROFILE_LIVE)));
    bool attached = p->process_count && p->processes[p->main_process].how == PROFILE_ATTACHED;
    int n = snprintf(note, REPORT_NOTE_ROOM,
                     "No heap was captured: %s. What was alive then%s, %s%s, is known by the lines "
                     "that made it%s",
                     why, attached ? " of what it allocated meanwhile" : "",
                     units_size(alive, p->sums.bytes[PROFILE_LIVE]), off, made);
    if (n < 0 || n >= REPORT_NOTE_ROOM) return true;
    if (missing_is_found(r))
        snprintf(note + n, REPORT_NOTE_ROOM - (size_t)n, ".");
    else
        snprintf(note + n, REPORT_NOTE_ROOM - (size_t)n,
                 ", but not who held it%s: `lowtide dump PID` captures a process while it runs.",
                 r->peak ? " (that is known of a peak, below)" : "");
    return true;
}

bool report_whose_note(const report_t *r, char note[REPORT_NOTE_ROOM]) {
    const profile_t *p = r->profile;
    const profile_process_t *largest = NULL;
    char size[UNITS_BYTES];
    if (p->process_count < 2 || !model_totals(r->model)->objects) return false;
    for (uint32_t i = 0; i < p->process_count; i++) {
        const profile_process_t *one = &p->processes[i];
        if (i == p->main_process || one->ended || one->mode == PROFILE_NONE) continue;
        if (!largest || one->rss_peak_bytes > largest->rss_peak_bytes) largest = one;
    }
    int n = snprintf(note, REPORT_NOTE_ROOM,
                     "That is the heap of process %" PRIu64 " alone; there are %" PRIu32
                     ". Of the others the lists below tell by line",
                     p->processes[p->main_process].pid, p->process_count);
    if (largest)
        snprintf(note + n, REPORT_NOTE_ROOM - (size_t)n,
                 ", and while it runs `lowtide dump %" PRIu64 "` of the largest (%s).",
                 largest->pid, units_size(size, largest->rss_peak_bytes));
    else
        snprintf(note + n, REPORT_NOTE_ROOM - (size_t)n, ".");
    return true;
}
