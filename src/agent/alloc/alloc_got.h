/* Puts functions of ours in the place of libc's, by the global offset tables of the loaded objects.
 *
 *     object's GOT ─▶ trampoline (jmp *target) ─▶ target: our hook, or after got_restore libc's own function
 *
 * A program may copy a function's address out of a GOT (`free` as a destructor) and call it long after we are gone: so what
 * it finds there is a trampoline in memory of its own, which stays mapped when the library goes. The next set with the same
 * functions finds it again and takes it, so there is never more of it than sets that were in at once.
 *
 * Slots in relocated read-only memory are written through /proc/self/mem, which leaves the protection of their page alone: another
 * thread may be loading that very object. Left as they are: the loader, the vdso, ourselves, and an object that is the
 * owner of what is hooked (jemalloc of malloc) but is not libc.
 *
 * A program that imports a hundred libraries has as many visits, and tens of thousands of slots: so an object is looked through
 * until it has been relocated and nothing was to change (another thread may just be loading it, or binding a slot), and then no
 * more.
 *
 * One thread at a time.
 */
#ifndef LOWTIDE_ALLOC_GOT_H
#define LOWTIDE_ALLOC_GOT_H

#include "base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef void (*got_function_t)(void); /* any */

typedef struct got_hook {
    const char *name;
    got_function_t hook;
    got_function_t real; /* found by got_open */
} got_hook_t;

/* In a hook: who finds the function sees all that was made before it was looked for. */
static inline got_function_t got_real(const got_hook_t *h) {
    return __atomic_load_n(&h->real, __ATOMIC_ACQUIRE);
}

enum { GOT_HOOKS_MAX = 64, GOT_OBJECTS = 4096 };

/* An object as the last visits saw it, by its place in the loader's list. */
typedef struct got_object {
    uintptr_t base;
    const void *segments;
    uint32_t quiet; /* visits that found nothing to change */
} got_object_t;

/* One set of hooks: the caller's memory, never given back once opened. Two sets do not share a function: what one has
 * put in a slot the other leaves there. */
typedef struct got {
    got_hook_t *hooks;
    size_t count;
    const char *left;    /* objects that define this function are left, but for libc; NULL: none */
    unsigned char *code; /* a page of trampolines, then a page of their targets */
    _Atomic(got_function_t) *targets;
    int memory; /* /proc/self/mem, or -1 */
    bool restoring;
    size_t changed;
    uintptr_t lowest, highest; /* of the real functions, or of the trampolines while restoring */
    bool initials[256];        /* of the hooks' names */
    got_object_t *objects; /* GOT_OBJECTS of them, from the first patch until restored; or NULL */
    size_t seen;           /* of objects, in this visit */
    /* How many objects had been unloaded at the last visit: when there are more, others may lie in their places. */
    unsigned long long unloaded;
} got_t;

/* g: hooks, count ≤ GOT_HOOKS_MAX and left are set; hooks outlive got_restore. -EPERM: this system allows no code in
 * anonymous memory. */
int got_open(got_t *g, err_t *e);
/* Patches what is loaded and not patched yet. Returns how many slots. */
size_t got_patch(got_t *g);
/* Puts the real functions back, in slots and trampolines. */
void got_restore(got_t *g);

#endif
