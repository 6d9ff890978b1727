/* The allocation profile's part of the report: timeline, processes, and the lines that made the
 * memory. Parts of report_text and report_json (report_view.h). */
#ifndef LOWTIDE_VIEW_PROFILE_VIEW_H
#define LOWTIDE_VIEW_PROFILE_VIEW_H

#include "view/report_view.h"

void profile_text(const report_t *r, const screen_t *s);
void profile_timeline_text(const profile_t *p, const screen_t *s);
/* Where there are several processes: whose heap the recording has, below a line that says that nothing was found in it. */
void profile_whose_heap(const report_t *r, const screen_t *s);
void profile_json(const report_t *r, json_t *j);           /* "allocations" */
void profile_timeline_json(const report_t *r, json_t *j);  /* "peak_at_s" and "timeline" */
void profile_processes_json(const report_t *r, json_t *j); /* "processes" */

/* "made_at": the lines that made most of what those retain; empty where samples do not tell. `p` may be NULL. */
void profile_makers_json(const profile_t *p, const profile_kept_t *kept, json_t *j);
/* "made by app.py:3  load, 71.0 MiB ±9.9M", of the line that made most, in so many cells if a file without its folders does; false
 * where no line has more than its error. */
bool profile_maker_say(const profile_t *p, const profile_kept_t *kept, const screen_t *s, int cells,
                       char *out, size_t room, profile_share_t *most);

#endif
