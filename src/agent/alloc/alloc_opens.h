/* Where descriptors were opened and threads were started: the Python stack at the last call that made each.
 *
 * Hooks of libc's functions (alloc_got.h) beside the allocators': open, openat, socket, socketpair, pipe2, dup, dup2, eventfd,
 * epoll_create1, memfd_create, close, pthread_create. One number a descriptor, up to OPENS_DESCRIPTORS, and one a thread,
 * of the last OPENS_THREADS. accept and fcntl wait as long as they like, so they are hooked only where nobody means to take the
 * hooks out again.
 *
 * open, openat and close are where pthread_cancel ends a thread: one that it ends in a hook counts as inside for ever, and alloc_quiet says
 * so; the library then stays. (Not to count it there would be to unload code that a thread returns to.)
 *
 * Any thread, no lock, no malloc. What is asked may be asked in a forked child, of what its parent knew.
 */
#ifndef LOWTIDE_ALLOC_OPENS_H
#define LOWTIDE_ALLOC_OPENS_H

#include "agent/alloc/alloc_got.h"

#include <stdbool.h>
#include <stdint.h>

enum { OPENS_DESCRIPTORS = 65536, OPENS_THREADS = 8192, OPENS_HOOKS = 20 };

/* The program's own line: the innermost that is neither Python's library nor of an installed package, else the innermost outside
 * Python's library, else the innermost. */
typedef struct opens_place {
    char file[4096], function[256]; /* "": not known */
    uint32_t line;
} opens_place_t;

/* Room for what is to be known. false: no memory, and nothing will be known. */
bool opens_open(void);
/* In a forked child: its parent's calls are not its own. */
void opens_forget(void);
void opens_close(void);
/* Writes rows for got_open, which then fills in their `real`; returns how many. */
size_t opens_hooks(got_hook_t rows[OPENS_HOOKS], bool waiting);

bool opens_descriptor(int64_t descriptor, opens_place_t *out);
bool opens_thread(uint64_t ident /* pthread_self */, opens_place_t *out);
/* Where an object was made whose block begins here: known where every allocation is counted. */
bool opens_object(uint64_t block, opens_place_t *out);

#endif
