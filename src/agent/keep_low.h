/* `lowtide run --limit`: a soft limit for a program that knows nothing of it.
 *
 *     our thread                                     the program's main thread
 *     limit_watch_wait … pressure
 *     Py_AddPendingCall ───────────────────────────▶ between two of its instructions: lowtide's caches shrink, where it has
 *     waits a moment; done or not:                   any; a full collection, if that did not do
 *     takes the GIL, trims pymalloc's pools, lets go; trims malloc
 *
 * Finalizers run where the program would run them, in its main thread; one that sits in a call of C the while is trimmed
 * without a collection. A second thread waits for the limit to be near, and writes a recording then, with memory set aside for
 * it: rate-limited. Neither is a thread of Python's (gil.h), and both are gone while the program forks.
 *
 * Children that are followed have the same limit together with the program: the recorder tells each through its region what the
 * others have in use (collect/collect_tree.h). Others, and all of them where nothing is watched, have none.
 *
 * One a process. keep_low_begin in the main thread with the GIL, the runtime proven.
 */
#ifndef LOWTIDE_AGENT_KEEP_LOW_H
#define LOWTIDE_AGENT_KEEP_LOW_H

#include "agent/runtime/runtime.h"
#include "base/err.h"

/* size: as limit_size.h has it. dump: where a recording goes near the limit, or ""; a child's has its PID in its name. What is no size, or is more than the process may
 * have: -EINVAL and a line, and there is no limit. */
int keep_low_begin(rt_t *rt, const char *size, const char *dump, bool child, err_t *e);
/* Between the two nothing of it runs; a recording that is being written is finished first. */
void keep_low_rest(void);
void keep_low_go_on(void);
/* Takes the limit back, with or without the GIL; a recording that is being written is finished first. Nothing when there is no
 * limit. */
void keep_low_end(void);

#endif
