/* The process watches itself: alloc's hooks write the region, and a thread of ours, which never takes the GIL, is the recorder. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "bind/profile_calls.h"

#include "agent/alloc/alloc.h"
#include "collect/collect.h"
#include "format/rec_table.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { QUIET_MS = 10000 };

static rt_t runtime;
static struct recorder {
    bool on, stopping;
    pid_t pid; /* a forked child has no recorder */
    atomic_uint forked;
    pthread_t thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    collect_t collect;
} recorder = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void *record(void *unused) {
    (void)unused;
    pthread_mutex_lock(&recorder.lock);
    while (!recorder.stopping) {
        int wait_ms = collect_tick(&recorder.collect);
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
        until.tv_sec += wait_ms / 1000 + until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&recorder.changed, &recorder.lock, &until);
    }
    pthread_mutex_unlock(&recorder.lock);
    return NULL;
}

/* The thread is gone there, and what the hooks count would be its parent's. */
static void forget_in_child(void) {
    err_t e;
    if (!recorder.on) return;
    alloc_fork_child(NULL, &e);
    recorder.on = false;
}

static void count_in_parent(void) {
    if (recorder.on) atomic_fetch_add(&recorder.forked, 1);
}

/* Programs that are started by vfork and exec are not heard of, and mostly no Pythons: only an audit hook would tell, which never goes. */
static void say_forked(void) {
    unsigned n = atomic_load(&recorder.forked);
    char line[200];
    if (!n) return;
    snprintf(
        line, sizeof line,
        "%u process%s that this one forked: lowtide.start() watches its own process alone; use "
        "`lowtide run` or `lowtide attach`",
        n, n == 1 ? "" : "es");
    collect_refused(&recorder.collect, line);
}

static int start_thread(void) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&recorder.thread, NULL, record, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -code;
}

/* The mark of an agent that `lowtide run` or `attach` brought in, where there is one. */
typedef bool mark_fn(const char *text);
static mark_fn *agents_mark(void) {
    void *found = dlsym(RTLD_DEFAULT, "lowtide_mark");
    mark_fn *mark;
    memcpy(&mark, &found, sizeof mark);
    return mark;
}

static PyObject *fail(const err_t *e) {
    PyErr_SetString(PyExc_RuntimeError, e->text);
    return NULL;
}

static int start(const alloc_options_t *options, err_t *e) {
    static bool registered;
    int region = -1;
    int status = runtime.layout ? 0 : rt_find(&runtime, e);
    if (!status) status = rt_prove(&runtime, e);
    if (!status) status = collect_begin(&recorder.collect, e);
    if (status) return status;
    if (!registered && (errno = pthread_atfork(NULL, count_in_parent, forget_in_child)) == 0)
        registered = true;
    status = alloc_start(&runtime, options, &region, e);
    if (!status) {
        int number = collect_add(&recorder.collect, getpid(), 0, COLLECT_STARTED, region,
                                 runtime.version_text, e);
        close(region);
        status = number < 0 ? number : 0;
        recorder.stopping = false;
        atomic_store(&recorder.forked, 0);
        if (!status && (status = start_thread()))
            err_set(e, status, "cannot start a thread for the profile: %s", strerror(-status));
        err_t ignored;
        if (status) alloc_stop(&ignored);
    }
    if (status) collect_end(&recorder.collect);
    return status;
}

PyObject *core_profile_start(PyObject *module, PyObject *args) {
    int exact, native;
    unsigned long long interval;
    err_t e;
    (void)module;
    if (!PyArg_ParseTuple(args, "pKp:profile_start", &exact, &interval, &native)) return NULL;
    mark_fn *agent = agents_mark();
    if (recorder.on || (agent && agent(NULL))) {
        PyErr_SetString(PyExc_RuntimeError, recorder.on
                                                ? "a profile is being taken already: stop() ends it"
                                                : "lowtide run is taking a profile already");
        return NULL;
    }
    alloc_options_t options = {.mode = exact ? REGION_EXACT : REGION_SAMPLED,
                               .interval_bytes = interval,
                               .native = native};
    if (start(&options, &e)) return fail(&e);
    recorder.on = true;
    recorder.pid = getpid();
    Py_RETURN_NONE;
}

static int write_profile(int fd, bool heap, err_t *e) {
    rec_writer_t *w;
    uint64_t now_ns = recorder.collect.began_ns;
    int status = heap ? rec_append(&w, fd, e) : rec_open(&w, fd, 0, now_ns, e);
    if (status) return status;
    say_forked();
    collect_write(&recorder.collect, w, heap);
    return rec_close(w, 0, 0, e);
}

PyObject *core_profile_stop(PyObject *module, PyObject *args) {
    int fd, heap;
    err_t e;
    (void)module;
    if (!PyArg_ParseTuple(args, "ip:profile_stop", &fd, &heap)) return NULL;
    if (!recorder.on) {
        PyErr_SetString(PyExc_RuntimeError, "no profile is being taken: start() begins one");
        return NULL;
    }
    pthread_mutex_lock(&recorder.lock);
    if (heap) collect_samples(&recorder.collect, getpid());
    pthread_mutex_unlock(&recorder.lock);
    if (alloc_stop(&e)) return fail(&e);
    recorder.on = false;
    PyThreadState *saved = PyEval_SaveThread();
    alloc_quiet(QUIET_MS, &e);
    pthread_mutex_lock(&recorder.lock);
    recorder.stopping = true;
    pthread_cond_signal(&recorder.changed);
    pthread_mutex_unlock(&recorder.lock);
    pthread_join(recorder.thread, NULL);
    collect_drain(&recorder.collect);
    int status = fd < 0 ? 0 : write_profile(fd, heap, &e);
    collect_end(&recorder.collect);
    PyEval_RestoreThread(saved);
    if (!status) Py_RETURN_NONE;
    PyObject *why = Py_BuildValue("is", -status, e.text);
    if (why) PyErr_SetObject(PyExc_OSError, why);
    Py_XDECREF(why);
    return NULL;
}

PyObject *core_profile_mark(PyObject *module, PyObject *args) {
    const char *text;
    mark_fn *agent = agents_mark();
    (void)module;
    if (!PyArg_ParseTuple(args, "s:mark", &text)) return NULL;
    if (agent) agent(text);
    if (recorder.on) alloc_mark(text);
    Py_RETURN_NONE;
}
