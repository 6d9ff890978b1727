/* Native frames of a profile: their names after the fact, and what was inlined into what; for profile.c alone. */
#ifndef LOWTIDE_EXPLAIN_PROFILE_NATIVE_H
#define LOWTIDE_EXPLAIN_PROFILE_NATIVE_H

#include "explain/namer.h"
#include "explain/profile.h"

/* Names those frames that the recording has no line of; new ones, into which they were inlined, stand behind the others. `namer` may
 * be NULL. 0 or -ENOMEM. */
int profile_native_name(profile_t *p, const namer_t *namer);
/* The frame and those that it was inlined into, innermost first; `out` has room for NAMER_PLACES_MAX. How many: 1 at least. */
uint32_t profile_native_chain(const profile_t *p, uint32_t frame, uint32_t *out);

#endif
