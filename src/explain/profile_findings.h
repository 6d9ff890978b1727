/* Findings that the profile tells; for the files of this room alone. */
#ifndef LOWTIDE_EXPLAIN_PROFILE_FINDINGS_H
#define LOWTIDE_EXPLAIN_PROFILE_FINDINGS_H

#include "explain/findings/findings.h"
#include "explain/profile.h"

/* native-memory: what C code took by the program's own line, that is alive and belongs to no object whose blocks are known. */
int profile_native_memory(findings_t *f, const profile_t *p);

/* temporary-peak: what a line had at the highest heap alone, as far as the peak is lower without it. `peak_heap` is the model of
 * p->peak, or NULL. */
int profile_temporary_peaks(findings_t *f, const profile_t *p, const model_t *peak_heap);

/* kept-memory: what processes had at their end whose heap is not in the recording. */
int profile_kept_memory(findings_t *f, const profile_t *p, const model_t *peak_heap);

/* Who held most of what the line made in the heap at the peak; no path where that is not known. profile_held_free it. */
void profile_peak_holder(const profile_t *p, const model_t *peak, uint32_t line,
                         profile_held_t *held);
/* Whether the line's source is an import. */
bool profile_is_import(const profile_frame_t *frame);
/* Sets the finding's site. 0 or -ENOMEM. */
int profile_set_site(findings_t *f, const profile_frame_t *frame, model_finding_t *x);
/* The file's name without its directories. */
const char *profile_file_base(const char *file);

#endif
