/* Sites and the program's own lines, while a profile is built; for profile.c alone. */
#ifndef LOWTIDE_EXPLAIN_PROFILE_LINES_H
#define LOWTIDE_EXPLAIN_PROFILE_LINES_H

#include "base/map.h"
#include "explain/profile.h"

/* The site of that frame's line: equal lines of equal functions are one, whichever frames they are.
 * LOWTIDE_NONE: no memory. */
uint32_t profile_site_of(map_t *known, profile_site_t *sites, uint32_t *count,
                         const profile_frame_t *f);

/* Of file, function and line: what makes it one. Never MAP_NO_KEY. */
uint64_t profile_site_key(const profile_frame_t *f);

/* Of the program's own lines by file and line alone. Never MAP_NO_KEY. */
uint64_t profile_line_key(const profile_frame_t *f);

/* Fills lines, the line of each stack and cell, and what most of each site and line came by. The
 * sites stand in their last order. 0 or -ENOMEM. */
int profile_lines(profile_t *p);
/* Fills together_bytes and together_us. 0 or -ENOMEM. */
int profile_together(profile_t *p);

#endif
