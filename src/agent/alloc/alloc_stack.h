/* Which Python code runs in this thread: its frames, read from the interpreter's structures by the layout tables.
 *
 * Only of the calling thread, whose frames stand still meanwhile, whether it holds the GIL or not. Calls nothing of CPython's but
 * PyGILState_GetThisThreadState, which reads thread storage.
 */
#ifndef LOWTIDE_ALLOC_STACK_H
#define LOWTIDE_ALLOC_STACK_H

#include "agent/runtime/runtime.h"

#include <stdbool.h>
#include <stdint.h>

/* rt must outlive all of it. */
bool stack_open(const rt_t *rt);
void stack_close(void);

/* The stack of the calling thread, of any domain: a number of the store's. */
uint32_t stack_here(void);
/* The same, quicker, for callers that hold the GIL: remembers the last one. */
uint32_t stack_here_alone(void);

#endif
