/* Puts functions of ours in the place of libc's, by the global offset tables of the loaded objects.
 *
 *     object's GOT ─▶ trampoline (jmp *target) ─▶ target: our hook, or after got_restore libc's own function
 *
 * A program may copy a function's address out of a GOT (`free` as a destructor) and call it long after we are gone: so what
 * it finds there is a trampoline in memory of its own, which stays mapped when the library goes.
 *
 * Slots in relocated read-only memory are written through /proc/self/mem, which leaves the protection of their page alone: another
 * thread may be loading that very object. Left as they are: the loader, the vdso, ourselves, and an object that
 * defines malloc (jemalloc …) but is not libc.
 *
 * One thread at a time.
 */
#ifndef LOWTIDE_ALLOC_GOT_H
#define LOWTIDE_ALLOC_GOT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

typedef void (*got_function_t)(void); /* any */

typedef struct got_hook {
    const char *name;
    got_function_t hook;
    got_function_t real; /* found by got_open */
} got_hook_t;

enum { GOT_HOOKS_MAX = 24 };

/* hooks: the caller's, sorted in no order, n ≤ GOT_HOOKS_MAX; outlives got_restore. -EPERM: this system allows no code
 * in anonymous memory. */
int got_open(got_hook_t *hooks, size_t n, err_t *e);
/* Patches what is loaded and not patched yet. Returns how many slots. */
size_t got_patch(void);
/* Puts the real functions back, in slots and trampolines. */
void got_restore(void);

#endif
