/* The call tree and the events of a profile, as the page reads them (web/src/data.ts). */
#ifndef LOWTIDE_VIEW_HTML_TREE_H
#define LOWTIDE_VIEW_HTML_TREE_H

#include "explain/profile.h"
#include "view/json.h"

/* "tree": columns of nodes, parents first; null where there are no allocations. A node below 1/2000 of the whole in
 * each figure is folded into its caller, and below more where these are over 20,000, so the page stays small however long
 * the program ran. */
int html_tree(const profile_t *p, json_t *j, err_t *e);

/* "moments": columns of at most 2,000 moments, all processes together. */
int html_moments(const profile_t *p, json_t *j, err_t *e);

/* "events": marks, and the longest collections: at most half of HTML_EVENTS_MOST of each. */
enum { HTML_EVENTS_MOST = 2000 };
void html_events(const profile_t *p, json_t *j);

#endif
