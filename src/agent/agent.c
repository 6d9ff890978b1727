#define _GNU_SOURCE
#include "agent/agent.h"

#include "agent/alloc/alloc.h"
#include "agent/call.h"
#include "agent/capture.h"
#include "agent/gil.h"
#include "agent/give.h"
#include "agent/inherited.h"
#include "agent/peak.h"
#include "base/clock.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PROFILE_GIL_MS = 30000, LEAVE_GIL_MS = 10000, QUIET_MS = 5000 };
enum {
    STOP_GIL_MS = 5000,
    STOP_GIL_AGAIN_MS = 100,
    FINISH_GIL_MS = 60000,
    FINISH_EVERY_US = 100000,
    FINISH_EVERY_US_MOST = 1000000
};
enum { SEND_WAIT_MS = 1000, PROGRESS_EVERY_MS = 250 };
enum { OTHER_TRIES = 20, OTHER_FINISHES_TRIES = 300, OTHER_EVERY_MS = 100 };

/* One talk with a command line. */
typedef struct talk {
    int sock;
    ctl_msg_t request;
    bool fetched;  /* the request was taken from the socket */
    int ended;     /* not 0: leave after this request */
    bool canceled; /* this request */
    bool profiled; /* the hooks are in */
    bool missed;   /* the last wait for the GIL was in vain */
    uint32_t timeout_ms;
    int64_t told_ms; /* last PROGRESS */
    gil_t gil;
    /* For a walk in place: a thread of Python's, with ensured from PyGILState_Ensure. */
    bool joined;
    int ensured;
} talk_t;

static rt_t runtime;
static bool follow; /* what the program forks */
/* Nobody's thread serves here: we were forked, or had to leave while hooks of ours stayed. A younger agent takes them out. */
static _Atomic bool orphaned;
static _Atomic bool watching;
/* Nobody waits for us any more, but we are not done: first the GIL has to come, then the last thread out of the hooks. */
static _Atomic bool finishing, hooks_out;

static void tell(talk_t *t, const ctl_msg_t *m) {
    err_t e;
    int status = ctl_send(t->sock, m, -1, SEND_WAIT_MS, &e);
    if (status) t->ended = status;
}

static void tell_progress(talk_t *t, uint32_t phase) {
    ctl_msg_t m = {.type = CTL_PROGRESS, .progress = {.phase = phase}};
    t->told_ms = now_ms();
    tell(t, &m);
}

/* Whatever the other side says or does during a capture means that it does not want it any more. */
static bool wants_stop(talk_t *t, int wait_ms) {
    struct pollfd p = {.fd = t->sock, .events = POLLIN};
    if (t->ended || t->canceled) return true;
    if (poll(&p, 1, wait_ms) <= 0) return false;
    ctl_msg_t m;
    err_t e;
    int status = ctl_peek(t->sock, &m, 0, &e);
    if (status == -ETIMEDOUT || status == -EINTR) return false;
    ctl_drop(t->sock);
    if (status)
        t->ended = status;
    else if (m.type != CTL_CANCEL)
        t->ended = -EPIPE;
    return t->canceled = true;
}

/* The request still waits in the socket, with its descriptor. */
static bool stop_waiting(void *arg) {
    talk_t *t = arg;
    return t->canceled = t->canceled || t->ended || ctl_more(t->sock, &t->request);
}

static int hold(void *arg, err_t *e) {
    talk_t *t = arg;
    tell_progress(t, CTL_PHASE_GIL);
    int status = gil_take(&t->gil, t->timeout_ms, stop_waiting, t, e);
    if (status || !t->canceled) return status;
    gil_release(&t->gil);
    return err_set(e, -ECANCELED, "canceled");
}

static int fetch(void *arg, int *fd, err_t *e) {
    talk_t *t = arg;
    ctl_msg_t m;
    int status = ctl_recv(t->sock, &m, fd, 0, e);
    if (status) return t->ended = status;
    t->fetched = true;
    return 0;
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

static bool stop_capture(void *arg, int wait_ms) {
    talk_t *t = arg;
    if (!t->fetched) {
        usleep((useconds_t)wait_ms * 1000);
        return stop_waiting(t);
    }
    if (now_ms() - t->told_ms > PROGRESS_EVERY_MS) tell_progress(t, CTL_PHASE_WALK);
    return wants_stop(t, wait_ms);
}

static bool is_missed(int status) {
    return status == -ETIMEDOUT || status == -ECANCELED;
}

static void serve_capture(talk_t *t) {
    err_t e = {{0}};
    ctl_msg_t m = {.type = CTL_RESULT};
    int status = runtime.layout ? 0 : rt_find(&runtime, &e);
    runtime.no_thread = true;
    peak_close(); /* one capture at a time */
    t->timeout_ms = t->request.capture.timeout_ms;
    t->canceled = t->fetched = false;
    if (!status) status = gil_find(&t->gil, &runtime, &e);
    if (status) {
        m.result.status = status;
        memcpy(m.result.text, e.text, sizeof m.result.text);
    } else {
        capture_t c = {.rt = &runtime,
                       .fd = -1,
                       .fetch = fetch,
                       .peer = t->sock,
                       .flags = t->request.capture.flags,
                       .pid = t->request.capture.pid,
                       .hold = hold,
                       .let_go = let_go,
                       .adopt = adopt,
                       .join = join,
                       .timeout_ms = t->timeout_ms,
                       .stop = stop_capture,
                       .arg = t};
        capture_run(&c, &m.result);
    }
    if (!t->fetched) ctl_drop(t->sock);
    t->missed = is_missed(m.result.status);
    if (!t->ended) tell(t, &m);
}

/* ── The allocation profile ── */

static int dial_at_peak(void) {
    return call_dial(CTL_PROGRAM_PEAKS);
}

static void tell_status(talk_t *t, int status, const err_t *e) {
    ctl_msg_t m = {.type = CTL_RESULT, .result = {.status = status}};
    if (status) memcpy(m.result.text, e->text, sizeof m.result.text);
    if (!t->ended) tell(t, &m);
}

static int profile_start(talk_t *t, const ctl_profile_t *p, int *region, err_t *e) {
    alloc_options_t o = {.mode = p->mode ? p->mode : REGION_SAMPLED,
                         .interval_bytes = p->interval_bytes,
                         .native = p->flags & CTL_PROFILE_NATIVE};
    int status = runtime.layout ? 0 : rt_find(&runtime, e);
    runtime.no_thread = true;
    if (!status) status = gil_find(&t->gil, &runtime, e);
    if (!status) status = gil_take(&t->gil, PROFILE_GIL_MS, NULL, NULL, e);
    if (status) return status;
    status = rt_ready(&runtime, e);
    if (!status && !runtime.proven) status = rt_prove(&runtime, e);
    if (!status && call_set(p->key, strlen(p->key), p->name, strlen(p->name)))
        peak_begin(&runtime, dial_at_peak);
    follow = p->name[0] && p->flags & CTL_PROFILE_CHILDREN;
    if (!status) status = alloc_start(&runtime, &o, region, e);
    gil_release(&t->gil);
    return status;
}

/* Of two that take their hooks out in the wrong order the first would have to stay. What else stays does no harm: ours find less
 * under it, and nothing wrong. */
static int be_alone(talk_t *t, err_t *e) {
    int status = inherited_leave(e);
    for (int i = 0; (i < OTHER_TRIES && status == -EALREADY) ||
                    (i < OTHER_FINISHES_TRIES && status == -EINPROGRESS);
         i++) {
        if (wants_stop(t, OTHER_EVERY_MS))
            break; /* one whose command line is gone leaves by itself */
        status = inherited_leave(e);
    }
    return status == -EALREADY || status == -EINPROGRESS ? status : 0;
}

static void serve_profile(talk_t *t) {
    ctl_msg_t m = {.type = CTL_REGION};
    err_t e = {{0}};
    int region = -1, status = t->profiled ? -EALREADY : 0;
    t->canceled = false;
    if (status) err_set(&e, status, "the process is being profiled already");
    if (!status) watching = true; /* before we look: of two that come together both must not pass */
    if (!status) status = be_alone(t, &e);
    if (!status) status = profile_start(t, &t->request.profile, &region, &e);
    if (status) {
        watching = t->profiled;
        tell_status(t, status, &e);
        return;
    }
    t->profiled = true;
    hooks_out = false;
    snprintf(m.region.python, sizeof m.region.python, "%u.%u.%u", runtime.version >> 24 & 255,
             runtime.version >> 16 & 255, runtime.version >> 8 & 255);
    status = ctl_send(t->sock, &m, region, SEND_WAIT_MS, &e);
    if (status) t->ended = status;
    close(region);
}

/* Hooks that cannot be taken out stay, and so must the code that they call. */
static void stay_loaded(void) {
    Dl_info here;
    if (dladdr(&runtime, &here) && here.dli_fname)
        dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

static int take_out(gil_t *gil, uint32_t timeout_ms, bool (*stop)(void *arg), void *arg, err_t *e) {
    int status = hooks_out ? 0 : gil_take(gil, timeout_ms, stop, arg, e);
    if (status) return status;
    if (!hooks_out) {
        status = alloc_stop(e);
        gil_release(gil);
        if (status) return status;
        peak_close(); /* its thread allocates, too */
        hooks_out = true;
    }
    return alloc_quiet(QUIET_MS, e);
}

static bool wants_no_more(void *arg) {
    return wants_stop(arg, 0);
}

/* Without anybody who waits the hooks need not count. */
static int finishes_later(err_t *e) {
    region_t *region = alloc_region();
    if (region) region->dismissed = 1;
    if (hooks_out)
        return err_set(e, -EINPROGRESS,
                       "a thread is still in a call that was observed (open() of a FIFO, perhaps); "
                       "lowtide's code, which counts nothing any more, leaves by itself within "
                       "seconds of its return");
    return err_set(
        e, -EINPROGRESS,
        "it is in C code that keeps the GIL; the hooks count nothing any more, and leave "
        "by themselves within seconds of its letting go");
}

static int profile_stop(talk_t *t, err_t *e) {
    if (!t->profiled) return 0;
    t->canceled = false;
    int status =
        take_out(&t->gil, t->missed ? STOP_GIL_AGAIN_MS : STOP_GIL_MS, wants_no_more, t, e);
    watching = t->profiled = status != 0;
    return is_missed(status) ? finishes_later(e) : status;
}

/* For as long as it takes: whoever holds the GIL or sits in a hook cannot be hurried. */
static int profile_finish(talk_t *t, err_t *e) {
    int status = 0;
    useconds_t every = FINISH_EVERY_US;
    if (!t->profiled) return 0;
    finishing = true;
    while (is_missed(status = take_out(&t->gil, FINISH_GIL_MS, NULL, NULL, e))) {
        finishes_later(e);
        do {
            usleep(every);
            if (hooks_out && (every *= 2) > FINISH_EVERY_US_MOST) every = FINISH_EVERY_US_MOST;
        } while (hooks_out && alloc_inside()); /* that may be for days */
    }
    watching = t->profiled = status != 0;
    finishing = false;
    return status;
}

__attribute__((visibility("default"))) int agent_leave(char *text, size_t room) {
    gil_t gil;
    err_t e = {{0}};
    int status = 0;
    if (!orphaned && finishing) {
        if (hooks_out) return INHERITED_STAYS;
        status =
            err_set(&e, -EINPROGRESS,
                    "it is in C code that keeps the GIL, and the hooks of an earlier lowtide wait "
                    "for that, too; try again later");
    } else if (!orphaned && watching)
        status = err_set(&e, -EALREADY,
                         "another lowtide watches the process already (attach or top); wait until "
                         "it has ended");
    else if (!orphaned)
        status = err_set(&e, -EAGAIN, "another lowtide is in the process");
    if (!status && !runtime.layout) return 0; /* it has not come to any hooks */
    if (!status) status = gil_find(&gil, &runtime, &e);
    if (!status) status = take_out(&gil, LEAVE_GIL_MS, NULL, NULL, &e);
    if (status) snprintf(text, room, "%s", e.text);
    return status;
}

static void serve_give(talk_t *t) {
    err_t e = {{0}};
    ctl_msg_t m = {.type = CTL_RESULT};
    give_t g = {.sock = t->sock, .rt = &runtime, .gil = &t->gil, .stop = wants_no_more, .arg = t};
    t->canceled = false;
    m.result.status = runtime.layout ? 0 : rt_find(&runtime, &e);
    if (m.result.status)
        memcpy(m.result.text, e.text, sizeof m.result.text);
    else
        give_serve(&g, &t->request, &m.result);
    t->missed = is_missed(m.result.status);
    if (!t->ended) tell(t, &m);
}

static void serve(talk_t *t) {
    while (!t->ended) {
        err_t e;
        int status = ctl_peek(t->sock, &t->request, -1, &e);
        if (status == -EINTR) continue;
        if (status) {
            ctl_drop(t->sock);
            t->ended = status;
        } else if (t->request.type == CTL_CAPTURE) {
            serve_capture(t);
        } else if (t->request.type == CTL_FREE || t->request.type == CTL_RSS) {
            ctl_drop(t->sock);
            serve_give(t);
        } else if (t->request.type == CTL_PROFILE) {
            ctl_drop(t->sock);
            serve_profile(t);
        } else if (t->request.type == CTL_STOP) {
            err_t e;
            ctl_drop(t->sock);
            status = t->profiled ? profile_stop(t, &e) : inherited_leave(&e);
            tell_status(t, status, &e);
        } else {
            ctl_drop(t->sock);
            if (t->request.type != CTL_CANCEL) /* a CANCEL that crossed our RESULT is nothing */
                t->ended = t->request.type == CTL_BYE ? -ESHUTDOWN : -EPROTO;
        }
    }
}

/* What a child of the program does is not its parent's. Our socket it does not have: that is in this thread's own table. */
static void on_fork(void) {
    orphaned = true;
    peak_fork_child();
    call_forked(&runtime, follow);
}

int agent_start(int fd) {
    static bool registered;
    talk_t t = {.sock = fd};
    ctl_msg_t hello = {.type = CTL_HELLO,
                       .hello = {.pid = (uint32_t)getpid(), .what = CTL_ATTACHED}};
    /* Unloading the library takes the handler away, but does not wait for a thread that is in one: so none in the parent. */
    if (!registered) registered = pthread_atfork(NULL, NULL, on_fork) == 0;
    tell(&t, &hello);
    serve(&t);
    err_t e;
    if (profile_finish(&t, &e)) {
        region_t *region = alloc_region();
        if (region) region->dismissed = 1;
        stay_loaded();
        orphaned = true;
    } else {
        rt_close(&runtime);
        memset(&runtime, 0, sizeof runtime);
    }
    return t.ended == -ESHUTDOWN || t.ended == -EPIPE ? 0 : t.ended;
}
