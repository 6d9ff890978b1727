#define _GNU_SOURCE
#include "cli/run_listen.h"

#include "cli/progress.h"
#include "collect/collect_peak.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    LAST_PEAK_MS = 10000,
    LAST_STEP_MS = 20,
    LAST_CALLS = 1 << 16,
    RETRY_MS = 20,
    SILENT_US = 2000000
};
enum {
    SEND_MS = 2000,
    BACKLOG = 1 << 16 /* as many as the system allows */,
    NAME_BYTES = 16,
    KEY_BYTES = 24
};

static int random_hex(char *out, size_t bytes, err_t *e) {
    unsigned char raw[32];
    if (getrandom(raw, bytes, 0) != (ssize_t)bytes)
        return err_sys(e, -errno, "cannot get random bytes");
    for (size_t i = 0; i < bytes; i++) snprintf(out + 2 * i, 3, "%02x", raw[i]);
    return 0;
}

/* An abstract name is gone when we are, however we end. Anyone may call it: the key tells our program. */
int run_listen_open(run_listen_t *l, record_t *record, err_t *e) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char hex[2 * NAME_BYTES + 1];
    l->sock = -1;
    l->record = record;
    for (size_t i = 0; i < RUN_CALLERS_MOST; i++) l->callers[i].sock = -1;
    int status = random_hex(l->key, KEY_BYTES, e);
    if (!status) status = random_hex(hex, NAME_BYTES, e);
    if (status) return status;
    snprintf(l->name, sizeof l->name, "lowtide-%s", hex);
    size_t n = strlen(l->name);
    memcpy(address.sun_path + 1, l->name, n);
    l->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->sock >= 0 &&
        bind(l->sock, (struct sockaddr *)&address,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)) == 0 &&
        listen(l->sock, BACKLOG) == 0)
        return 0;
    status = err_sys(e, -errno, "cannot make a socket for the program to report to");
    run_listen_close(l);
    return status;
}

static void hang_up(run_listen_t *l, run_caller_t *c) {
    if (c->peaks) peak_done(&l->record->collect, c->pid, NULL);
    c->peaks = false;
    close(c->sock);
    c->sock = -1;
}

static bool somebody_writes(const run_listen_t *l) {
    for (size_t i = 0; i < RUN_CALLERS_MOST; i++)
        if (l->callers[i].sock >= 0 && l->callers[i].peaks) return true;
    return false;
}

void run_listen_last(run_listen_t *l) {
    for (int i = 0; i < LAST_CALLS && run_listen_wait(l, -1, 0); i++) {
    }
    /* The child that writes the heap of a program which was killed at its peak is alive. */
    for (int ms = 0; somebody_writes(l) && ms < LAST_PEAK_MS; ms += LAST_STEP_MS)
        run_listen_wait(l, -1, LAST_STEP_MS);
}

void run_listen_close(run_listen_t *l) {
    for (size_t i = 0; i < RUN_CALLERS_MOST; i++)
        if (l->callers[i].sock >= 0) hang_up(l, &l->callers[i]);
    if (l->sock >= 0) close(l->sock);
    l->sock = -1;
}

void run_listen_environment(const run_listen_t *l, const char *agent, char *variable, size_t room) {
    snprintf(variable, room, "%s:%s:%u.%u.%" PRIu64 ":%s", l->key, l->name, l->profile.mode,
             l->profile.flags, l->profile.interval_bytes, agent);
}

/* ── What callers say ── */

static void program_begins(run_listen_t *l, run_caller_t *c) {
    if (l->began && c->hello.pid != l->program) return; /* another Python beside or after it */
    c->main = true;
    l->began = true;
    l->program = c->hello.pid;
    if (!l->ended) return;
    /* Its exit functions came to an exec: the end is what it became will have. */
    l->ended = l->captured = l->record->heap = false;
    if (ftruncate(l->record->fd, 0) || lseek(l->record->fd, 0, SEEK_SET)) l->ended = true;
}

static void read_heap(run_listen_t *l, const run_caller_t *c) {
    ctl_msg_t m = {.type = CTL_CAPTURE, .capture = {.flags = l->flags}};
    err_t e;
    int fd;
    progress_begin("the program has ended; reading its heap");
    l->record->gpu_count = gpu_rows(c->pid, l->record->gpus);
    int status = ctl_send(c->sock, &m, l->record->fd, SEND_MS, &e);
    l->ended = !status; /* who did not wait for us may at its next call */
    /* The program holds on until its heap is written, so there is no need to hurry it. */
    while (!status) {
        int wait_ms = collect_tick(&l->record->collect);
        status = ctl_recv(c->sock, &m, &fd, wait_ms, &e);
        if (status == -EINTR || status == -ETIMEDOUT)
            status = 0;
        else if (!status && m.type == CTL_RESULT)
            break;
    }
    progress_end();
    l->captured = l->record->heap = !status && !m.result.status;
    if (l->captured) l->record->collect.heap_pid = c->pid;
    if (!status) l->result = m.result;
    if (!l->captured)
        snprintf(l->refused, sizeof l->refused, "%s", status ? e.text : m.result.text);
}

/* Before its exit functions, or behind them: the heap is the first one's. */
static void program_ends(run_listen_t *l, const run_caller_t *c) {
    bool capture = l->began && !l->ended && c->hello.pid == l->program;
    if (capture) collect_samples(&l->record->collect, c->pid);
    if (c->hello.what == CTL_PROGRAM_EXITS)
        collect_keep_live(&l->record->collect, c->pid);
    else
        collect_freeze(&l->record->collect, c->pid);
    if (capture) read_heap(l, c);
}

/* It is answered by a RESULT, or by nothing when its process dies. */
static void program_peaks(run_listen_t *l, run_caller_t *c) {
    ctl_msg_t m = {.type = CTL_CAPTURE, .capture = {.flags = l->flags, .pid = (uint32_t)c->pid}};
    err_t e;
    for (size_t i = 0; i < RUN_CALLERS_MOST; i++) /* overtaken */
        if (l->callers[i].peaks && l->callers[i].pid == c->pid) hang_up(l, &l->callers[i]);
    int fd = record_scratch(l->record);
    c->peaks = peak_begin(&l->record->collect, c->pid, fd);
    if (!c->peaks && fd >= 0) close(fd);
    if (c->peaks && ctl_send(c->sock, &m, fd, 0, &e)) hang_up(l, c);
}

/* A child that called and will have no profile. */
static void refuse(run_listen_t *l, const run_caller_t *c, const char *why) {
    char line[600];
    snprintf(line, sizeof line, "process %d: %s", (int)c->pid, why);
    collect_refused(&l->record->collect, line);
}

/* The first RESULT tells of the heap, the next of the profile. */
static void hear_result(run_listen_t *l, run_caller_t *c, const ctl_result_t *r) {
    char *say = c->heard == 1 ? l->refused : l->unprofiled;
    if (c->peaks) {
        peak_done(&l->record->collect, c->pid, r);
        c->peaks = false;
        return;
    }
    if (c->hello.what == CTL_PROGRAM_FORKED && r->status < 0) refuse(l, c, r->text);
    if (c->main && r->status < 0) snprintf(say, sizeof l->refused, "%s", r->text);
    if (c->heard == 1 && !r->status && c->hello.what == CTL_PROGRAM_BEGINS)
        collect_add(&l->record->collect, c->pid, 0, COLLECT_EXECED, -1, "", NULL);
}

static void hear_region(run_listen_t *l, run_caller_t *c, const ctl_region_t *r, int fd) {
    bool forked = c->hello.what == CTL_PROGRAM_FORKED;
    const collect_process_t *p = forked ? collect_find(&l->record->collect, c->pid) : NULL;
    err_t e;
    if (p && p->mode && p->how == COLLECT_ATTACHED) return; /* that was quicker */
    int status = collect_add(&l->record->collect, c->pid, forked ? (pid_t)r->parent : 0,
                             forked ? COLLECT_FORKED : COLLECT_EXECED, fd, r->python, &e);
    if (status >= 0) collect_peer(&l->record->collect, status, c->sock);
    if (status < 0 && c->main) snprintf(l->unprofiled, sizeof l->unprofiled, "%s", e.text);
    if (status == -E2BIG)
        collect_refused(&l->record->collect, e.text);
    else if (status < 0 && !c->main)
        refuse(l, c, e.text);
}

static void hear_before(run_listen_t *l, const run_caller_t *c);

static void answer(run_listen_t *l, run_caller_t *c) {
    ctl_msg_t m;
    err_t e;
    int fd = -1, status = ctl_recv(c->sock, &m, &fd, 0, &e);
    if (status == -ETIMEDOUT || status == -EINTR) return;
    if (status) {
        if (status != -EPIPE && c->said && !c->main) refuse(l, c, e.text);
        if (status != -EPIPE && c->said && c->main)
            snprintf(l->unprofiled, sizeof l->unprofiled, "%s", e.text);
        hang_up(l, c);
        return;
    }
    if (!c->said) {
        c->said = m.type == CTL_HELLO && strcmp(m.hello.key, l->key) == 0;
        c->hello = m.hello;
        bool ends = m.hello.what == CTL_PROGRAM_EXITS || m.hello.what == CTL_PROGRAM_ENDS;
        if (c->said && ends) hear_before(l, c);
        if (c->said && m.hello.what == CTL_PROGRAM_BEGINS) program_begins(l, c);
        if (c->said && ends) program_ends(l, c);
        if (c->said && m.hello.what == CTL_PROGRAM_PEAKS) program_peaks(l, c);
        bool over = ends || (m.hello.what == CTL_PROGRAM_PEAKS && !c->peaks);
        if (c->sock >= 0 && (!c->said || over)) hang_up(l, c);
    } else {
        c->heard++;
        if (m.type == CTL_RESULT) hear_result(l, c, &m.result);
        if (m.type == CTL_REGION) hear_region(l, c, &m.region, fd);
    }
    if (fd >= 0) close(fd);
}

/* What the same process said on another line came first: its region, before it ends. We may have heard of both at once. */
static void hear_before(run_listen_t *l, const run_caller_t *c) {
    for (size_t i = 0; i < RUN_CALLERS_MOST; i++) {
        run_caller_t *other = &l->callers[i];
        struct pollfd line = {.fd = other->sock, .events = POLLIN};
        while (other != c && other->sock >= 0 && other->pid == c->pid && poll(&line, 1, 0) > 0)
            answer(l, other);
    }
}

/* ── Callers ── */

/* A place for another one, or NULL; who has held the line for long without a word has to go. */
static run_caller_t *place(run_listen_t *l) {
    run_caller_t *oldest = l->callers;
    for (size_t i = 0; i < RUN_CALLERS_MOST; i++) {
        if (l->callers[i].sock < 0) return &l->callers[i];
        if (l->callers[i].since_us < oldest->since_us) oldest = &l->callers[i];
    }
    if (collect_now_us(&l->record->collect) - oldest->since_us < SILENT_US) return NULL;
    hang_up(l, oldest);
    return oldest;
}

/* Whether there may be another one. Those for whom there is no place or descriptor wait. */
static bool accept_caller(run_listen_t *l) {
    struct ucred who;
    socklen_t n = sizeof who;
    run_caller_t *c = place(l);
    int sock = c ? accept4(l->sock, NULL, NULL, SOCK_CLOEXEC) : -1;
    l->full = !c || (sock < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM));
    if (sock < 0) return false;
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &who, &n)) {
        close(sock);
        return true;
    }
    *c = (run_caller_t){
        .sock = sock, .pid = who.pid, .since_us = collect_now_us(&l->record->collect)};
    return true;
}

bool run_listen_wait(run_listen_t *l, int also, int timeout_ms) {
    struct pollfd fds[RUN_CALLERS_MOST + 2];
    run_caller_t *callers[RUN_CALLERS_MOST + 2];
    for (size_t i = 0; i < RUN_CALLERS_MOST; i++)
        if (l->callers[i].peaks && peak_dear(&l->record->collect, l->callers[i].pid))
            hang_up(l, &l->callers[i]);
    if (l->full && timeout_ms > RETRY_MS) timeout_ms = RETRY_MS;
    fds[0] = (struct pollfd){.fd = l->full ? -1 : l->sock, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = also, .events = POLLIN};
    nfds_t count = 2; /* more than this process may have descriptors would be an error */
    for (size_t i = 0; i < RUN_CALLERS_MOST; i++) {
        if (l->callers[i].sock < 0) continue;
        callers[count] = &l->callers[i];
        fds[count++] = (struct pollfd){.fd = l->callers[i].sock, .events = POLLIN};
    }
    bool heard = poll(fds, count, timeout_ms) > 0;
    for (nfds_t i = 2; heard && i < count; i++)
        if (fds[i].revents && callers[i]->sock == fds[i].fd) answer(l, callers[i]);
    if (l->full || (heard && fds[0].revents)) {
        while (accept_caller(l)) heard = true;
    }
    return heard;
}
