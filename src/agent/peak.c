#define _GNU_SOURCE
#include "agent/peak.h"

#include "agent/alloc/alloc.h"
#include "agent/capture.h"
#include "agent/gil.h"
#include "agent/gone.h"

#include <errno.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Who does not let go of the GIL for so long is not at that peak any more. */
enum {
    ANSWER_MS = 2000,
    ANSWER_STEP_MS = 20,
    GIL_MS = 2000,
    SEND_WAIT_MS = 1000,
    WAIT_US = 1000,
    STACK_BYTES = 256 << 10
};

enum state { IDLE, BUSY, RUNNING };

static struct {
    rt_t *rt;
    int (*dial)(void);
    _Atomic int state; /* RUNNING: there is a thread to join */
    _Atomic bool stop, closed;
    _Atomic bool done;
    pthread_t thread;
    pid_t task; /* its */
    gil_t gil;
} peak;

static bool stopped(void *arg) {
    (void)arg;
    return atomic_load(&peak.stop) || atomic_load(&peak.closed);
}

static int hold(void *arg, err_t *e) {
    (void)arg;
    int status = gil_find(&peak.gil, peak.rt, e);
    return status ? status : gil_take(&peak.gil, GIL_MS, stopped, NULL, e);
}

static void let_go(void *arg) {
    (void)arg;
    gil_release(&peak.gil);
}

static void adopt(void *arg) {
    (void)arg;
    gil_adopt(&peak.gil);
}

static bool wait_and_ask(void *arg, int wait_ms) {
    usleep((useconds_t)wait_ms * 1000);
    return stopped(arg);
}

static void answer(int sock, const ctl_msg_t *request, int out) {
    ctl_msg_t m = {.type = CTL_RESULT};
    err_t e;
    capture_t c = {.rt = peak.rt,
                   .fd = out,
                   .peer = sock,
                   .leave = true,
                   .flags = request->capture.flags,
                   .pid = request->capture.pid,
                   .hold = hold,
                   .let_go = let_go,
                   .adopt = adopt,
                   .stop = wait_and_ask};
    if (capture_run(&c, &m.result)) ctl_send(sock, &m, -1, SEND_WAIT_MS, &e);
}

static void *snapshot(void *unused) {
    (void)unused;
    peak.task = (pid_t)syscall(SYS_gettid);
    prctl(PR_SET_NAME, "lowtide");
    /* A table of descriptors of its own, and empty: no number of it is one that the program counts on. */
    if (syscall(SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE)) unshare(CLONE_FILES);
    int sock = peak.dial(), out = -1, status = -ETIMEDOUT;
    ctl_msg_t m;
    err_t e;
    for (int ms = 0; sock >= 0 && status == -ETIMEDOUT && ms < ANSWER_MS && !stopped(NULL);
         ms += ANSWER_STEP_MS)
        status = ctl_recv(sock, &m, &out, ANSWER_STEP_MS, &e);
    if (status == 0 && m.type == CTL_CAPTURE)
        answer(sock, &m, out);
    else if (out >= 0)
        close(out);
    if (sock >= 0) close(sock);
    atomic_store(&peak.done, true);
    return NULL;
}

/* In an allocation: no malloc (libc's own calls do not go through our hooks), nothing that waits. */
static void begin(void) {
    int was = IDLE;
    if (!atomic_compare_exchange_strong(&peak.state, &was, BUSY)) {
        was = RUNNING;
        if (!atomic_load(&peak.done) || !atomic_compare_exchange_strong(&peak.state, &was, BUSY))
            return;
        pthread_join(peak.thread, NULL); /* it has ended */
    }
    pthread_attr_t how;
    sigset_t all, before;
    atomic_store(&peak.done, false);
    sigfillset(&all);
    pthread_attr_init(&how);
    pthread_attr_setstacksize(&how, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = stopped(NULL) ? 1 : pthread_create(&peak.thread, &how, snapshot, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&how);
    atomic_store(&peak.state, code ? IDLE : RUNNING);
}

void peak_begin(rt_t *rt, int (*dial)(void)) {
    peak.rt = rt;
    peak.dial = dial;
    atomic_store(&peak.closed, false);
    alloc_on_peak(begin);
}

void peak_end(void) {
    int was = RUNNING;
    atomic_store(&peak.stop, true);
    if (atomic_compare_exchange_strong(&peak.state, &was, BUSY)) {
        pthread_join(peak.thread, NULL);
        gone_wait(peak.task);
        atomic_store(&peak.state, IDLE);
    }
    atomic_store(&peak.stop, false);
}

void peak_close(void) {
    atomic_store(&peak.closed, true);
    for (;;) {
        int was = RUNNING;
        if (atomic_compare_exchange_strong(&peak.state, &was, BUSY)) {
            pthread_join(peak.thread, NULL);
            atomic_store(&peak.state, IDLE);
            return;
        }
        if (was == IDLE) return;
        usleep(WAIT_US); /* a thread is in begin */
    }
}

void peak_fork_child(void) {
    atomic_store(&peak.state, IDLE);
    atomic_store(&peak.stop, false);
}
