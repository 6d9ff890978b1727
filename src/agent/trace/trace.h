/* Traces every block that Python allocates: its size, and the line that made it. What lowtide.tracemalloc stands on.
 *
 *     hook ─▶ real allocator ─▶ who calls? (trace_sites.h) ─▶ a word beside the block (trace_blocks.h) ─▶ bytes, peak
 *     free ─▶ take the word back ─▶ real allocator
 *
 * Why it is cheap
 *   - The word of a block lies at its address, shifted: no hash, no search, no allocation for an allocation; neighbours in memory
 *     are neighbours there, so what is touched together costs few cache lines. It takes a quarter of what the program allocates.
 *   - A stack is known by its innermost instructions: a multiplication and a look into a table that is the cache of
 *     all slower steps. File, line and the rest are read once for each place in the code, not once for each block.
 *   - Who holds the one GIL takes no lock. Only the raw domain (which may be called without), and processes with more than
 *     one interpreter, do.
 *
 * What it promises
 *   - Each block of the domains raw, mem and object that was made while tracing counts with the bytes that were asked for, from
 *     its allocation to its end, exactly. The peak is that of the sum at each moment.
 *   - A block inside another (what an allocator asks of the one below for a block that counts) does not count.
 *   - Where there is no memory for our own tables the program's allocation succeeds, and that block is missed:
 *     trace_missed says how many were.
 *   - A fork goes on tracing in the child with what the parent had.
 *
 * Threads: the caller holds the GIL for everything here but trace_track, trace_untrack and trace_find. One trace a process;
 * once started the hooks may stay, asleep, when others have put theirs over them, so this library must not be unloaded.
 */
#ifndef LOWTIDE_AGENT_TRACE_H
#define LOWTIDE_AGENT_TRACE_H

#include "agent/runtime/runtime.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TRACE_FRAMES_MAX = 65535 };

/* Where a block was made. All of it lives until trace_clear or trace_stop, and longer where trace_hold asks for it.
 * Numbers count from 0 and tell two of a kind apart; equal sites have equal numbers. */
typedef struct trace_file {
    uint32_t number;
    uint32_t length, width; /* code points, and bytes of each: 1, 2 or 4, as little as they need */
    unsigned char name[];
} trace_file_t;

typedef struct trace_place {
    const trace_file_t *file;
    uint32_t line; /* 0: none */
    uint32_t number;
} trace_place_t;

typedef struct trace_site {
    uint32_t number;
    uint32_t count;                /* of places: at most the limit */
    uint32_t total;                /* frames of the stack, at most TRACE_FRAMES_MAX */
    const trace_place_t *places[]; /* innermost first */
} trace_site_t;

/* A new reference to a site's tuple, or None: what _PyTraceMalloc_GetTraceback gives. */
typedef void *trace_traceback_fn(unsigned domain, uintptr_t at);

/* rt: proven; must live as long as the process. 0 too where it is on already (and then the limit stays). Errors, one line each:
 * -ENOMEM, -ENOSYS (a Python whose allocators cannot be hooked).
 * While it is on, what extension modules tell CPython's own tracer by its C API (PyTraceMalloc_Track …) comes to us, where
 * this system lets a program make code in memory. */
int trace_start(const rt_t *rt, uint32_t frames_max, trace_traceback_fn *traceback, err_t *e);
void trace_stop(void);
bool trace_is_on(void);
uint32_t trace_limit(void); /* of the last start; 1 before */

void trace_memory(uint64_t *bytes, uint64_t *peak_bytes); /* 0 and 0 when off */
void trace_reset_peak(void);
void trace_clear(void);
size_t trace_own_bytes(void); /* memory that our tables take */
uint64_t trace_missed(void);  /* blocks that were not traced, for want of memory */

/* What C code says of memory that is not Python's (PyTraceMalloc_Track): `at` in a domain of its own counts as a block. Any
 * thread, with or without the GIL. 0; -ENOENT: not tracing; -ENOMEM. */
int trace_track(uint32_t domain, uintptr_t at, size_t bytes);
int trace_untrack(uint32_t domain, uintptr_t at);

/* Where the block at that address was made, or NULL. Between trace_hold and trace_release sites stay where they are. */
const trace_site_t *trace_find(uint32_t domain, uintptr_t at);
void trace_hold(void);
void trace_release(void);
/* The address of the block that an object lies in. */
uintptr_t trace_block_of(const rt_t *rt, const void *object);

/* What this thread allocates from here on does not count. Returns what was set before. */
bool trace_mute(bool muted);

/* All blocks that are alive, in the order of their addresses, those of trace_track behind them. */
typedef struct trace_block {
    const trace_site_t *site;
    uint64_t bytes;
    uint32_t domain; /* 0: Python's own */
} trace_block_t;

typedef struct trace_copy {
    trace_block_t *blocks;
    size_t count, room_bytes;
    uint32_t sites, places, files; /* all numbers are below these */
} trace_copy_t;

int trace_copy(trace_copy_t *out); /* 0 or -ENOMEM; holds the sites until trace_copy_free */
void trace_copy_free(trace_copy_t *copy);

#endif
