#define _GNU_SOURCE
#include "agent/trace/trace_interpose.h"

#include "agent/alloc/alloc_got.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

enum { TRACK, UNTRACK, TRACEBACK, DLOPEN, DLSYM, REALS };

typedef void *(*dlopen_t)(const char *, int);
typedef void *(*dlsym_t)(void *, const char *);

static got_hook_t hooks[REALS];
static got_t got;
/* Since the last patching: by whomever, and by this thread. Where another one patches while a library is being loaded, it is that
 * thread alone that knows when it is there. */
static _Atomic bool on, something_loaded;
static bool forked;
static __thread bool loaded_here __attribute__((tls_model("initial-exec")));
static atomic_flag patching = ATOMIC_FLAG_INIT;

/* As CPython says that we are not tracing. */
static int hook_track(unsigned domain, uintptr_t at, size_t bytes) {
    int status = trace_track(domain, at, bytes);
    return status == -ENOENT ? -2 : status ? -1 : 0;
}

static int hook_untrack(unsigned domain, uintptr_t at) {
    return trace_untrack(domain, at) ? -2 : 0;
}

/* Both end in a jump to the real function, which looks at who calls it. */
static void *hook_dlopen(const char *name, int flags) {
    loaded_here = true;
    atomic_store_explicit(&something_loaded, true, memory_order_relaxed);
    return ((dlopen_t)got_real(&hooks[DLOPEN]))(name, flags);
}

/* Nobody waits for who is patching, who may wait for the loader: that one looks again when it is done. */
static void patch_new(void) {
    while (atomic_load(&something_loaded) && !atomic_flag_test_and_set(&patching)) {
        atomic_store(&something_loaded, false);
        if (on) got_patch(&got);
        atomic_flag_clear(&patching);
    }
}

static __attribute__((noinline)) void patch_loaded(void) {
    int error = errno;
    loaded_here = false;
    atomic_store(&something_loaded, true);
    patch_new();
    errno = error;
}

static void *hook_dlsym(void *handle, const char *name) {
    if (loaded_here || atomic_load_explicit(&something_loaded, memory_order_relaxed))
        patch_loaded();
    return ((dlsym_t)got_real(&hooks[DLSYM]))(handle, name);
}

/* Who was patching in the parent is not here, and who was loading a library left the loader's lock behind. */
static void begin_in_child(void) {
    atomic_flag_clear(&patching);
    forked = true;
}

static bool open_once(trace_traceback_fn *traceback) {
    static bool failed;
    err_t ignored;
    const got_hook_t all[REALS] = {
        [TRACK] = {"PyTraceMalloc_Track", (got_function_t)hook_track, NULL},
        [UNTRACK] = {"PyTraceMalloc_Untrack", (got_function_t)hook_untrack, NULL},
        [TRACEBACK] = {"_PyTraceMalloc_GetTraceback", (got_function_t)traceback, NULL},
        [DLOPEN] = {"dlopen", (got_function_t)hook_dlopen, NULL},
        [DLSYM] = {"dlsym", (got_function_t)hook_dlsym, NULL},
    };
    if (got.code || failed) return !failed;
    for (int i = 0; i < REALS; i++) hooks[i] = all[i];
    got = (got_t){.hooks = hooks, .count = REALS};
    failed = pthread_atfork(NULL, NULL, begin_in_child) || got_open(&got, &ignored) != 0;
    return !failed;
}

void interpose_in(trace_traceback_fn *traceback) {
    if (!open_once(traceback)) return;
    while (atomic_flag_test_and_set(&patching)) {
    }
    on = true;
    got_patch(&got);
    atomic_flag_clear(&patching);
    patch_new();
}

void interpose_out(void) {
    if (!got.code) return;
    if (forked) { /* what is patched stays so: to look for it takes that lock */
        on = false;
        return;
    }
    while (atomic_flag_test_and_set(&patching)) {
    }
    on = false;
    got_restore(&got);
    atomic_flag_clear(&patching);
}
