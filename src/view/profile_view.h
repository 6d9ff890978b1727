/* The allocation profile's part of the report: timeline, processes, and the lines that made the
 * memory. Parts of report_text and report_json (report_view.h). */
#ifndef LOWTIDE_VIEW_PROFILE_VIEW_H
#define LOWTIDE_VIEW_PROFILE_VIEW_H

#include "view/report_view.h"

void profile_text(const report_t *r, const screen_t *s);
void profile_json(const report_t *r, json_t *j);           /* "allocations" */
void profile_timeline_json(const report_t *r, json_t *j);  /* "peak_at_s" and "timeline" */
void profile_processes_json(const report_t *r, json_t *j); /* "processes" */

#endif
