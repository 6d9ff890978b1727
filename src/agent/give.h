/* What the agent does for FREE and RSS: takes the GIL for the part that reads or trims pymalloc's books, does the rest without it,
 * and tells the other side line by line; the caller sends RESULT.
 *
 * A collection is run only when asked for, and in the program's main thread (collect_call.h): on a thread that is none of its own
 * it would run the program's finalizers.
 */
#ifndef LOWTIDE_AGENT_GIVE_H
#define LOWTIDE_AGENT_GIVE_H

#include "agent/gil.h"
#include "control/control.h"

typedef struct give {
    int sock;
    rt_t *rt; /* found */
    gil_t *gil;
    bool (*stop)(void *arg); /* as gil_take's */
    void *arg;
} give_t;

/* Returns result->status. -EPIPE: the other side is gone. */
int give_serve(const give_t *g, const ctl_msg_t *request, ctl_result_t *result);

#endif
