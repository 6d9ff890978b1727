#define _GNU_SOURCE
#include "cli/ask_agent.h"

#include "cli/agent_file.h"
#include "cli/command.h"
#include "inject/inject.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

enum { LISTEN_MS = 100, HELLO_MS = 10000, GIVE_UP_MS = 5000, WORK_MS = 60000 };

static int hear_hello(int sock, pid_t pid, err_t *e) {
    ctl_msg_t m;
    int fd, status;
    do status = ctl_recv(sock, &m, &fd, HELLO_MS, e);
    while (status == -EINTR && !interrupt_signal());
    if (status == -EPIPE)
        return err_set(e, -ESRCH, "process %d ended, or did not let the agent in", (int)pid);
    if (!status && m.type != CTL_HELLO)
        return err_set(e, -EBADMSG, "the agent in process %d began with a message of type %u",
                       (int)pid, m.type);
    return status;
}

/* Until RESULT. A signal asks the agent to give up, and waits until it has. */
static int converse(int sock, pid_t pid, const ctl_msg_t *question, answer_t *answer, err_t *e) {
    ctl_msg_t m;
    bool canceled = false;
    int64_t silent_ms = 0;
    int fd, status = ctl_send(sock, question, -1, HELLO_MS, e);
    while (!status) {
        status = ctl_recv(sock, &m, &fd, canceled ? GIVE_UP_MS : LISTEN_MS, e);
        if (!status && m.type == CTL_RESULT) {
            answer->result = m.result;
            return 0;
        }
        if (!status && m.type == CTL_LINE && answer->count < ASK_LINES_MAX)
            answer->lines[answer->count++] = m.line;
        if (!status && m.type == CTL_PIN && answer->pin_count < ASK_PINS_MAX)
            answer->pins[answer->pin_count++] = m.pin;
        silent_ms = status == -ETIMEDOUT ? silent_ms + LISTEN_MS : 0;
        if (status == -EINTR || (status == -ETIMEDOUT && !canceled)) status = 0;
        if (!status && silent_ms > question->free.timeout_ms + (int64_t)WORK_MS)
            status =
                err_set(e, -ETIMEDOUT, "the agent in process %d is silent; is the process stopped?",
                        (int)pid);
        if (!status && !canceled && interrupt_signal()) {
            canceled = true;
            m.type = CTL_CANCEL;
            status = ctl_send(sock, &m, -1, GIVE_UP_MS, e);
        }
    }
    if (status == -EPIPE)
        return err_set(e, -ESRCH, "process %d ended before it had answered", (int)pid);
    return status;
}

int ask_agent(pid_t pid, const ctl_msg_t *question, answer_t *answer, err_t *e) {
    char agent[4096];
    err_t leaving;
    inject_t *inject = NULL;
    int sock = -1;
    memset(answer, 0, sizeof *answer);
    int status = agent_file_find(agent, sizeof agent, e);
    if (status) return status;
    interrupt_defer();
    inject_options_t options = {.library_path = agent,
                                .timeout_ms = (int)question->free.timeout_ms};
    status = inject_open(pid, &options, &inject, &sock, e);
    if (status) return status;
    status = hear_hello(sock, pid, e);
    if (!status) status = converse(sock, pid, question, answer, e);
    ctl_send(sock, &(ctl_msg_t){.type = CTL_BYE}, -1, GIVE_UP_MS, &leaving);
    inject_close(inject, &leaving);
    close(sock);
    if (!status && answer->result.status)
        status = err_set(e, answer->result.status, "%s", answer->result.text);
    return interrupt_signal() ? err_set(e, -EINTR, "interrupted") : status;
}
