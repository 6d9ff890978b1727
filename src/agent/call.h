/* Calls to who records this process, and is not its parent: `lowtide run` or `lowtide attach`, by an abstract socket.
 *
 *     call_set ─▶ call_dial: HELLO with the key ─▶ REGION, RESULT … ─▶ close
 *
 * System calls alone: in a forked child another thread may have left a lock of malloc's taken. Nobody waits for an answer but who asks for
 * one. Any thread, once call_set has returned.
 */
#ifndef LOWTIDE_AGENT_CALL_H
#define LOWTIDE_AGENT_CALL_H

#include "agent/runtime/runtime.h"
#include "base/err.h"
#include "control/control.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* false: too long. An empty name: nobody is to be called. */
bool call_set(const char *key, size_t key_bytes, const char *name, size_t name_bytes);

/* A socket on which HELLO has been said, or -1 with errno. Where the recorder has too many callers waiting this waits, an eighth of
 * a second at most. */
int call_dial(uint32_t what);
bool call_say(int sock, const ctl_msg_t *m);
void call_status(int sock, int status, const err_t *e);
/* Closes the region's descriptor. parent: a PID, or 0. Returns 0, or a negative errno with a line. */
int call_region(int sock, const rt_t *rt, int region, pid_t parent, err_t *e);

/* In the only thread of a forked child, where allocations are being watched: gives it a profile of its own and tells the recorder, or,
 * where it is not to be followed or nobody answers (which the recorder finds in its parent's region), lets its hooks count nothing. Returns whether it is followed. */
bool call_forked(const rt_t *rt, bool follow);

#endif
