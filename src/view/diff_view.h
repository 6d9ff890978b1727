/* What grew between recordings of one program, oldest first: as text and as JSON (docs/report.md).
 */
#ifndef LOWTIDE_VIEW_DIFF_VIEW_H
#define LOWTIDE_VIEW_DIFF_VIEW_H

#include "explain/model.h"
#include "explain/profile_diff.h"
#include "view/screen.h"

typedef struct diff_view {
    const model_t *const *models;
    const char *const *names; /* of the files */
    const model_diff_t *diff;
    const profile_diff_t *lines; /* of no lines where a recording has no profile */
    uint32_t top;
} diff_view_t;

void diff_text(const diff_view_t *d, const screen_t *s);
void diff_json(const diff_view_t *d, FILE *file);

#endif
