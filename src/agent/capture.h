/* One capture: stop the program, fork, let it run on, and see the recording written by the child.
 *
 *     this process                                   child (raw clone, exit signal 0)
 *     facts_gather, rt_refresh
 *     hold ─┐ prove once, clone ────────────────────▶ closes every descriptor but the recording's, resets signals,
 *     let go┘ (that was the pause)                    oom_score_adj 1000, no core file, nicer
 *     wait, asking `stop` now and then                heap_capture → rec_writer → descriptor
 *     reap with __WALL  ◀──────────────────────────── figures in a shared page, _exit
 *
 * The clone's exit signal is 0, so the program gets no SIGCHLD and its waitpid(-1) does not see the child; no atfork handler
 * runs. The child belongs to nobody else: whoever runs the capture reaps it, and kills it when asked to stop. Should
 * this process die meanwhile, the child finishes by itself and reports on `peer`; it ends early when the other side of
 * `peer` cancels or is gone.
 *
 * Where the clone is refused (limits, overcommit, seccomp) or would be unsafe (arenas of huge pages), the heap is walked in
 * place while the program stands still, if the request allows it.
 *
 * Any thread, one capture at a time. Uses neither malloc nor stdio.
 */
#ifndef LOWTIDE_AGENT_CAPTURE_H
#define LOWTIDE_AGENT_CAPTURE_H

#include "agent/runtime/runtime.h"
#include "base/err.h"
#include "control/control.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct capture {
    rt_t *rt; /* from rt_find; proven here if it is not yet */
    int fd;   /* the recording goes here; closed in any case, before the program runs on */
    /* Instead: fetches it while the program stands still. NULL: fd is there. */
    int (*fetch)(void *arg, int *fd, err_t *e);
    int peer; /* control socket for a child whose parent died, or -1 */
    /* The child is left to itself: it reports on `peer`, and capture_run returns as soon as the program runs on. No walk in
     * place. */
    bool leave;
    uint32_t flags;      /* ctl_capture_flag */
    uint32_t pid;        /* to write down; 0: getpid() */
    uint32_t timeout_ms; /* for a walk in place */
    /* Make the program stand still and run on: take the GIL and release it. NULL: the caller is a thread of Python's and
     * holds the GIL. */
    int (*hold)(void *arg, err_t *e);
    void (*let_go)(void *arg);
    /* With `hold`: the GIL is held by no thread of Python's. C functions that are called want to be on one: */
    void (*adopt)(void *arg); /* in the child, first: borrow one */
    void (*join)(
        void *arg); /* before a walk in place: become one. The GIL may change hands meanwhile. */
    /* Waits up to wait_ms and says whether to give up. NULL: never. */
    bool (*stop)(void *arg, int wait_ms);
    void *arg;
} capture_t;

/* Returns out->status; out->text has the error's line, or a line worth telling. */
int capture_run(const capture_t *c, ctl_result_t *out);

#endif
