#include "agent/gil.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

/* A GIL, and a thread of a program that holds it, as far as gil_take looks at them. */
typedef struct interp {
    int32_t eval_breaker, drop_request, calls_to_do, async_exc;
} interp_t;

typedef struct thread_state {
    interp_t *interp;
    uintptr_t breaker;
} thread_state_t;

typedef struct world {
    int32_t locked;
    int64_t interval;
    thread_state_t *last_holder;
    unsigned long switches;
    pthread_cond_t cond, switch_cond;
    pthread_mutex_t mutex, switch_mutex;
    bool
        per_thread; /* where the request is: of the thread (3.13 and later), or of the interpreter */
    interp_t interp;
    thread_state_t thread;
    int32_t signals;
    layout_t layout;
    rt_t rt;
    gil_t gil;
} world_t;

static layout_t layout_of(bool per_thread) {
    layout_t l = {
        .gil_locked = offsetof(world_t, locked),
        .gil_interval = offsetof(world_t, interval),
        .gil_last_holder = offsetof(world_t, last_holder),
        .gil_switch_number = offsetof(world_t, switches),
        .gil_cond = offsetof(world_t, cond),
        .gil_switch_cond = offsetof(world_t, switch_cond),
        .gil_mutex = offsetof(world_t, mutex),
        .gil_switch_mutex = offsetof(world_t, switch_mutex),
        .thread_interp = offsetof(thread_state_t, interp),
        .thread_eval_breaker =
            per_thread ? (int32_t)offsetof(thread_state_t, breaker) : LAYOUT_ABSENT,
        .interp_eval_breaker = offsetof(interp_t, eval_breaker),
        .interp_gil_drop_request = offsetof(interp_t, drop_request),
        .interp_calls_to_do = offsetof(interp_t, calls_to_do),
        .interp_async_exc = offsetof(interp_t, async_exc),
        .interp_gc_scheduled = LAYOUT_ABSENT,
        .runtime_signals_pending = offsetof(world_t, signals),
        .runtime_main_calls_to_do = LAYOUT_ABSENT,
    };
    return l;
}

static bool asked(const world_t *w) {
    if (w->per_thread) return __atomic_load_n(&w->thread.breaker, __ATOMIC_SEQ_CST) & 1;
    return __atomic_load_n(&w->interp.drop_request, __ATOMIC_SEQ_CST) &&
           __atomic_load_n(&w->interp.eval_breaker, __ATOMIC_SEQ_CST);
}

static void world_begin(world_t *w, bool per_thread) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    *w = (world_t){.locked = 1, .interval = 5000, .per_thread = per_thread};
    w->layout = layout_of(per_thread);
    w->rt = (rt_t){.layout = &w->layout, .runtime = (rt_addr_t)w};
    w->gil = (gil_t){.rt = &w->rt, .at = (rt_addr_t)w};
    w->thread.interp = &w->interp;
    w->last_holder = &w->thread;
    pthread_cond_init(&w->cond, &monotonic);
    pthread_cond_init(&w->switch_cond, &monotonic);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_mutex_init(&w->switch_mutex, NULL);
}

/* Lets go of the GIL all the time, and has it again before anybody could look. When asked, it waits for a successor. */
static void *flicker(void *arg) {
    world_t *w = arg;
    while (!asked(w)) {
        pthread_mutex_lock(&w->mutex);
        pthread_cond_signal(&w->cond);
        pthread_mutex_unlock(&w->mutex);
        nanosleep(&(struct timespec){0, 100000}, NULL);
    }
    pthread_mutex_lock(&w->mutex);
    __atomic_store_n(&w->locked, 0, __ATOMIC_SEQ_CST);
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
    pthread_mutex_lock(&w->switch_mutex);
    while (w->last_holder == &w->thread) pthread_cond_wait(&w->switch_cond, &w->switch_mutex);
    pthread_mutex_unlock(&w->switch_mutex);
    return NULL;
}

static void take_from_flicker(bool per_thread) {
    world_t w;
    pthread_t holder;
    err_t e;
    world_begin(&w, per_thread);
    assert_int_equal(pthread_create(&holder, NULL, flicker, &w), 0);
    assert_int_equal(gil_take(&w.gil, 120000, NULL, NULL, &e), 0);
    pthread_join(holder, NULL);
    assert_int_equal(w.locked, 1);
    assert_ptr_not_equal(w.last_holder, &w.thread);
    gil_release(&w.gil);
    assert_int_equal(w.locked, 0);
    assert_null(w.last_holder);
}

static void a_holder_that_lets_go_for_moments_only_is_asked_too(void **state) {
    (void)state;
    take_from_flicker(true);
    take_from_flicker(false);
}

static bool stop_when_asked(void *arg) {
    return asked(arg);
}

static void who_gives_up_withdraws_the_request(void **state) {
    (void)state;
    for (int per_thread = 0; per_thread < 2; per_thread++) {
        world_t w;
        err_t e;
        world_begin(&w, per_thread);
        assert_int_equal(gil_take(&w.gil, 120000, stop_when_asked, &w, &e), -ECANCELED);
        assert_false(asked(&w));
        assert_int_equal(gil_take(&w.gil, 50, NULL, NULL, &e), -ETIMEDOUT);
        assert_false(asked(&w));
        assert_int_equal(w.interp.eval_breaker, 0);
        assert_ptr_equal(w.last_holder, &w.thread);
    }
}

static bool end_python(void *arg) {
    world_t *w = arg;
    pthread_mutex_lock(&w->mutex);
    __atomic_store_n(&w->locked, -1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&w->mutex);
    w->last_holder = (thread_state_t *)16; /* freed: nobody may write there */
    return false;
}

static void nobody_waits_for_a_python_that_has_ended(void **state) {
    (void)state;
    for (int per_thread = 0; per_thread < 2; per_thread++) {
        world_t w;
        err_t e;
        world_begin(&w, per_thread);
        assert_int_equal(gil_take(&w.gil, 120000, end_python, &w, &e), -ESRCH);
        assert_string_equal(e.text, "Python has ended in this process");
        assert_int_equal(gil_take(&w.gil, 120000, NULL, NULL, &e), -ESRCH);
        assert_false(w.gil.held);
        assert_int_equal(w.locked, -1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_holder_that_lets_go_for_moments_only_is_asked_too),
        cmocka_unit_test(who_gives_up_withdraws_the_request),
        cmocka_unit_test(nobody_waits_for_a_python_that_has_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
