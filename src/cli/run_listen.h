/* `lowtide run`'s end of the talk with the program that it started (src/agent/program.c says how it goes).
 */
#ifndef LOWTIDE_CLI_RUN_LISTEN_H
#define LOWTIDE_CLI_RUN_LISTEN_H

#include "base/err.h"
#include "control/control.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct run_listen {
    int sock;
    char key[64], name[64];
    int out; /* where a recording goes */
    uint32_t flags;
    bool began, ended, captured;
    uint32_t program; /* PID of the first Python that began, as it knows itself */
    ctl_result_t result;
    char refused[480]; /* why there will be no recording; "": not refused */
} run_listen_t;

int run_listen_open(run_listen_t *l, int out, uint32_t flags, err_t *e);
/* What the program needs to find us: the value of CTL_RUN_VARIABLE. */
void run_listen_environment(const run_listen_t *l, const char *agent, char *variable, size_t room);
/* Answers one caller; call it when l->sock is readable. Stays with a caller whose heap is being written. */
void run_listen_answer(run_listen_t *l);
void run_listen_close(run_listen_t *l);

#endif
