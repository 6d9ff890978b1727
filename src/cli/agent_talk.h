/* A talk with an agent that was brought into a live process: what dump, attach, top, rss and free have in common.
 *
 *     one question                    agent_talk_once     brings it in, asks, hears LINEs and PINs up to RESULT, takes it out
 *     a request of some duration      agent_talk_open ─▶ agent_talk_work ─▶ agent_talk_close
 *     several, with pauses between    agent_talk_open ─▶ agent_talk_ask … ─▶ agent_talk_close
 *
 * Errors are one line, of the injector, the agent or ours: -ESRCH the process has ended, -EBADMSG it is no agent of ours that
 * speaks, -ETIMEDOUT it is silent, -EINTR or -ECANCELED after a signal (command.h).
 */
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
    bool
        tells; /* says so where the GIL does not come, or the agent does not leave: the caller's to set */
    bool asked; /* to end the profile */
    /* The agent has something to wait for before it can leave, and does so without us. */
    bool finishes;
} agent_talk_t;

/* Brings the agent in and hears its HELLO. */
int agent_talk_open(agent_talk_t *t, pid_t pid, const char *agent, uint32_t timeout_ms, err_t *e);
/* Says BYE and waits for the agent to be gone. A process that is slow to let it go is left to itself. */
void agent_talk_close(agent_talk_t *t);

/* Ends the profile: the hooks are taken out. Where they have to stay, or to wait for a thread, a line on standard error says what
 * for, and agent_talk_close does not wait. agent_talk_stop_ask only asks, so that many can do it at once; then agent_talk_stop hears
 * the answer. */
void agent_talk_stop_ask(agent_talk_t *t);
void agent_talk_stop(agent_talk_t *t);
/* Somebody has stopped the process, and so the agent: true with a line, and agent_talk_stop has nothing more to do. */
bool agent_talk_stopped(agent_talk_t *t, err_t *e);

/* Sends, and waits for a message of that type or a RESULT, whichever comes first: *got. *fd: what came with it, or -1. A
 * RESULT that tells of a failure is returned as that. -EINTR at a signal (command.h). */
int agent_talk_ask(agent_talk_t *t, const ctl_msg_t *m, int send_fd, uint16_t type, ctl_msg_t *got,
                   int *fd, uint32_t timeout_ms, err_t *e);

/* Sends, with a descriptor or -1, hands on what comes, and returns with RESULT: a failure that it tells of is returned as that. A
 * signal asks the agent to give up, and waits until it has. timeout_ms: of silence. m: NULL where it has been sent; heard: NULL where
 * nothing of that matters. */
int agent_talk_work(agent_talk_t *t, const ctl_msg_t *m, int send_fd,
                    void (*heard)(void *arg, const ctl_msg_t *m), void *arg, uint32_t timeout_ms,
                    ctl_result_t *result, err_t *e);

enum { ANSWER_LINES_MAX = 128, ANSWER_PINS_MAX = 16 };

typedef struct answer {
    ctl_line_t lines[ANSWER_LINES_MAX];
    unsigned count;
    ctl_pin_t pins[ANSWER_PINS_MAX];
    unsigned pin_count;
    ctl_result_t result;
} answer_t;

/* question: FREE or RSS. As agent_talk_work; answer->result tells whether it was the agent that failed. */
int agent_talk_answer(agent_talk_t *t, const ctl_msg_t *question, answer_t *answer,
                      uint32_t timeout_ms, err_t *e);
int agent_talk_once(pid_t pid, const ctl_msg_t *question, answer_t *answer, err_t *e);

#endif
