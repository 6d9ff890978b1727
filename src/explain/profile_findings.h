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

/* garbage-cycle: where the heap at the peak knows who held then what is most of the garbage now, that is to let go of it. */
int profile_garbage(findings_t *f, const profile_t *p, const model_t *peak_heap,
                    model_finding_t *x);

/* What holds most of the objects. */
int profile_held_objects(const model_t *m, const uint32_t *ids, uint32_t count, profile_held_t *out,
                         err_t *e);
/* Who held most of what the line made in the heap at the peak; no path where that is not known. profile_held_free it. */
void profile_peak_holder(const profile_t *p, const model_t *peak, uint32_t line,
                         profile_held_t *held);
/* Of "thread MainThread > load() > text" the local and its function, each with room for so much: what to del. */
bool profile_path_local(const char *path, char *local, char *function, size_t room);
/* One may be told to write `del` only into the program's own functions. */
bool profile_is_own_function(const profile_t *p, const char *function);
/* Whether the line's source is an import. */
bool profile_is_import(const profile_frame_t *frame);
/* Sets the finding's site. 0 or -ENOMEM. */
int profile_set_site(findings_t *f, const profile_frame_t *frame, model_finding_t *x);
/* The file's name without its directories. */
const char *profile_file_base(const char *file);

#endif
