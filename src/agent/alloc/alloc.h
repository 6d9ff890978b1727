/* Watches what the process allocates, and keeps the profile in a region shared with a recorder (control/region.h).
 *
 *     attach  gil_take ─▶ rt_prove ─▶ alloc_start ─▶ gil_release ─▶ send the descriptor ─▶ …
 *             … gil_take ─▶ alloc_stop ─▶ gil_release ─▶ alloc_quiet: 0 ─▶ the library may be unloaded
 *     run     in the audit hook cpython.run_…, after rt_prove: alloc_start. Never stopped: the hooks stay, harmless, to the
 *             last free of the process
 *     fork    pthread_atfork's child handler: alloc_fork_child, and the descriptor goes to the recorder on a new socket
 *
 * Hooks: CPython's domains mem and object by PyMem_SetAllocator (raw too where exact), its arenas by
 * PyObject_SetArenaAllocator so that they do not count twice, and malloc, calloc, realloc, free, posix_memalign,
 * aligned_alloc, memalign, valloc, pvalloc, reallocarray, mmap, munmap, mremap and mprotect by the loaded objects' global offset tables. Libraries that
 * are loaded later are patched when something is first looked up in them. What other libraries define malloc themselves
 * (jemalloc, mimalloc) are used and left as they are.
 *
 * Sampled: each thread counts down an exponentially distributed number of bytes; a free looks at one byte of a filter. Over pymalloc
 * only libc's does: small blocks that are sampled lie outside of pymalloc's arenas (alloc_python.c). Anonymous mmaps are counted exactly in
 * either mode. Exact: a shadow of one word for each 16 bytes of the address space says by
 * whom a block was made; it takes a quarter of what the program has allocated.
 *
 * Everything here is one a process. Errors are one line, and then nothing has been changed.
 */
#ifndef LOWTIDE_AGENT_ALLOC_H
#define LOWTIDE_AGENT_ALLOC_H

#include "agent/runtime/runtime.h"
#include "base/err.h"
#include "control/region.h"

#include <stdbool.h>
#include <stdint.h>

#define ALLOC_INTERVAL_BYTES (512u << 10)

typedef struct alloc_options {
    enum region_mode mode;
    uint64_t interval_bytes; /* 0: ALLOC_INTERVAL_BYTES; not used where exact */
    bool native;             /* frames of C too */
    bool
        stays; /* nobody will ask for alloc_quiet: accepted connections are told where they were, too */
} alloc_options_t;

/* The caller holds the GIL (with or without a thread state) and has proven rt, which must live until alloc_quiet has said
 * 0. *region_fd: the region, close-on-exec, sealed against a change of size, the caller's to close. Errors: -EALREADY,
 * -ENOSYS (a Python or malloc that cannot be hooked), -ENOMEM. */
int alloc_start(const rt_t *rt, const alloc_options_t *o, int *region_fd, err_t *e);

/* Takes the hooks out again. The caller holds the GIL. -EBUSY with a line, and everything goes on as before, when somebody has
 * put hooks of their own over ours. 0 when nothing was started. */
int alloc_stop(err_t *e);

/* After alloc_stop, without the GIL: waits until no thread is inside the hooks; for one that sits there (in open() of a FIFO) a
 * second and a half at most. -ETIMEDOUT: the library must stay. */
int alloc_quiet(uint32_t timeout_ms, err_t *e);
/* A look only: after alloc_stop nobody comes in any more. */
bool alloc_inside(void);

/* In the only thread of a forked child, before anything else of ours: gives it an empty region of its own (what it inherited
 * counts for its parent), or, with region_fd NULL or where that fails, lets the hooks count nothing from here on. */
int alloc_fork_child(int *region_fd, err_t *e);

/* May that block be one of the samples that are alive? One in some hundred others is said to be, too. Any thread, and a forked
 * child, of what was so when it was forked. Where exact there are no samples. */
bool alloc_may_know(uintptr_t block);

/* What is to be done where the recorder wants a snapshot of a peak: called inside of an allocation, by any thread. Before alloc_start. */
void alloc_on_peak(void (*call)(void));

/* What this process shares with the recorder, until it forks or stops; NULL when nothing is watched. */
region_t *alloc_region(void);

/* A text in the region: its offset there, or 0. Any thread. */
uint32_t alloc_text(const char *text);

/* Something worth marking on the timeline. Any thread. */
void alloc_mark(const char *text);

#endif
