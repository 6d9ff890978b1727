/* CPython's allocator domains, hooked by PyMem_SetAllocator. The caller holds the GIL. */
#ifndef LOWTIDE_ALLOC_PYTHON_H
#define LOWTIDE_ALLOC_PYTHON_H

#include "agent/runtime/runtime.h"
#include "base/err.h"
#include "control/region.h"

#include <stdbool.h>

int python_hook(const rt_t *rt, enum region_mode mode, err_t *e);
/* Sampled, and the hooks of libc's functions are in: takes those of free out again where libc's free sees what ends there. Not so with
 * another malloc below Python, in the executable itself. Of a caller without a thread state, as an attached agent, the first thread
 * that is to sample a small block does it. */
void python_trust_libc(void);
/* Nobody has put hooks of their own over ours. */
bool python_unhookable(const rt_t *rt);
void python_unhook(const rt_t *rt);

#endif
