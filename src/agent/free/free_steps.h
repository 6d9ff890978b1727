/* Giving memory back: the steps that need no Python, each measured.
 *
 *     free_pools      pymalloc at pool level      GIL held
 *     free_libc       the process's own malloc    no GIL needed; no other thread waits but in malloc
 *
 * A step that cannot be done says so in its note and has touched nothing. With `dry` a step tells what it would give back. Any
 * thread that may call what the step needs; one at a time.
 */
#ifndef LOWTIDE_AGENT_FREE_FREE_STEPS_H
#define LOWTIDE_AGENT_FREE_FREE_STEPS_H

#include "agent/runtime/runtime.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct free_step {
    const char *name;
    uint64_t
        returned_bytes; /* by the system's own count of this process; of a dry run: predicted */
    uint64_t us;        /* what it took */
    char note[320];     /* "" or one line: why it could not be done, or what stays */
} free_step_t;

/* rt: found and proven. deadline_us by CLOCK_MONOTONIC, 0: none. */
void free_pools(rt_t *rt, bool dry, int64_t deadline_us, free_step_t *out);
void free_libc(bool dry, free_step_t *out);

#endif
