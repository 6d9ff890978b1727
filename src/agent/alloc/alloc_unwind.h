/* Which C functions run in this thread: its frames, by the call frame information that every library carries (.eh_frame).
 *
 * An unwinder of our own, since those that exist take locks or allocate, and this runs inside malloc: libgcc's looks for a library
 * under the loader's lock (which another thread may hold while it waits for the GIL that we have), and sorts its tables in memory
 * from malloc. Ours asks glibc's _dl_find_object, which takes no lock, and remembers by return address how to go on from there:
 *
 *     return address ─▶ rows[hash] ─▶ where the caller's frame begins (from rsp or rbp) and where its rbp is kept
 *                          └─ not there: .eh_frame_hdr ─▶ FDE ─▶ its program, run up to the address
 *
 * Only memory between the stack pointer and the end of the thread's stack is read, and but for the first thread's each page is looked
 * at before, anew once anything was unmapped: wrong tables or a foreign stack (coroutines that switch stacks) end the walk, and nothing
 * else. x86-64; rules that compilers do not write end it, too.
 *
 * Any thread. No lock, no malloc.
 */
#ifndef LOWTIDE_ALLOC_UNWIND_H
#define LOWTIDE_ALLOC_UNWIND_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { UNWIND_MOST = 256 };

typedef struct unwind_frame {
    uintptr_t pc;        /* where the frame goes on when what it called returns */
    uintptr_t sp, cfa;   /* it lies in [sp, cfa) */
    uintptr_t bp, bp_at; /* rbp then, and where its caller's is kept (0: that is the same) */
    uintptr_t cfa_at;    /* of a function that aligns its stack: where cfa is kept; else 0 */
} unwind_frame_t;

/* One walk, and what the next needs of it: from one allocation to the next most frames stay, and that a frame has the same caller is
 * asked more quickly (two words of the stack) than who its caller is. All zero: no walk yet. */
typedef struct unwind_walk {
    size_t count;
    const unwind_frame_t *frames; /* leaf first, without those of this library */
    uintptr_t end;                /* of the stack */
    uint32_t generation, mappings;
    unwind_frame_t room[2][UNWIND_MOST];
} unwind_walk_t;

/* -ENOSYS: this libc has no _dl_find_object (glibc before 2.35). */
int unwind_open(err_t *e);
void unwind_close(void);
bool unwind_is_open(void);

/* The frames of the calling thread. The walk may have been another thread's before; at a time it is one's. */
void unwind_here(unwind_walk_t *w);

/* A library goes: what was remembered may be of it. Numbers the state of what is loaded. */
void unwind_forget(void);
/* Memory has gone: what was seen to be readable may be so no longer. */
void unwind_unmaps(void);
uint32_t unwind_generation(void);

/* The library that an address lies in. */
typedef struct unwind_library {
    char path[1024]; /* as the loader knows it, from the root on */
    uintptr_t base;  /* what is added to the addresses in its symbol table */
    uint8_t build_id[32];
    size_t build_id_bytes; /* 0: none */
} unwind_library_t;

bool unwind_library(uintptr_t pc, unwind_library_t *out);

#endif
