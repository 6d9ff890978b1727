/* libc's allocation functions, hooked (alloc_got.h). */
#ifndef LOWTIDE_ALLOC_LIBC_H
#define LOWTIDE_ALLOC_LIBC_H

#include "base/err.h"
#include "control/region.h"

#include <stdbool.h>
#include <stdint.h>

/* Those of alloc_opens.h, too; stays: also those in which a thread may wait for ever. */
int libc_hook(enum region_mode mode, bool stays, err_t *e);
void libc_unhook(void);
/* Threads that are in a hook at this moment, beyond its first and last few instructions. */
uint32_t libc_inside(void);
/* The others are not in this process. */
void libc_fork_child(void);

/* For hooks elsewhere that run without the GIL, or with one of several. */
void libc_enter(void);
void libc_leave(void);

#endif
