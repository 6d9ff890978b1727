#define _GNU_SOURCE
#include "agent/capture.h"

#include "agent/alloc/alloc.h"
#include "agent/child.h"
#include "agent/facts.h"
#include "agent/gil.h"
#include "agent/heap/heap.h"
#include "agent/ledger/ledger.h"
#include "agent/ledger/ledger_write.h"
#include "agent/resources/resources.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/pages.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { COLLECTING_WAIT_MS = 2, COLLECTING_WAITS = 250, REAP_WAIT_MS_MAX = 20 };

/* Shared with the child: its only way to say anything but the recording itself. */
typedef struct outcome {
    uint32_t done;     /* 1: `result` is whole */
    uint64_t pause_us; /* the parent writes it, once the program runs on */
    ctl_result_t result;
} outcome_t;

/* All that a capture needs beyond the request; mapped, since the agent's stack is small. */
typedef struct work {
    const capture_t *c;
    int fd;
    outcome_t *outcome;
    facts_t facts;
    int64_t held_us;     /* when the program stopped */
    int64_t deadline_us; /* of a walk in place */
    err_t error;
    uint32_t self;      /* the program's PID, for its child */
    uint64_t agent_tid; /* of the thread that captures, where it is the agent's own; else 0 */
    ledger_t ledger;
    resources_t resources;
    pages_t pages, own_pages; /* of the program; of its child, where there is one */
} work_t;

static bool ask_stop(const capture_t *c, int wait_ms) {
    if (c->stop) return c->stop(c->arg, wait_ms);
    struct timespec t = {0, wait_ms * 1000000l};
    if (wait_ms) nanosleep(&t, NULL);
    return false;
}

static int fail(ctl_result_t *r, int status, const err_t *e) {
    r->status = status;
    memcpy(r->text, e->text, sizeof r->text);
    return status;
}
_Static_assert(sizeof(((ctl_result_t *)0)->text) == sizeof(err_t), "an error's line fits a result");

/* ── Writing, in the child or in place ── */

static void write_meta(const work_t *work, rec_writer_t *w, bool in_place, uint64_t pause_us) {
    const rt_t *rt = work->c->rt;
    char python[16];
    facts_write(&work->facts, w);
    snprintf(python, sizeof python, "%u.%u.%u", rt->version >> 24, rt->version >> 16 & 255,
             rt->version >> 8 & 255);
    rec_meta(w, "lowtide", LOWTIDE_VERSION);
    rec_meta(w, "python", python);
    rec_meta(w, "build", rt->debug ? "debug" : "release");
    rec_meta(w, "values", work->c->flags & CTL_NO_VALUES ? "none" : "prefix");
    rec_meta(w, "mode", in_place ? "in-place" : "fork");
    if (!in_place) facts_meta_thousandths(w, "pause_ms", pause_us);
    /* What interpreters with a GIL of their own were in the middle of may look torn. */
    gil_t gil;
    err_t e;
    uint32_t others = gil_find(&gil, rt, &e) == 0 ? gil_others(&gil) : 0;
    if (others) facts_meta_number(w, "interpreters_running", others);
}

/* Before the walk, so that it tells of the moment of the fork. A recording without it is worth having, too. */
static void read_ledger(work_t *work, rec_writer_t *w, bool in_place) {
    ledger_t *l = &work->ledger;
    err_t e;
    if (ledger_read_python(l, work->c->rt, &e)) return;
    if (ledger_read_system(l, in_place ? 0 : work->self, &e)) l->count = 0;
    if (l->swap_bytes) facts_meta_number(w, "swap_bytes", l->swap_bytes);
    if (l->huge_bytes) facts_meta_number(w, "huge_page_bytes", l->huge_bytes);
}

/* What was open at a peak is no answer to what the memory was for. */
static void look_at_descriptors(void *arg) {
    work_t *work = arg;
    if (work->c->leave) return;
    /* An agent's own thread may have a table of its own. */
    uint32_t of = work->agent_tid ? work->self : 0;
    resources_read_descriptors(&work->resources, of, work->fd, work->c->peer);
}

static void write_resources(work_t *work, rec_writer_t *w, uint32_t of) {
    if (work->c->leave) return;
    resources_read_threads(&work->resources, work->c->rt, of, work->agent_tid);
    resources_write(&work->resources, w);
    resources_free(&work->resources);
}

/* Which blocks that objects own apart from their own somebody will ask for. One walk at a time. */
static const ledger_t *walked;
static bool may_know(uintptr_t block) {
    return alloc_may_know(block) || ledger_in_mapping(walked, block);
}

/* The child's own pages tell how things stood at the fork, while the program runs on and may let go of a block. Of shared memory, and of
 * what is kept from children (MADV_DONTFORK), a child has no page: what looks untouched there is asked of the program, too. */
static uint64_t untouched(void *arg, uintptr_t begin, uint64_t bytes, bool mapping) {
    enum { PAGE = 1 << PAGES_BITS };
    work_t *work = arg;
    uint64_t end = begin + bytes, none = UINT64_MAX;
    if (mapping) end = (end + PAGE - 1) / PAGE * PAGE;
    if (!mapping && work->own_pages.fd >= 0) none = pages_untouched(&work->own_pages, begin, end);
    uint64_t also = none ? pages_untouched(&work->pages, begin, end) : 0;
    return also < none ? also : none;
}

static int tick_in_place(void *arg, uint64_t objects) {
    const work_t *work = arg;
    (void)objects;
    if (now_us() > work->deadline_us) return -ETIMEDOUT;
    return ask_stop(work->c, 0) ? -ECANCELED : 0;
}

/* One line for the walk's and the writer's failures. */
static int explain(const work_t *work, int status, err_t *e) {
    if (status == -ETIMEDOUT)
        return err_set(e, status,
                       "the heap could not be walked in place in %g s; allow more with --timeout",
                       work->c->timeout_ms / 1000.0);
    if (status == -ECANCELED) return err_set(e, status, "canceled");
    return status;
}

/* The walk and the recording; figures and errors go into r. */
static void record(work_t *work, bool in_place, ctl_result_t *r) {
    const capture_t *c = work->c;
    enum { PAGES_MOST = 1 << 24 }; /* of 64 GiB: a second at worst */
    pages_open(&work->pages, in_place ? 0 : work->self, PAGES_MOST);
    work->own_pages.fd = -1;
    if (!in_place) pages_open(&work->own_pages, 0, PAGES_MOST);
    heap_options_t options = {.values = !(c->flags & CTL_NO_VALUES),
                              .hide_tid = c->join ? (uint64_t)gettid() : 0,
                              .tick = in_place ? tick_in_place : NULL,
                              .tick_arg = work,
                              .known = may_know,
                              .untouched = untouched,
                              .untouched_arg = work,
                              .handle = c->leave ? NULL : resources_handle,
                              .handle_arg = &work->resources};
    heap_stats_t stats = {0};
    rec_writer_t *w;
    err_t e = {{0}};
    int64_t began = now_us();
    r->pause_us = (uint64_t)(began - work->held_us);
    int status = rec_open(&w, work->fd, 0, work->facts.captured_ns, &e);
    if (!status) {
        write_meta(work, w, in_place, r->pause_us);
        if (in_place) look_at_descriptors(work);
        read_ledger(work, w, in_place);
        walked = &work->ledger;
        status = heap_capture(c->rt, &options, w, &stats, &e);
        r->walk_us = (uint64_t)(now_us() - began);
        facts_meta_thousandths(w, "walk_ms", r->walk_us);
        /* Only now is it known how long the program stood still. */
        uint64_t pause_us = in_place ? (uint64_t)(now_us() - work->held_us)
                                     : __atomic_load_n(&work->outcome->pause_us, __ATOMIC_RELAXED);
        if (pause_us) facts_meta_thousandths(w, "pause_ms", pause_us);
        /* Of a walk that the writer stopped the writer knows better why; of one that stopped itself it only knows that
         * something is missing. */
        bool unwritten = rec_status(w) != 0;
        err_t closing = {{0}};
        ledger_write(&work->ledger, w);
        ledger_free(&work->ledger);
        write_resources(work, w, in_place ? 0 : work->self);
        int closed = rec_close(w, stats.reached, stats.skipped, &closing);
        if (closed && (!status || unwritten)) {
            status = closed;
            e = closing;
        }
        if (status) status = explain(work, status, &e);
    }
    pages_close(&work->pages);
    pages_close(&work->own_pages);
    r->mode = in_place ? CTL_MODE_IN_PLACE : CTL_MODE_FORK;
    r->objects = stats.objects;
    r->references = stats.references;
    r->skipped = stats.skipped;
    off_t at = lseek(work->fd, 0, SEEK_CUR);
    r->bytes = at > 0 ? (uint64_t)at : 0;
    if (status) fail(r, status, &e);
}

static void child_main(void *arg) {
    work_t *work = arg;
    outcome_t *o = work->outcome;
    if (work->c->leave) child_leave();
    if (work->c->adopt) work->c->adopt(work->c->arg);
    record(work, false, &o->result);
    __atomic_store_n(&o->done, 1, __ATOMIC_RELEASE);
    child_report_if_orphan(&o->result);
}

/* ── Waiting for the child ── */

static int child_verdict(outcome_t *o, bool stopped, int how, ctl_result_t *out) {
    err_t e;
    if (__atomic_load_n(&o->done, __ATOMIC_ACQUIRE)) {
        uint64_t pause_us = out->pause_us, gil_us = out->gil_us;
        *out = o->result;
        out->pause_us = pause_us;
        out->gil_us = gil_us;
        return out->status;
    }
    if (stopped) return fail(out, err_set(&e, -ECANCELED, "canceled"), &e);
    int signal = WIFSIGNALED(how) ? WTERMSIG(how) : 0;
    if (signal == SIGKILL)
        return fail(out,
                    err_set(&e, -ENOMEM,
                            "the child that wrote the recording was killed (SIGKILL), as "
                            "happens when memory runs out; free some, or raise the limit"),
                    &e);
    return fail(out,
                err_set(&e, -EIO,
                        "the child that wrote the recording crashed (SIG%s); please report it",
                        signal ? sigabbrev_np(signal) : "?"),
                &e);
}

static int reap(const capture_t *c, outcome_t *o, pid_t child, ctl_result_t *out) {
    bool stopped = false;
    int how = 0;
    for (int wait_ms = 1;; wait_ms = wait_ms < REAP_WAIT_MS_MAX ? wait_ms * 2 : wait_ms) {
        /* __WALL: the exit signal is 0. Somebody who waits for all kinds of children may have been first (ECHILD). */
        pid_t got = waitpid(child, &how, __WALL | (stopped ? 0 : WNOHANG));
        if (got == child || (got < 0 && errno != EINTR)) break;
        if (!stopped && ask_stop(c, wait_ms)) {
            stopped = true;
            kill(child, SIGKILL);
        }
    }
    return child_verdict(o, stopped, how, out);
}

/* It left its work to a child of its own: reaped at once. */
static int leave(pid_t child, ctl_result_t *out) {
    int how = 0;
    err_t e;
    while (waitpid(child, &how, __WALL) < 0 && errno == EINTR) {
    }
    return how == 0 ? 0 : fail(out, err_set(&e, -EAGAIN, "the system refused to fork"), &e);
}

/* ── Standing still ── */

/* With the program standing still: proven, and not in the middle of a collection that called a finalizer, when objects hang
 * on lists that nobody can find. */
static int hold(const capture_t *c, err_t *e) {
    for (int i = 0;; i++) {
        int status = c->hold ? c->hold(c->arg, e) : 0;
        if (status) return status;
        status = rt_ready(c->rt, e);
        bool proven = c->rt->proven;
        if (!status && !proven) status = rt_prove(c->rt, e);
        if (status) {
            if (c->let_go) c->let_go(c->arg);
            return status;
        }
        bool collecting = false;
        for (rt_addr_t interp = rt_interp_first(c->rt); interp;
             interp = rt_interp_next(c->rt, interp))
            collecting |= rt_gc_collecting(c->rt, interp);
        /* A proof takes some milliseconds: let the program run before the pause that counts. */
        if (!c->let_go || (proven && (!collecting || i >= COLLECTING_WAITS))) return 0;
        c->let_go(c->arg);
        if (collecting && ask_stop(c, COLLECTING_WAIT_MS))
            return err_set(e, -ECANCELED, "canceled");
    }
}

static int walk_in_place(work_t *work, const err_t *why, ctl_result_t *out) {
    const capture_t *c = work->c;
    uint64_t gil_us = out->gil_us;
    if (c->join) {
        c->join(c->arg);
        err_t e;
        int status = rt_ready(c->rt, &e);
        if (status) return fail(out, status, &e);
        work->held_us = now_us();
    }
    work->deadline_us = c->timeout_ms ? work->held_us + c->timeout_ms * 1000ll : INT64_MAX;
    record(work, true, out);
    out->gil_us = gil_us;
    out->pause_us = (uint64_t)(now_us() - work->held_us);
    if (!out->status)
        snprintf(out->text, sizeof out->text,
                 "%.300s; walked in place, the program stood still for %.1f s", why->text,
                 (double)out->pause_us / 1e6);
    return out->status;
}

/* Why the heap is to be walked in place, or 0. */
static int fork_unwanted(const capture_t *c, err_t *e) {
    if (c->flags & CTL_IN_PLACE) return err_set(e, -ENOTSUP, "fork was not wanted");
    if (rt_arenas_huge(c->rt))
        return err_set(e, -ENOTSUP,
                       "a forked child could run out of huge pages, which hold this "
                       "program's objects (PYTHON_PYMALLOC_HUGEPAGES)");
    return 0;
}

static int capture_held(work_t *work, ctl_result_t *out, pid_t *child) {
    const capture_t *c = work->c;
    facts_gather(&work->facts, c->pid);
    int status = c->fetch ? c->fetch(c->arg, &work->fd, &work->error) : 0;
    if (status) return fail(out, status, &work->error);
    status = fork_unwanted(c, &work->error);
    if (!status) {
        *child = child_start(look_at_descriptors, child_main, work, work->fd, c->peer);
        if (*child >= 0) {
            out->mode = CTL_MODE_FORK;
            return 0;
        }
        status = err_sys(&work->error, (int)*child, "the system refused to fork");
    }
    *child = 0;
    if (c->flags & CTL_NO_IN_PLACE || c->leave) return fail(out, status, &work->error);
    return walk_in_place(work, &work->error, out);
}

int capture_run(const capture_t *c, ctl_result_t *out) {
    err_t e = {{0}};
    *out = (ctl_result_t){0};
    work_t *work = mem_map(sizeof *work);
    outcome_t *outcome =
        mmap(NULL, sizeof *outcome, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status = 0;
    pid_t child = 0;
    if (!work || outcome == MAP_FAILED)
        status =
            fail(out, err_set(&e, -ENOMEM, "the process has no memory left to capture with"), &e);
    if (!status) {
        work->c = c;
        work->outcome = outcome;
        work->self = (uint32_t)getpid();
        work->agent_tid = c->hold ? (uint64_t)gettid() : 0;
        /* Asks the loader, which a child must not. */
        status = ledger_prepare(&work->ledger, c->rt, &e);
        int64_t began = now_us();
        if (!status) status = hold(c, &e);
        work->held_us = now_us();
        out->gil_us = (uint64_t)(work->held_us - began);
        if (status) fail(out, status, &e);
    }
    if (!status) {
        work->fd = c->fd;
        status = capture_held(work, out, &child);
        if (work->fd >= 0) close(work->fd);
        if (c->let_go) c->let_go(c->arg);
        if (child) {
            out->pause_us = (uint64_t)(now_us() - work->held_us);
            __atomic_store_n(&outcome->pause_us, out->pause_us, __ATOMIC_RELAXED);
            status = c->leave ? leave(child, out) : reap(c, outcome, child, out);
        }
    } else if (c->fd >= 0) {
        close(c->fd);
    }
    if (outcome != MAP_FAILED) munmap(outcome, sizeof *outcome);
    if (work) mem_unmap(work, sizeof *work);
    return status;
}
