/* A snapshot of the heap at a peak, when the recorder wants one (region.h, snapshot_above).
 *
 *     a thread of the program, in an allocation       ours, for some milliseconds           recorder
 *     more is live than snapshot_above ─────────────▶ HELLO program peaks ───────────────▶
 *     (and goes on)                                              ◀── CAPTURE + descriptor ─
 *                                                     takes the GIL, forks, lets go
 *                                                     ends
 *                                                     its child walks ── RESULT ─────────▶
 *
 * The thread runs with all signals blocked and is no thread of Python's (gil.h). One at a time. It is gone before the
 * agent captures otherwise, and under `run` before the program forks: peak_end. A forked child of an attached program has none of
 * it: peak_fork_child.
 */
#ifndef LOWTIDE_AGENT_PEAK_H
#define LOWTIDE_AGENT_PEAK_H

#include "agent/runtime/runtime.h"

/* rt: proven; outlives the process's last allocation. dial: calls the recorder, HELLO said; a socket, or -1. Before alloc_start. */
void peak_begin(rt_t *rt, int (*dial)(void));
/* Any thread that is not in an allocation, with or without the GIL: gives up a snapshot that has not begun, and waits until the
 * thread is gone. */
void peak_end(void);
/* The same, and none begins any more until peak_begin: for an agent that leaves, whose hooks may still be called. */
void peak_close(void);
/* In the only thread of a forked child. */
void peak_fork_child(void);

#endif
