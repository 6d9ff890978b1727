/* A full collection in the program's own main thread, where its finalizers expect to run: asked for as pending calls, which Python
 * makes between two of its instructions.
 *
 *     begin: sem_post ─▶ PyRun_SimpleString("… gc.collect()") ─▶ end: sem_post
 *
 * All three are functions that stay when the agent has left, and so does the page with their arguments: a main thread that is in a
 * system call, or in C code, makes the calls when it returns from there. No GIL needed; the agent's thread.
 */
#ifndef LOWTIDE_AGENT_COLLECT_CALL_H
#define LOWTIDE_AGENT_COLLECT_CALL_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* `stop` (may be NULL) is asked now and then whether to give up. 0; -ETIMEDOUT: it was not done in time, and will be later; -ENOSYS, -EBUSY, -ECANCELED. *pause_us: how long it took. */
int collect_call(uint32_t timeout_ms, bool (*stop)(void *arg), void *arg, uint64_t *pause_us,
                 err_t *e);

#endif
