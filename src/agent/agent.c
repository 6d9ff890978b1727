#define _GNU_SOURCE
#include "agent/agent.h"

#include "agent/capture.h"
#include "agent/gil.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SEND_WAIT_MS = 1000, PROGRESS_EVERY_MS = 250 };

/* One talk with a command line. */
typedef struct talk {
    int sock, out;
    int ended;     /* not 0: leave after this request */
    bool canceled; /* this request */
    uint32_t timeout_ms;
    int64_t told_ms; /* last PROGRESS */
    gil_t gil;
    bool
        joined; /* for a walk in place: a thread of Python's, with ensured from PyGILState_Ensure */
    int ensured;
} talk_t;

static rt_t runtime;
/* The socket, for the children that the program forks meanwhile. */
static int served = -1;

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
}

static void tell(talk_t *t, const ctl_msg_t *m) {
    err_t e;
    int status = ctl_send(t->sock, m, -1, SEND_WAIT_MS, &e);
    if (status) t->ended = status;
}

static void tell_progress(talk_t *t, uint32_t phase) {
    /* The child writes through the same open file, so its place in it is ours to see. */
    off_t at = phase == CTL_PHASE_WALK ? lseek(t->out, 0, SEEK_CUR) : 0;
    ctl_msg_t m = {.type = CTL_PROGRESS,
                   .progress = {.phase = phase, .bytes = at > 0 ? (uint64_t)at : 0}};
    t->told_ms = now_ms();
    tell(t, &m);
}

/* Whatever the other side says or does during a capture means that it does not want it any more. */
static bool wants_stop(talk_t *t, int wait_ms) {
    struct pollfd p = {.fd = t->sock, .events = POLLIN};
    if (t->ended || t->canceled) return true;
    if (poll(&p, 1, wait_ms) <= 0) return false;
    ctl_msg_t m;
    int fd;
    err_t e;
    int status = ctl_recv(t->sock, &m, &fd, 0, &e);
    if (status == -ETIMEDOUT || status == -EINTR) return false;
    if (fd >= 0) close(fd);
    if (status)
        t->ended = status;
    else if (m.type != CTL_CANCEL)
        t->ended = -EPIPE;
    return t->canceled = true;
}

static bool stop_waiting(void *arg) {
    return wants_stop(arg, 0);
}

static int hold(void *arg, err_t *e) {
    talk_t *t = arg;
    tell_progress(t, CTL_PHASE_GIL);
    int status = gil_take(&t->gil, t->timeout_ms, stop_waiting, t, e);
    if (status || !t->canceled) return status;
    gil_release(&t->gil);
    return err_set(e, -ECANCELED, "canceled");
}

static void let_go(void *arg) {
    talk_t *t = arg;
    if (t->joined)
        runtime.PyGILState_Release(t->ensured);
    else
        gil_release(&t->gil);
    t->joined = false;
}

static void join(void *arg) {
    talk_t *t = arg;
    gil_release(&t->gil);
    t->ensured = runtime.PyGILState_Ensure();
    t->joined = true;
}

static void adopt(void *arg) {
    gil_adopt(&((talk_t *)arg)->gil);
}

static bool stop_walking(void *arg, int wait_ms) {
    talk_t *t = arg;
    if (now_ms() - t->told_ms > PROGRESS_EVERY_MS) tell_progress(t, CTL_PHASE_WALK);
    return wants_stop(t, wait_ms);
}

static void serve_capture(talk_t *t, const ctl_capture_t *request) {
    err_t e = {{0}};
    ctl_msg_t m = {.type = CTL_RESULT};
    int status = runtime.layout ? 0 : rt_find(&runtime, &e);
    runtime.no_thread = true;
    if (!status) status = gil_find(&t->gil, &runtime, &e);
    if (status) {
        m.result.status = status;
        memcpy(m.result.text, e.text, sizeof m.result.text);
    } else {
        t->timeout_ms = request->timeout_ms;
        t->canceled = false;
        capture_t c = {.rt = &runtime,
                       .fd = t->out,
                       .peer = t->sock,
                       .flags = request->flags,
                       .pid = request->pid,
                       .hold = hold,
                       .let_go = let_go,
                       .adopt = adopt,
                       .join = join,
                       .timeout_ms = request->timeout_ms,
                       .stop = stop_walking,
                       .arg = t};
        capture_run(&c, &m.result);
    }
    tell(t, &m);
}

static void serve(talk_t *t) {
    while (!t->ended) {
        ctl_msg_t m;
        err_t e;
        int status = ctl_recv(t->sock, &m, &t->out, -1, &e);
        if (status == -EINTR) continue;
        if (status) {
            t->ended = status;
        } else if (m.type == CTL_CAPTURE) {
            serve_capture(t, &m.capture);
            close(t->out);
        } else if (m.type != CTL_CANCEL) { /* a CANCEL that crossed our RESULT is nothing */
            t->ended = m.type == CTL_BYE ? -ESHUTDOWN : -EPROTO;
        }
    }
}

/* A child that the program forks while we are here would keep our socket for its whole life. */
static void forget_socket(void) {
    int fd = __atomic_exchange_n(&served, -1, __ATOMIC_SEQ_CST);
    if (fd >= 0) close(fd);
}

int agent_start(int fd) {
    static bool registered;
    talk_t t = {.sock = fd, .out = -1};
    ctl_msg_t hello = {.type = CTL_HELLO,
                       .hello = {.pid = (uint32_t)getpid(), .what = CTL_ATTACHED}};
    /* Unloading the library takes the handler away. */
    if (!registered) registered = pthread_atfork(NULL, NULL, forget_socket) == 0;
    __atomic_store_n(&served, fd, __ATOMIC_SEQ_CST);
    tell(&t, &hello);
    serve(&t);
    __atomic_store_n(&served, -1, __ATOMIC_SEQ_CST);
    rt_close(&runtime);
    memset(&runtime, 0, sizeof runtime);
    return t.ended == -ESHUTDOWN || t.ended == -EPIPE ? 0 : t.ended;
}
