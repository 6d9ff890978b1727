/* What two profiles say of the same lines: the part of diff that needs no heap. */
#ifndef LOWTIDE_VIEW_DIFF_LINES_H
#define LOWTIDE_VIEW_DIFF_LINES_H

#include "explain/profile_diff.h"
#include "view/json.h"
#include "view/screen.h"

/* What grew most, in one line; false where no line grew by more than its error. */
bool diff_lines_first(const profile_diff_t *d, const screen_t *s);
void diff_lines_text(const profile_diff_t *d, uint32_t top, const screen_t *s);
void diff_lines_json(const profile_diff_t *d, uint32_t top, json_t *j); /* "sites" */

#endif
