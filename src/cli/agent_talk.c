#include "cli/agent_talk.h"

#include "cli/command.h"

#include <errno.h>
#include <unistd.h>

enum { HELLO_MS = 10000, GIVE_UP_MS = 5000, LISTEN_MS = 100 };

int agent_talk_open(agent_talk_t *t, pid_t pid, const char *agent, uint32_t timeout_ms, err_t *e) {
    inject_options_t options = {.library_path = agent, .timeout_ms = (int)timeout_ms};
    ctl_msg_t m;
    int fd;
    *t = (agent_talk_t){.pid = pid, .sock = -1};
    int status = inject_open(pid, &options, &t->inject, &t->sock, e);
    if (status) return status;
    do status = ctl_recv(t->sock, &m, &fd, HELLO_MS, e);
    while (status == -EINTR && !interrupt_signal());
    if (status == -EPIPE)
        status = err_set(e, -ESRCH, "process %d ended, or did not let the agent in", (int)pid);
    if (!status && m.type != CTL_HELLO)
        status = err_set(e, -EBADMSG, "the agent in process %d began with a message of type %u",
                         (int)pid, m.type);
    if (status) agent_talk_close(t);
    return status;
}

void agent_talk_close(agent_talk_t *t) {
    err_t ignored;
    if (t->sock < 0) return;
    ctl_send(t->sock, &(ctl_msg_t){.type = CTL_BYE}, -1, GIVE_UP_MS, &ignored);
    inject_close(t->inject, &ignored);
    close(t->sock);
    t->sock = -1;
}

int agent_talk_ask(agent_talk_t *t, const ctl_msg_t *m, int send_fd, uint16_t type, ctl_msg_t *got,
                   int *fd, uint32_t timeout_ms, err_t *e) {
    uint32_t silent_ms = 0;
    *fd = -1;
    int status = ctl_send(t->sock, m, send_fd, GIVE_UP_MS, e);
    while (!status) {
        status = ctl_recv(t->sock, got, fd, LISTEN_MS, e);
        if (!status && (got->type == type || got->type == CTL_RESULT)) break;
        silent_ms = status == -ETIMEDOUT ? silent_ms + LISTEN_MS : 0;
        if (status == -EINTR || (status == -ETIMEDOUT && silent_ms <= timeout_ms)) status = 0;
        if (*fd >= 0) close(*fd);
        *fd = -1;
    }
    if (status == -EPIPE) return err_set(e, -ESRCH, "process %d ended meanwhile", (int)t->pid);
    if (!status && got->type == CTL_RESULT && got->result.status)
        status = err_set(e, got->result.status, "%s", got->result.text);
    return status;
}
