/* Which code runs in this thread: its Python frames, read from the interpreter's structures by the layout tables, and with `native`
 * those of C (alloc_unwind.h, which is open then), in the order of their calls.
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
bool stack_open(const rt_t *rt, bool native);
void stack_close(void);

/* The stack of the calling thread, of any domain: a number of the store's. */
uint32_t stack_here(void);
/* The same, quicker, for callers that hold the only GIL: remembers the last one. */
uint32_t stack_here_alone(void);
/* An allocation of Python's has passed the last one by, and may be of code where other code was. For callers that are not alone. */
void stack_forget(void);

#endif
