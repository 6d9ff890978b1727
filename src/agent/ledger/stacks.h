/* Where the stacks of this process's threads stand: what lies deeper was used once, and stays until the thread ends.
 *
 * Only of threads that wait for something, and as far as the kernel tells (/proc/PID/task/TID/syscall). No malloc, no stdio streams.
 */
#ifndef LOWTIDE_AGENT_LEDGER_STACKS_H
#define LOWTIDE_AGENT_LEDGER_STACKS_H

#include "base/vec.h"

#include <stdint.h>

enum { STACKS_RED_ZONE = 128 /* below its pointer a function may use so much */ };

VEC_DEFINE(stack_points, uintptr_t);

/* of: a PID, 0 for this process. What cannot be read is left out. */
void stacks_read(stack_points_t *out, uint32_t of);
/* The pointer within [begin, end), or `begin`. */
uintptr_t stacks_point(const stack_points_t *points, uintptr_t begin, uintptr_t end);
/* The pointer in such a file's text ("202 0x7f… 0x7ffe… 0x7f81…": it stands before the last word), or 0. */
uintptr_t stacks_parse(const char *text);

#endif
