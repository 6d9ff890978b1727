/* Taking a GIL without being a Python thread, and giving up without a trace.
 *
 * PyGILState_Ensure cannot time out: a thread that waits there waits for as long as C code keeps the GIL. And it leaves
 * things behind: a PyThreadState, which sys._current_frames and threading would see, a key of thread storage, and at the end of
 * the program a thread that pthread_exit or a hang takes away in the middle of our work. So the agent does not become a
 * Python thread. It does by the layout tables what take_gil and drop_gil of Python/ceval_gil.c do, on the same mutexes
 * and conditions; nothing is created, so nothing can be left.
 *
 *     take      lock mutex ─▶ while locked: wait on cond for the switch interval, then ask the holder to let go
 *               ─▶ locked = 1, last_holder = nobody, signal switch_cond ─▶ unlock
 *     give up   withdraw the request, else the holder would wait for ever for someone to take over (gh-96387)
 *     release   lock mutex ─▶ locked = 0, last_holder = NULL, signal cond ─▶ unlock
 *
 * take_gil asks only when nobody let go of the GIL for a whole interval. A program that lets go of it every millisecond, for
 * the microseconds of a system call, would never be asked and has it again before we wake up (30 s long, as measured). So
 * we ask after each interval, whatever happened in between: a holder that was asked lets go until somebody took over.
 *
 * *Nobody* is a zeroed stand-in for a PyThreadState: threads that wait in 3.13 and later set a bit in the last holder's. While
 * the agent holds the GIL there is no current thread state: no Python API that needs one may be called.
 *
 * The tables are not proven yet when the GIL is first taken (rt_prove needs it), so gil_find checks with rt_peek all that it
 * can: that the main interpreter is where the runtime says, and that lock, mutexes and conditions look like such.
 *
 * One thread at a time a gil_t. Errors: -ETIMEDOUT, -ECANCELED (asked by `stop`), -EBADMSG (does not look like a GIL),
 * -ESRCH (Python has ended).
 */
#ifndef LOWTIDE_AGENT_GIL_H
#define LOWTIDE_AGENT_GIL_H

#include "agent/runtime/runtime.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct gil {
    const rt_t *rt;
    rt_addr_t at; /* struct _gil_runtime_state of the main interpreter */
    bool held;
} gil_t;

/* No GIL needed. */
int gil_find(gil_t *g, const rt_t *rt, err_t *e);

/* Waits up to timeout_ms. `stop` (may be NULL) is asked every few milliseconds whether to give up; a GIL that has become free
 * meanwhile is taken all the same: who let go of it for us waits for that. */
int gil_take(gil_t *g, uint32_t timeout_ms, bool (*stop)(void *arg), void *arg, err_t *e);
void gil_release(gil_t *g);

/* In a child that was forked while the GIL was held: gives its only thread the thread state of one of the program's threads,
 * so that Python's C functions which ask for the current one (allocators do) find one. */
void gil_adopt(gil_t *g);

/* How many interpreters have a GIL of their own (3.12 and later): taking the main one's does not stop them. GIL held. */
uint32_t gil_others(const gil_t *g);

#endif
