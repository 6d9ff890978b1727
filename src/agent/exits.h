/* The end of a program, as Python comes to it: a callback before all that the program has registered with atexit, and `os._exit`.
 *
 * atexit calls first what came last, so ours is registered again behind each of the program's: `atexit.register` of the main interpreter
 * is, from exits_begin on, a function that does that, and otherwise the same function under the same name. It allocates what a
 * registration takes; after the first EXITS_MOST there are no more, and the later ones of the program are called before ours.
 *
 * Ours are not counted: `atexit._ncallbacks` says how many the program has registered, and for that we hear of `_clear`, behind which ours
 * is registered again, and of `_run_exitfuncs`.
 *
 * What looked `register` up before, or in a module that was made anew, is not seen: those are called before ours, too.
 *
 * With the GIL. One a process.
 */
#ifndef LOWTIDE_AGENT_EXITS_H
#define LOWTIDE_AGENT_EXITS_H

#include "agent/runtime/runtime.h"

enum { EXITS_MOST = 10000 };

/* atexit: the module, in which one of ours is registered already; callback: a callable; rt: proven. All stay the caller's. wanted: asked before each registration of ours. Where
 * `register` is not what it is in CPython, nothing is changed. */
void exits_begin(const rt_t *rt, void *atexit, void *callback, bool (*wanted)(void));
/* Nothing is registered any more. With or without a GIL. */
void exits_end(void);

/* From now on exits_leaving tells who calls `_exit`. posix: the module. In every interpreter; where `os._exit` is not what it is in
 * CPython, nothing is changed. */
void exits_watch_leave(const rt_t *rt, void *posix);
/* Whether this thread is in `os._exit`, which holds the GIL and nothing else. C code that calls `_exit` may be a signal's handler, which
 * interrupted anything. Anywhere. */
bool exits_leaving(void);

#endif
