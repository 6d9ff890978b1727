#include "cli/agent_talk.h"

#include "cli/agent_file.h"
#include "cli/command.h"
#include "cli/process_tree.h"
#include "cli/progress.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    HELLO_MS = 10000,
    GIVE_UP_MS = 5000,
    LISTEN_MS = 100,
    WORK_MS = 60000,
    STOP_MS = 20000,
    GIL_QUIET_MS = 3000
};

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
    err_t e;
    if (t->sock < 0) return;
    ctl_send(t->sock, &(ctl_msg_t){.type = CTL_BYE}, -1, GIVE_UP_MS, &e);
    if (t->finishes)
        inject_leave(t->inject);
    else if (inject_close(t->inject, &e) == -ETIMEDOUT && t->tells)
        command_fail("%s", e.text);
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

static void say_what_is_waited_for(const agent_talk_t *t, uint32_t most_ms) {
    char line[160];
    snprintf(line, sizeof line,
             "process %d keeps the GIL (C code); waiting %g s for it at most, Ctrl-C ends that",
             (int)t->pid, most_ms / 1000.0);
    progress_say(line);
    if (!progress_runs()) command_fail("%s", line);
}

int agent_talk_work(agent_talk_t *t, const ctl_msg_t *question, int send_fd,
                    void (*heard)(void *arg, const ctl_msg_t *m), void *arg, uint32_t timeout_ms,
                    ctl_result_t *result, err_t *e) {
    ctl_msg_t m;
    bool canceled = false, gil = false;
    int64_t silent_ms = 0;
    int fd, status = question ? ctl_send(t->sock, question, send_fd, HELLO_MS, e) : 0;
    while (!status) {
        status = ctl_recv(t->sock, &m, &fd, canceled ? GIVE_UP_MS : LISTEN_MS, e);
        if (!status && fd >= 0) close(fd);
        if (!status && m.type == CTL_RESULT) {
            *result = m.result;
            return m.result.status ? err_set(e, m.result.status, "%s", m.result.text) : 0;
        }
        if (!status && heard) heard(arg, &m);
        if (!status) gil = t->tells && m.type == CTL_PROGRESS && m.progress.phase == CTL_PHASE_GIL;
        silent_ms = status == -ETIMEDOUT ? silent_ms + LISTEN_MS : 0;
        if (status == -EINTR || (status == -ETIMEDOUT && !canceled)) status = 0;
        if (!status && gil && silent_ms >= GIL_QUIET_MS) {
            say_what_is_waited_for(t, question->capture.timeout_ms);
            gil = false;
        }
        if (!status && silent_ms > timeout_ms)
            status =
                err_set(e, -ETIMEDOUT, "the agent in process %d is silent; is the process stopped?",
                        (int)t->pid);
        if (!status && !canceled && interrupt_signal()) {
            canceled = true;
            m.type = CTL_CANCEL;
            status = ctl_send(t->sock, &m, -1, GIVE_UP_MS, e);
        }
    }
    if (status == -EPIPE)
        return err_set(e, -ESRCH, "process %d ended before it had answered", (int)t->pid);
    return status;
}

/* ── The end of a profile ── */

bool agent_talk_stopped(agent_talk_t *t, err_t *e) {
    tree_process_t p;
    if (!tree_read(&p, t->pid) || p.state != 'T') return false;
    t->finishes = true;
    err_set(e, -ETIMEDOUT,
            "process %d is stopped (SIGSTOP, Ctrl-Z); lowtide leaves it by itself when it goes on",
            (int)t->pid);
    return true;
}

void agent_talk_stop_ask(agent_talk_t *t) {
    err_t ignored;
    t->asked = ctl_send(t->sock, &(ctl_msg_t){.type = CTL_STOP}, -1, GIVE_UP_MS, &ignored) == 0;
}

/* What is another lowtide's is left to it. */
static bool is_no_news(int status) {
    return !status || status == -ESRCH || status == -EALREADY || status == -EAGAIN;
}

void agent_talk_stop(agent_talk_t *t) {
    const ctl_msg_t stop = {.type = CTL_STOP};
    ctl_result_t result;
    err_t e;
    if (t->finishes) return;
    if (agent_talk_stopped(t, &e)) {
        command_fail("%s", e.text);
        return;
    }
    int status = agent_talk_work(t, t->asked ? NULL : &stop, -1, NULL, NULL, STOP_MS, &result, &e);
    t->finishes = status == -EINPROGRESS || status == -ETIMEDOUT;
    if (status == -EINPROGRESS)
        command_fail("process %d is not left yet: %s", (int)t->pid, e.text);
    else if (!is_no_news(status))
        command_fail("the hooks stay in process %d, and count nothing: %s", (int)t->pid, e.text);
}

static void take_line(void *arg, const ctl_msg_t *m) {
    answer_t *a = arg;
    if (m->type == CTL_LINE && a->count < ANSWER_LINES_MAX) a->lines[a->count++] = m->line;
    if (m->type == CTL_PIN && a->pin_count < ANSWER_PINS_MAX) a->pins[a->pin_count++] = m->pin;
}

int agent_talk_answer(agent_talk_t *t, const ctl_msg_t *question, answer_t *answer,
                      uint32_t timeout_ms, err_t *e) {
    memset(answer, 0, sizeof *answer);
    return agent_talk_work(t, question, -1, take_line, answer, timeout_ms, &answer->result, e);
}

int agent_talk_once(pid_t pid, const ctl_msg_t *question, answer_t *answer, err_t *e) {
    char agent[4096];
    agent_talk_t t;
    int status = agent_file_find(agent, sizeof agent, e);
    if (status) return status;
    interrupt_defer();
    status = agent_talk_open(&t, pid, agent, question->free.timeout_ms, e);
    if (status) return status;
    status = agent_talk_answer(&t, question, answer, question->free.timeout_ms + WORK_MS, e);
    agent_talk_close(&t);
    return interrupt_signal() ? err_set(e, -EINTR, "interrupted") : status;
}
