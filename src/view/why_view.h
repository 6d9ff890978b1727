/* What keeps an object, or the instances of a type, alive: as text and as JSON (docs/report.md). */
#ifndef LOWTIDE_VIEW_WHY_VIEW_H
#define LOWTIDE_VIEW_WHY_VIEW_H

#include "explain/model.h"
#include "explain/profile.h"
#include "view/screen.h"

typedef struct why {
    const model_t *model;
    const char *what;    /* as asked */
    model_found_t found; /* the caller's, borrowed */
    uint32_t most;       /* paths, or routes, at most */
    model_paths_t paths; /* of one object */
    model_routes_t routes;
    profile_t *profile; /* or NULL */
    uint32_t *orders;   /* of what was found, in dominator order */
    uint64_t unreached; /* of a type's instances: only what is to be avoided leads to them */
} why_t;

/* model, what, found and most are set by the caller; why_build finds out who made it. */
int why_build(why_t *w, const model_avoid_t *avoid, err_t *e);
void why_free(why_t *w);
void why_text(const why_t *w, const screen_t *s);
int why_json(const why_t *w, FILE *file, err_t *e);

#endif
