/* The report: gathered once from the model, then printed as text or as JSON schema 1
 * (docs/report.md).
 *
 *     report_build → report_text or report_json → report_free
 *
 * Figures that a recording does not hold are 0 with `has_…` false, and null in JSON. A report
 * borrows the model.
 */
#ifndef LOWTIDE_VIEW_REPORT_VIEW_H
#define LOWTIDE_VIEW_REPORT_VIEW_H

#include "explain/model.h"
#include "explain/model_owners.h"
#include "explain/model_pins.h"
#include "explain/open_resources.h"
#include "explain/profile.h"
#include "view/json.h"
#include "view/screen.h"

enum { REPORT_TEXT_TOP = 10, REPORT_JSON_TOP = 100 };

typedef struct report_options {
    uint32_t top;        /* lines of a list at most */
    bool grouped;        /* with groups by… */
    int by;              /* model_group_by */
    const char *by_name; /* "module" */
} report_options_t;

typedef struct report_ledger {
    const char *name; /* text, or a constant */
    uint64_t bytes, returnable_bytes;
    char text[128], note[320];
} report_ledger_t;

enum { REPORT_LEDGER_LINES = 64 };

typedef struct report {
    const model_t *model;
    lowtide_recording *rec;
    profile_t *profile; /* the report's; empty where the recording has none */
    report_options_t options;

    bool has_pid, has_duration, has_exit, has_rss, has_peak, has_pause, has_walk;
    int64_t pid, exit_status;
    double duration_s, pause_ms, walk_ms;
    uint64_t rss_bytes, peak_rss_bytes;

    report_ledger_t ledger[REPORT_LEDGER_LINES]; /* sums to rss_bytes */
    bool from_system; /* the ledger is the recording's own, not made up of objects and the rest */
    uint32_t ledger_count;
    model_dominators_t dominators;
    model_t *peak; /* the heap at the peak, where the recording has it; else NULL */
    model_dominators_t peak_dominators;
    model_cycles_t cycles;
    model_owners_t owners;
    model_pins_t pins;
    model_findings_t findings;
    model_resources_t resources;
    model_groups_t groups;
} report_t;

int report_build(const model_t *m, const report_options_t *options, report_t *out, err_t *e);
void report_free(report_t *r);

void report_text(const report_t *r, const screen_t *s);
void report_json(const report_t *r, FILE *file);
/* The same as a value of somebody else's JSON. */
void report_json_object(const report_t *r, json_t *j, const char *key);
/* One HTML file that needs nothing else: the page of web/ with the report in it. -ENOSYS: this build has no page. */
int report_html(const report_t *r, FILE *file, err_t *e);

/* "app.py:13": paths of libraries and of files below the current directory without what is in front. */
const char *view_place(char *out, size_t room, const char *file, uint32_t line);
/* A line: where something was made, and its source where the file is there. */
void view_made_text(const screen_t *s, const char *lead, const profile_frame_t *f, int indent);

/* Shared with diff and why. */
void view_findings_text(const model_findings_t *f, const screen_t *s);
void view_findings_json(const model_findings_t *f, json_t *j);
void view_owners_json(const model_owners_t *owners, json_t *j);
/* The program's own line that made most of what holds the arenas; NULL where no profile knows it. */
const profile_frame_t *view_pin_site(const profile_t *p, const model_t *m, const model_pin_t *pin);
void view_pin_site_json(const profile_t *p, const model_t *m, const model_pin_t *pin, json_t *j);
/* The bold line above a list, and what stands behind it on the same line (or NULL). */
void view_heading(const screen_t *s, const char *title, const char *note);

#endif
