/* get_or_compute: one thread computes a key, others that ask for it meanwhile wait for that one. */
#include "keep/keep_cache.h"
#include <pythread.h>
#include <unistd.h>

typedef struct keep_flight {
    PyObject_HEAD PyThread_type_lock lock; /* held while it is computed */
    unsigned long thread;                  /* that computes */
    pid_t pid;                             /* its process: in a forked child it is not there */
    PyObject *value,
        *error; /* one of them when it is done; neither: whoever computed was interrupted */
} keep_flight_t;

/* Who waits for what: on the stacks of the threads that wait, guarded by the GIL. */
typedef struct waiter {
    unsigned long thread;
    keep_flight_t *flight;
    struct waiter *next;
} waiter_t;

static waiter_t *waiters;
static pid_t waiters_pid; /* a forked child has none of its parent's threads */

static void flight_dealloc(PyObject *self) {
    keep_flight_t *flight = (keep_flight_t *)self;
    if (flight->lock) PyThread_free_lock(flight->lock);
    Py_XDECREF(flight->value);
    Py_XDECREF(flight->error);
    PyObject_Free(self);
}

PyTypeObject keep_flight_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "lowtide._keep.Flight",
    .tp_basicsize = sizeof(keep_flight_t),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = flight_dealloc,
};

static keep_flight_t *flight_start(void) {
    keep_flight_t *flight = PyObject_New(keep_flight_t, &keep_flight_type);
    if (!flight) return NULL;
    flight->value = flight->error = NULL;
    flight->thread = PyThread_get_thread_ident();
    flight->pid = getpid();
    flight->lock = PyThread_allocate_lock();
    if (!flight->lock) {
        Py_DECREF(flight);
        PyErr_NoMemory();
        return NULL;
    }
    PyThread_acquire_lock(flight->lock, WAIT_LOCK);
    return flight;
}

/* Whether whoever computes this waits, over however many others, for the thread that asks. */
static bool waits_for_me(keep_flight_t *flight) {
    if (waiters_pid != flight->pid) {
        waiters = NULL;
        waiters_pid = flight->pid;
    }
    const unsigned long me = PyThread_get_thread_ident();
    while (flight->thread != me) {
        waiter_t *waiter = waiters;
        while (waiter && waiter->thread != flight->thread) waiter = waiter->next;
        if (!waiter) return false;
        flight = waiter->flight;
    }
    return true;
}

static int flight_wait(keep_flight_t *flight) {
    waiter_t here = {PyThread_get_thread_ident(), flight, waiters};
    waiters = &here;
    int failed = 0;
    PyLockStatus status;
    do {
        Py_BEGIN_ALLOW_THREADS status = PyThread_acquire_lock_timed(flight->lock, -1, 1);
        Py_END_ALLOW_THREADS if (status == PY_LOCK_INTR) failed = Py_MakePendingCalls();
    } while (status == PY_LOCK_INTR && !failed);
    if (status == PY_LOCK_ACQUIRED) PyThread_release_lock(flight->lock);
    waiter_t **link = &waiters;
    while (*link != &here) link = &(*link)->next;
    *link = here.next;
    return failed;
}

/* A coroutine is good for one await: kept, it would fail the second time. */
static PyObject *compute(keep_cache_t *cache, PyObject *key, PyObject *f) {
    PyObject *value = PyObject_CallNoArgs(f);
    if (value && PyCoro_CheckExact(value)) {
        Py_DECREF(value);
        PyErr_SetString(
            PyExc_TypeError,
            "f gave a coroutine: pass the async function itself, or functools.partial of it");
        return NULL;
    }
    if (value && keep_cache_insert(cache, key, value) < 0) Py_CLEAR(value);
    return value;
}

static bool holds(PyObject *flights, const keep_flight_t *flight) {
    PyObject *found;
    for (Py_ssize_t at = 0; PyDict_Next(flights, &at, NULL, &found);)
        if (found == (const PyObject *)flight) return true;
    return false;
}

/* Where the key's __hash__ or __eq__ raises by now (it may be a KeyError), or says something else, all go: better
 * computed twice than found for ever. */
static void take_out(keep_cache_t *cache, PyObject *key, const keep_flight_t *flight) {
    PyObject *flights = Py_XNewRef(cache->flights);
    if (flights && PyDict_DelItem(flights, key) < 0) PyErr_Clear();
    if (flights && holds(flights, flight)) PyDict_Clear(flights);
    Py_XDECREF(flights);
}

static PyObject *fly(keep_cache_t *cache, keep_flight_t *flight, PyObject *key, PyObject *f) {
    PyObject *value = keep_cache_peek(cache, key); /* the one before may have ended just now */
    if (!value && !PyErr_Occurred()) value = compute(cache, key, f);
    PyObject *error = value ? NULL : keep_error_take();
    flight->value = Py_XNewRef(value);
    if (error && PyObject_TypeCheck(error, (PyTypeObject *)PyExc_Exception))
        flight->error = Py_NewRef(error);
    take_out(cache, key, flight);
    PyThread_release_lock(flight->lock);
    if (error) keep_error_give(error);
    return value;
}

static PyObject *compute_once(keep_cache_t *cache, PyObject *key, PyObject *f) {
    for (;;) {
        if (!cache->flights && !(cache->flights = PyDict_New())) return NULL;
        keep_flight_t *mine = flight_start();
        if (!mine) return NULL;
        PyObject *flights = Py_NewRef(cache->flights);
        PyObject *found = Py_XNewRef(PyDict_SetDefault(flights, key, (PyObject *)mine));
        Py_DECREF(flights);
        if (found == (PyObject *)mine) {
            PyObject *value = fly(cache, mine, key, f);
            Py_DECREF(found);
            Py_DECREF(mine);
            return value;
        }
        PyThread_release_lock(mine->lock);
        Py_DECREF(mine);
        if (!found) return NULL;
        keep_flight_t *flight = (keep_flight_t *)found;
        if (flight->pid != getpid()) {
            take_out(cache, key, flight);
            Py_DECREF(found);
            continue;
        }
        PyObject *value = NULL;
        bool is_done = true;
        if (waits_for_me(flight))
            value = compute(cache, key, f);
        else if (flight_wait(flight) == 0) {
            value = Py_XNewRef(flight->value);
            if (flight->error) PyErr_SetObject((PyObject *)Py_TYPE(flight->error), flight->error);
            is_done = value || flight->error;
        }
        Py_DECREF(found);
        if (is_done) return value;
    }
}

/* -> 1 an async function, 0 not, -1 with an exception */
static int is_async(PyObject *f) {
    static PyObject *ask;
    if (PyMethod_Check(f)) f = PyMethod_GET_FUNCTION(f);
    if (PyFunction_Check(f))
        return (((PyCodeObject *)PyFunction_GET_CODE(f))->co_flags & CO_COROUTINE) != 0;
    if (PyCFunction_Check(f) || PyType_Check(f)) return 0;
    if (!ask) {
        PyObject *inspect = PyImport_ImportModule("inspect");
        ask = inspect ? PyObject_GetAttrString(inspect, "iscoroutinefunction") : NULL;
        Py_XDECREF(inspect);
        if (!ask) return -1;
    }
    PyObject *answer = PyObject_CallOneArg(ask, f);
    int is_true = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return is_true;
}

static PyObject *compute_in_task(PyObject *self, PyObject *key, PyObject *f) {
    PyObject *module = PyImport_ImportModule("lowtide._cache_tasks");
    PyObject *coroutine =
        module ? PyObject_CallMethod(module, "get_or_compute", "OOO", self, key, f) : NULL;
    Py_XDECREF(module);
    return coroutine;
}

PyObject *keep_get_or_compute(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError,
                     "get_or_compute takes a key and a function (%zd arguments given)", nargs);
        return NULL;
    }
    int async = is_async(args[1]);
    if (async) return async < 0 ? NULL : compute_in_task(self, args[0], args[1]);
    PyObject *value = keep_cache_lookup((keep_cache_t *)self, args[0]);
    if (value || PyErr_Occurred()) return value;
    return compute_once((keep_cache_t *)self, args[0], args[1]);
}
