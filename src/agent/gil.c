#define _GNU_SOURCE
#include "agent/gil.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

/* Bounds for how long one wait lasts, whatever sys.setswitchinterval says. */
enum { WAIT_US_MIN = 500, WAIT_US_MAX = 5000, INTERPRETERS_MAX = 10000 };
/* Who has not let go for so long is not hurried by being asked more often. */
enum { LONG_US = 5000000, LONG_WAIT_US = 50000 };
enum { DROP_REQUEST_BIT = 1, GILSTATE_WORDS_MAX = 256 };

/* What last_holder points to while the agent holds the GIL. */
static char nobody[16384] __attribute__((aligned(64)));

static pthread_mutex_t *mutex_of(const gil_t *g, int32_t field) {
    return (pthread_mutex_t *)(g->at + (rt_addr_t)field);
}

static pthread_cond_t *cond_of(const gil_t *g, int32_t field) {
    return (pthread_cond_t *)(g->at + (rt_addr_t)field);
}

static int32_t load_i32(rt_addr_t base, int32_t field) {
    return __atomic_load_n((int32_t *)(base + (rt_addr_t)field), __ATOMIC_SEQ_CST);
}

static void store_i32(rt_addr_t base, int32_t field, int32_t v) {
    __atomic_store_n((int32_t *)(base + (rt_addr_t)field), v, __ATOMIC_SEQ_CST);
}

static bool locked(const gil_t *g) {
    return load_i32(g->at, g->rt->layout->gil_locked) != 0;
}

/* By Py_FinalizeEx: mutexes and thread states are gone. */
static bool ended(const gil_t *g) {
    return load_i32(g->at, g->rt->layout->gil_locked) < 0;
}

/* ── Finding it ── */

static int peek_ptr(rt_addr_t base, int32_t field, rt_addr_t *out) {
    return rt_peek(base + (rt_addr_t)field, out, sizeof *out);
}

/* A plain mutex in use: its lock word is 0, 1 or 2 and its kind is the default one. */
static bool mutex_looks_right(const pthread_mutex_t *m) {
    return (unsigned)m->__data.__lock <= 2 && m->__data.__kind == 0;
}

static int gil_check(const gil_t *g, err_t *e) {
    const layout_t *l = g->rt->layout;
    unsigned char copy[512];
    if (l->gil_size <= 0 || (size_t)l->gil_size > sizeof copy)
        return err_set(e, -EBADMSG, "the layout table of %s has no GIL", g->rt->version_text);
    if (rt_peek(g->at, copy, (size_t)l->gil_size))
        return err_set(e, -EBADMSG, "%s: the GIL is not where the layout table says",
                       g->rt->version_text);
    const rt_addr_t at = (rt_addr_t)copy;
    int32_t lock = rt_i32(at, l->gil_locked);
    int64_t interval = rt_i64(at, l->gil_interval);
    pthread_mutex_t a, b;
    memcpy(&a, copy + l->gil_mutex, sizeof a);
    memcpy(&b, copy + l->gil_switch_mutex, sizeof b);
    if (lock == -1) return err_set(e, -EAGAIN, "Python is not running in this process yet");
    if ((lock != 0 && lock != 1) || interval < 0 || interval > INT64_MAX / 2 ||
        !mutex_looks_right(&a) || !mutex_looks_right(&b))
        return err_set(e, -EBADMSG,
                       "%s: what the layout table calls the GIL is none; this build of "
                       "Python is not known",
                       g->rt->version_text);
    return 0;
}

int gil_find(gil_t *g, const rt_t *rt, err_t *e) {
    const layout_t *l = rt->layout;
    rt_addr_t main_interp = (rt_addr_t)rt->PyInterpreterState_Main(), seen = 0;
    *g = (gil_t){.rt = rt};
    if (!main_interp) return err_set(e, -EAGAIN, "Python is not running in this process yet");
    if (peek_ptr(rt->runtime, l->runtime_interpreters_main, &seen) || seen != main_interp)
        return err_set(e, -EBADMSG,
                       "%s: the main interpreter is not where the layout table says; this build of "
                       "Python is not known",
                       rt->version_text);
    if (rt_has(l->runtime_gil)) {
        g->at = rt->runtime + (rt_addr_t)l->runtime_gil;
    } else if (peek_ptr(main_interp, l->interp_gil, &g->at) || g->at < main_interp ||
               g->at >= main_interp + (rt_addr_t)l->interp_size) {
        /* The main interpreter's GIL is a member of it. */
        return err_set(e, -EBADMSG, "%s: the GIL is not where the layout table says",
                       rt->version_text);
    }
    if (rt_has(l->thread_eval_breaker) && (size_t)l->thread_size > sizeof nobody)
        return err_set(e, -EBADMSG, "%s: a thread state is larger than expected", rt->version_text);
    return gil_check(g, e);
}

/* ── Asking the holder to let go ── */

/* Up to 3.12 the request is a flag of the interpreter, and eval_breaker sums up all that may interrupt. Recomputed as
 * COMPUTE_EVAL_BREAKER does, but cleared first, so that what another thread sets meanwhile is not lost. */
static void breaker_recompute(const rt_t *rt, rt_addr_t interp) {
    const layout_t *l = rt->layout;
    store_i32(interp, l->interp_eval_breaker, 0);
    int32_t any = load_i32(interp, l->interp_gil_drop_request) |
                  load_i32(interp, l->interp_calls_to_do) | load_i32(interp, l->interp_async_exc) |
                  load_i32(rt->runtime, l->runtime_signals_pending);
    if (rt_has(l->interp_gc_scheduled)) any |= load_i32(interp, l->interp_gc_scheduled);
    if (rt_has(l->runtime_main_calls_to_do))
        any |= load_i32(rt->runtime, l->runtime_main_calls_to_do);
    if (any) store_i32(interp, l->interp_eval_breaker, 1);
}

/* The mutex is locked and the GIL is held by somebody, so the last holder is that one and alive. */
static void request_set(const gil_t *g, bool wanted) {
    const layout_t *l = g->rt->layout;
    rt_addr_t holder = rt_ptr(g->at, l->gil_last_holder);
    if (!holder) return;
    if (rt_has(l->thread_eval_breaker)) {
        uintptr_t *bits = (uintptr_t *)(holder + (rt_addr_t)l->thread_eval_breaker);
        if (wanted)
            __atomic_or_fetch(bits, (uintptr_t)DROP_REQUEST_BIT, __ATOMIC_SEQ_CST);
        else
            __atomic_and_fetch(bits, ~(uintptr_t)DROP_REQUEST_BIT, __ATOMIC_SEQ_CST);
        return;
    }
    rt_addr_t interp = rt_ptr(holder, l->thread_interp);
    if (!interp) return; /* another agent's stand-in */
    store_i32(interp, l->interp_gil_drop_request, wanted);
    if (wanted)
        store_i32(interp, l->interp_eval_breaker, 1);
    else
        breaker_recompute(g->rt, interp);
}

/* ── Taking and releasing ── */

static void take_locked(gil_t *g) {
    const layout_t *l = g->rt->layout;
    pthread_mutex_t *switch_mutex = mutex_of(g, l->gil_switch_mutex);
    /* drop_gil looks at last_holder under this mutex to know whether somebody took over. */
    pthread_mutex_lock(switch_mutex);
    store_i32(g->at, l->gil_locked, 1);
    __atomic_store_n((char **)(g->at + (rt_addr_t)l->gil_last_holder), nobody, __ATOMIC_SEQ_CST);
    ++*(unsigned long *)(g->at + (rt_addr_t)l->gil_switch_number);
    pthread_cond_signal(cond_of(g, l->gil_switch_cond));
    pthread_mutex_unlock(switch_mutex);
    g->held = true;
}

/* CPython makes its conditions with CLOCK_MONOTONIC. */
static void wait_locked(const gil_t *g, int64_t until_us) {
    struct timespec t = {until_us / 1000000, until_us % 1000000 * 1000};
    pthread_cond_timedwait(cond_of(g, g->rt->layout->gil_cond),
                           mutex_of(g, g->rt->layout->gil_mutex), &t);
}

int gil_take(gil_t *g, uint32_t timeout_ms, bool (*stop)(void *arg), void *arg, err_t *e) {
    const layout_t *l = g->rt->layout;
    pthread_mutex_t *mutex = mutex_of(g, l->gil_mutex);
    int64_t interval = rt_i64(g->at, l->gil_interval);
    if (interval < WAIT_US_MIN) interval = WAIT_US_MIN;
    if (interval > WAIT_US_MAX) interval = WAIT_US_MAX;
    const int64_t began = now_us(), deadline = began + timeout_ms * 1000ll;
    int64_t ask_at = began + interval;
    int status = -EINPROGRESS;
    for (bool stopped = false; status == -EINPROGRESS; stopped = stop && stop(arg)) {
        pthread_mutex_lock(mutex);
        if (locked(g) && !ended(g) && !stopped) wait_locked(g, ask_at);
        if (ended(g)) {
            status = err_set(e, -ESRCH, "Python has ended in this process");
        } else if (!locked(g)) {
            take_locked(g);
            status = 0;
        } else if (stopped || now_us() >= deadline) {
            request_set(g, false);
            status = stopped
                         ? err_set(e, -ECANCELED, "canceled")
                         : err_set(e, -ETIMEDOUT,
                                   "the process did not let go of the GIL in %g s: it is in C code "
                                   "that keeps it; try again later, or wait longer with --timeout",
                                   timeout_ms / 1000.0);
        } else if (now_us() >= ask_at) {
            request_set(g, true);
            ask_at = now_us() + (now_us() - began > LONG_US ? LONG_WAIT_US : interval);
        }
        pthread_mutex_unlock(mutex);
    }
    return status;
}

void gil_release(gil_t *g) {
    const layout_t *l = g->rt->layout;
    pthread_mutex_t *mutex = mutex_of(g, l->gil_mutex);
    if (!g->held) return;
    g->held = false;
    pthread_mutex_lock(mutex);
    /* Not the holder before us: its thread may not have looked yet whether somebody took over, and would wait for ever. */
    __atomic_store_n((char **)(g->at + (rt_addr_t)l->gil_last_holder), NULL, __ATOMIC_SEQ_CST);
    store_i32(g->at, l->gil_locked, 0);
    pthread_cond_signal(cond_of(g, l->gil_cond));
    pthread_mutex_unlock(mutex);
}

/* From 3.12 on a thread state knows whether it is the one that PyGILState has for its thread, and debug builds hold it to that.
 * Unbound, it is bound anew to whoever takes it. */
static void unbind_thread(const rt_t *rt, rt_addr_t thread) {
    uint32_t bit = (uint32_t)rt->layout->thread_bound_gilstate & 0xffffff;
    if (!rt_has(rt->layout->thread_bound_gilstate)) return;
    *(unsigned char *)(thread + bit / 8) &= (unsigned char)~(1u << bit % 8);
}

/* In 3.11 PyGILState looks up whose state is whose by itself, and the debug hooks of Python's allocators abort where it is not ours. It
 * can be told not to check (_PyRuntime.gilstate: check_enabled, tstate_current, autoInterpreterState). In our copy alone. */
static void forget_thread(const gil_t *g, rt_addr_t thread) {
    if (!rt_has(g->rt->layout->runtime_gil)) return;
    const rt_addr_t interp = (rt_addr_t)g->rt->PyInterpreterState_Main();
    rt_addr_t words[GILSTATE_WORDS_MAX];
    rt_addr_t from = (g->at + (rt_addr_t)g->rt->layout->gil_size) & ~(rt_addr_t)7;
    if (rt_peek(from, words, sizeof words)) return;
    for (int i = 1; i + 1 < GILSTATE_WORDS_MAX; i++)
        if (words[i] == thread && words[i + 1] == interp && (uint32_t)words[i - 1] == 1)
            *(int *)(from + (rt_addr_t)(i - 1) * sizeof *words) = 0;
}

void gil_adopt(gil_t *g) {
    const layout_t *l = g->rt->layout;
    rt_thread_t thread;
    rt_thread_first(g->rt, (rt_addr_t)g->rt->PyInterpreterState_Main(), &thread);
    while (thread.address && !thread.is_main) rt_thread_next(g->rt, &thread);
    if (!thread.address)
        rt_thread_first(g->rt, (rt_addr_t)g->rt->PyInterpreterState_Main(), &thread);
    /* The locks are as some thread of the parent happened to have them, and that thread is not here. */
    pthread_mutex_init(mutex_of(g, l->gil_mutex), NULL);
    pthread_mutex_init(mutex_of(g, l->gil_switch_mutex), NULL);
    pthread_cond_init(cond_of(g, l->gil_cond), NULL);
    pthread_cond_init(cond_of(g, l->gil_switch_cond), NULL);
    __atomic_store_n((char **)(g->at + (rt_addr_t)l->gil_last_holder), NULL, __ATOMIC_SEQ_CST);
    store_i32(g->at, l->gil_locked, 0);
    g->held = false;
    if (!thread.address) return;
    unbind_thread(g->rt, thread.address);
    g->rt->PyEval_RestoreThread((void *)thread.address);
    forget_thread(g, thread.address);
}

uint32_t gil_others(const gil_t *g) {
    const layout_t *l = g->rt->layout;
    uint32_t n = 0;
    if (!rt_has(l->interp_gil)) return 0;
    rt_addr_t interp = rt_interp_first(g->rt);
    for (int i = 0; interp && i < INTERPRETERS_MAX; i++, interp = rt_interp_next(g->rt, interp)) {
        rt_addr_t own;
        n += peek_ptr(interp, l->interp_gil, &own) == 0 && own != g->at;
    }
    return n;
}
