/* The resources' part of the report: descriptors, threads, cursors (explain/open_resources.h). Parts of report_text and report_json. */
#ifndef LOWTIDE_VIEW_REPORT_RESOURCES_H
#define LOWTIDE_VIEW_REPORT_RESOURCES_H

#include "view/report_view.h"

/* Nothing where there are only a few of each. */
void resources_text(const report_t *r, const screen_t *s);
void resources_json(const report_t *r, json_t *j); /* "resources": the first 2,000 */

#endif
