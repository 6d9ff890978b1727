#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "bind/limit_calls.h"

#include "agent/limit/limit_watch.h"
#include "base/limit_size.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char WATCH[] = "lowtide.watch", RESERVE[] = "lowtide.reserve";
enum { PEAK_EVERY_US = 2000, SLEEP_S_MAX = 1000000000 };

typedef struct reserve {
    void *at;
    size_t bytes;
} reserve_t;

static void find_places(gauge_places_t *places) {
    gauge_find(places, "/proc", "/sys/fs/cgroup");
}

static void drop_watch(PyObject *capsule) {
    free(PyCapsule_GetPointer(capsule, WATCH));
}

static limit_watch_t *watch_of(PyObject *capsule) {
    return PyCapsule_GetPointer(capsule, WATCH);
}

static PyObject *state_of(const limit_state_t *s) {
    return Py_BuildValue("siKKKKK", gauge_name(s->source), s->stalled, s->used_bytes, s->hard_bytes,
                         s->wanted_bytes, s->light_bytes, s->over_bytes);
}

PyObject *core_limit_parse(PyObject *module, PyObject *args) {
    const char *text;
    gauge_places_t places;
    uint64_t bytes;
    err_t e;
    (void)module;
    if (!PyArg_ParseTuple(args, "s:limit_parse", &text)) return NULL;
    find_places(&places);
    uint64_t total = gauge_total(&places);
    if (limit_size_parse(text, total, &bytes, &e)) {
        PyErr_SetString(PyExc_ValueError, e.text);
        return NULL;
    }
    return Py_BuildValue("KK", bytes, total);
}

PyObject *core_limit_open(PyObject *module, PyObject *args) {
    unsigned long long bytes;
    double share;
    gauge_places_t places;
    (void)module;
    if (!PyArg_ParseTuple(args, "Kd:limit_open", &bytes, &share)) return NULL;
    limit_watch_t *w = malloc(sizeof *w);
    if (!w) return PyErr_NoMemory();
    find_places(&places);
    limit_watch_open(w, &places, bytes, share);
    PyObject *capsule = PyCapsule_New(w, WATCH, drop_watch);
    if (!capsule) free(w);
    return capsule;
}

PyObject *core_limit_wait(PyObject *module, PyObject *args) {
    PyObject *capsule;
    limit_watch_t *w;
    int near;
    limit_state_t state;
    (void)module;
    if (!PyArg_ParseTuple(args, "Op:limit_wait", &capsule, &near)) return NULL;
    if (!(w = watch_of(capsule))) return NULL;
    Py_INCREF(capsule); /* for as long as we are in there */
    PyThreadState *saved = PyEval_SaveThread();
    enum limit_level level = limit_watch_wait(w, near ? LIMIT_NEAR : LIMIT_PRESSURE, &state);
    PyEval_RestoreThread(saved);
    Py_DECREF(capsule);
    if (level == LIMIT_STOPPED) Py_RETURN_NONE;
    return level == LIMIT_SPARE ? PyTuple_New(0) : state_of(&state);
}

PyObject *core_limit_acted(PyObject *module, PyObject *args) {
    PyObject *capsule;
    limit_watch_t *w;
    const char *source;
    int stalled, light;
    long long took;
    unsigned long long used, hard, wanted, asked, over;
    (void)module;
    if (!PyArg_ParseTuple(args, "O(siKKKKK)Lp:limit_acted", &capsule, &source, &stalled, &used,
                          &hard, &wanted, &asked, &over, &took, &light))
        return NULL;
    if (!(w = watch_of(capsule))) return NULL;
    limit_state_t before = {.used_bytes = used, .hard_bytes = hard};
    while (before.source < GAUGES - 1 && strcmp(gauge_name(before.source), source) != 0)
        before.source++;
    return PyLong_FromUnsignedLongLong(limit_watch_acted(w, &before, took, light));
}

PyObject *core_limit_read(PyObject *module, PyObject *args) {
    PyObject *capsule;
    limit_watch_t *w;
    limit_state_t state;
    (void)module;
    if (!PyArg_ParseTuple(args, "O:limit_read", &capsule) || !(w = watch_of(capsule))) return NULL;
    limit_watch_read(w, &state);
    return state_of(&state);
}

PyObject *core_limit_stop(PyObject *module, PyObject *args) {
    PyObject *capsule;
    limit_watch_t *w;
    (void)module;
    if (!PyArg_ParseTuple(args, "O:limit_stop", &capsule) || !(w = watch_of(capsule))) return NULL;
    limit_watch_stop(w);
    Py_RETURN_NONE;
}

PyObject *core_limit_sleep(PyObject *module, PyObject *args) {
    PyObject *capsule;
    limit_watch_t *w;
    double seconds;
    (void)module;
    if (!PyArg_ParseTuple(args, "Od:limit_sleep", &capsule, &seconds) || !(w = watch_of(capsule)))
        return NULL;
    if (seconds > SLEEP_S_MAX) seconds = SLEEP_S_MAX;
    Py_INCREF(capsule);
    PyThreadState *saved = PyEval_SaveThread();
    bool on = limit_watch_sleep(w, (int64_t)(seconds * 1e9));
    PyEval_RestoreThread(saved);
    Py_DECREF(capsule);
    return PyBool_FromLong(on);
}

PyObject *core_limit_peak(PyObject *module, PyObject *args) {
    PyObject *capsule;
    limit_watch_t *w;
    uint64_t peak = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "O:limit_peak", &capsule) || !(w = watch_of(capsule))) return NULL;
    Py_INCREF(capsule);
    PyThreadState *saved = PyEval_SaveThread();
    do {
        uint64_t rss = gauge_rss(&w->places);
        if (rss > peak) peak = rss;
    } while (limit_watch_sleep(w, PEAK_EVERY_US * 1000ll));
    PyEval_RestoreThread(saved);
    Py_DECREF(capsule);
    return PyLong_FromUnsignedLongLong(peak);
}

/* The default hook takes nothing but what the interpreter itself makes for it. */
PyObject *core_report(PyObject *module, PyObject *args) {
    PyObject *error, *place;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO:report", &error, &place)) return NULL;
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    PyErr_WriteUnraisable(place);
    Py_RETURN_NONE;
}

static void drop_reserve(PyObject *capsule) {
    reserve_t *r = PyCapsule_GetPointer(capsule, RESERVE);
    munmap(r->at, r->bytes);
    free(r);
}

/* Touched, so that it counts against every limit until it is let go. */
PyObject *core_reserve(PyObject *module, PyObject *args) {
    Py_ssize_t bytes;
    (void)module;
    if (!PyArg_ParseTuple(args, "n:reserve", &bytes)) return NULL;
    reserve_t *r = malloc(sizeof *r);
    if (!r) return PyErr_NoMemory();
    r->bytes = (size_t)bytes;
    r->at = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_NORESERVE, -1, 0);
    if (r->at == MAP_FAILED) {
        free(r);
        return PyErr_NoMemory();
    }
    madvise(r->at, r->bytes, MADV_DONTFORK); /* no child shall pay for it */
    PyObject *capsule = PyCapsule_New(r, RESERVE, drop_reserve);
    if (!capsule) munmap(r->at, r->bytes), free(r);
    return capsule;
}
