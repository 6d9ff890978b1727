/* An audit hook that was there before Python is, and goes again.
 *
 * Python keeps such a hook in a block of its raw allocator, and gives it back at its end: to the one that is in place by then. Under
 * PYTHONMALLOC=debug or -X dev that is another one, which takes it for damage and ends the process. So the hook is taken off
 * Python's list before that; its block of some 24 bytes stays. From then on no event costs the program a call.
 */
#ifndef LOWTIDE_AGENT_AUDIT_H
#define LOWTIDE_AGENT_AUDIT_H

#include "agent/runtime/runtime.h"

typedef int (*audit_call_t)(const char *event, void *args, void *data);

/* Before Python begins, while there is one thread. One a process. */
bool audit_begin(const rt_t *rt, audit_call_t call);
/* In `call` alone, with the GIL: it is not called again. Nothing where the hook was not found on the list. */
void audit_end(void);

#endif
