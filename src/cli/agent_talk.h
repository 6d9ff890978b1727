/* A talk with an agent that was brought into a live process: what dump, attach and peak snapshots share. */
#ifndef LOWTIDE_CLI_AGENT_TALK_H
#define LOWTIDE_CLI_AGENT_TALK_H

#include "base/err.h"
#include "control/control.h"
#include "inject/inject.h"

#include <stdbool.h>
#include <sys/types.h>

typedef struct agent_talk {
    pid_t pid;
    inject_t *inject;
    int sock;
} agent_talk_t;

/* Brings the agent in and hears its HELLO. */
int agent_talk_open(agent_talk_t *t, pid_t pid, const char *agent, uint32_t timeout_ms, err_t *e);
/* Says BYE and waits for the agent to be gone. A process that is slow to let it go is left to itself. */
void agent_talk_close(agent_talk_t *t);

/* Sends, and waits for a message of that type or a RESULT, whichever comes first: *got. *fd: what came with it, or -1. A
 * RESULT that tells of a failure is returned as that. -EINTR at a signal (command.h). */
int agent_talk_ask(agent_talk_t *t, const ctl_msg_t *m, int send_fd, uint16_t type, ctl_msg_t *got,
                   int *fd, uint32_t timeout_ms, err_t *e);

#endif
