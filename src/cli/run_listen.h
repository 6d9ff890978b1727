/* `lowtide run`'s end of the talk with the program that it started (src/agent/program.c says how it goes), and with the
 * children that call of themselves; of those also `lowtide attach`'s, which has no program: began is set, and program 0.
 */
#ifndef LOWTIDE_CLI_RUN_LISTEN_H
#define LOWTIDE_CLI_RUN_LISTEN_H

#include "base/err.h"
#include "cli/record.h"
#include "control/control.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>

enum { RUN_CALLERS_MOST = 64 };

typedef struct run_caller {
    int sock; /* -1: nobody */
    pid_t pid;
    uint64_t since_us;
    bool said, main; /* HELLO; and it is the program itself */
    bool peaks;      /* it writes a snapshot */
    int heard;       /* messages behind HELLO */
    ctl_hello_t hello;
} run_caller_t;

typedef struct run_listen {
    int sock;
    char key[64], name[64];
    record_t *record;
    uint32_t flags; /* of CAPTURE */
    ctl_profile_t profile;
    run_caller_t callers[RUN_CALLERS_MOST];
    bool full; /* who calls now has to wait */
    bool began, ended, captured;
    uint32_t program; /* PID of the first Python that began, as it knows itself */
    ctl_result_t result;
    char refused[480];    /* why there will be no heap; "": not refused */
    char unprofiled[480]; /* why the program has no profile */
} run_listen_t;

int run_listen_open(run_listen_t *l, record_t *record, err_t *e);
/* What the program needs to find us: the value of CTL_RUN_VARIABLE. */
void run_listen_environment(const run_listen_t *l, const char *agent, char *variable, size_t room);
/* Waits up to timeout_ms for callers and for `also` (a descriptor, or -1), and answers who has called. Stays with a caller
 * whose heap is being written. Returns whether anybody said anything. */
bool run_listen_wait(run_listen_t *l, int also, int timeout_ms);
/* What the last callers had to say is in their sockets by now: hears it, and waits for who writes the heap of a peak. */
void run_listen_last(run_listen_t *l);
void run_listen_close(run_listen_t *l);

#endif
