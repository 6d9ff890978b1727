/* Which thread to borrow, and whether the place where it stopped is one where it may be.
 *
 * What the borrowed thread does (pthread_create) takes malloc's lock, the loader's TLS lock and the lock of the list of stacks, each
 * for a moment. Held by another thread they come free; held by this very thread they never would. So it is borrowed only
 *   - in code that is no part of libc, of the loader or of any other malloc: Python, extensions, or
 *   - in libc, but in a system call that those locks are never held over: read, poll, accept, a wait for a condition …
 * and never in a signal handler, which may have interrupted anything, nor where a stop would show: a write that was done in part returns
 * early when it is interrupted, so threads that wait to write are left alone. */
#ifndef LOWTIDE_INJECT_INJECT_SAFE_H
#define LOWTIDE_INJECT_INJECT_SAFE_H

#include "inject/inject_target.h"
#include "inject/inject_thread.h"

typedef struct safe_thread {
    pid_t tid;
    int rank; /* smaller is better; those that cannot be borrowed are not listed */
} safe_thread_t;

VEC_DEFINE(safe_thread_vec, safe_thread_t);

/* The threads that look good at this moment, the best first. `why` says what the others do (one short phrase). */
int safe_candidates(const inject_target_t *t, safe_thread_vec_t *out, const char **why);

/* Whether the code in which the thread stopped is safe: what can be said at once. */
bool safe_code(const inject_target_t *t, const thread_t *thread);

/* Whether the stopped thread may be borrowed, by all that can be known. Else `why` gets one short phrase. */
bool safe_here(const inject_target_t *t, const thread_t *thread, const char **why);

#endif
