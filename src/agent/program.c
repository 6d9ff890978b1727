/* `lowtide run`: the agent preloaded into a program, to profile it from its first line and capture its heap when it ends.
 *
 *     lowtide run                          the program
 *     LD_PRELOAD, $LOWTIDE_RUN ──────────▶ constructor: not Python? then nothing, and a child may be one.
 *                                          Python: takes both out of the environment, adds an audit hook
 *              ◀── HELLO program begins ── at cpython.run_…: proves, registers with atexit, puts both back for children
 *              ◀── RESULT ────────────────   (so `os.environ` never had them)
 *              ◀── REGION + descriptor ─── the profile's memory; or RESULT, why there is none
 *              ◀── HELLO program forked ── a forked child, at once: a profile of its own
 *              ◀── REGION + descriptor ───
 *              ◀── HELLO program exits ─── in the main thread with the GIL, before the first of its exit functions (exits.h)
 *     CAPTURE + descriptor ──────────────▶ captures; the program goes on to end
 *              ◀── HELLO program ends ──── behind its exit functions, before anything is torn down; or at os._exit. Where it
 *                                          has not said that it exits, it is answered by CAPTURE as well
 *
 * and at peaks, where lowtide wants a snapshot of one, as peak.h says.
 *
 * So it is also captured after sys.exit, os._exit and an unhandled exception, and not after exec, a signal that kills, or `_exit` of C
 * code, which may be a signal's handler; its profile is there in any case. Nothing stays open in between, and nobody waits for lowtide but the program's last step.
 */
#define _GNU_SOURCE
#include "agent/alloc/alloc.h"
#include "agent/audit.h"
#include "agent/call.h"
#include "agent/capture.h"
#include "agent/exits.h"
#include "agent/follow.h"
#include "agent/keep_low.h"
#include "agent/peak.h"
#include "base/proc.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A recorder that has ended closes the line; one on a busy machine may be naming C functions for seconds. */
enum { ANSWER_MS = 30000, ANSWER_CHILD_MS = 10000, LOOK_MS = 500, METH_NOARGS = 4 };

/* PyMethodDef, as the stable ABI has it. */
typedef struct method_def {
    const char *name;
    void *(*call)(void *self, void *args);
    int flags;
    const char *doc;
} method_def_t;

static rt_t runtime;
static ctl_profile_t profile;
static char variable[8192], preload[8192]; /* for the children's environment; "": not for them */
static pid_t program;
static bool watched, exiting, ended;
static volatile bool
    capturing; /* before the exit functions: a signal's handler may end the program */
static char limit_wish[4352]; /* "size:path" */

static int dial_at_peak(void) {
    return call_dial(CTL_PROGRAM_PEAKS);
}

static bool wants_stop(void *arg, int wait_ms) {
    struct pollfd p = {.fd = *(int *)arg, .events = POLLIN};
    return poll(&p, 1, wait_ms) > 0;
}

static bool is_stopped(pid_t pid) {
    char stat[512];
    const char *at =
        pid > 0 && proc_read(stat, sizeof stat, pid, "stat") ? strrchr(stat, ')') : NULL;
    return at && strncmp(at, ") T", 3) == 0;
}

/* Waits while the recorder is at work: one that was stopped does not hold the program's end up. */
static bool is_asked(int sock, ctl_msg_t *m, int *out) {
    struct ucred recorder = {0};
    socklen_t n = sizeof recorder;
    err_t e;
    int status = -ETIMEDOUT, most_ms = getpid() == program ? ANSWER_MS : ANSWER_CHILD_MS;
    getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &recorder, &n);
    for (int ms = 0; status == -ETIMEDOUT && ms < most_ms; ms += LOOK_MS) {
        status = ctl_recv(sock, m, out, LOOK_MS, &e);
        if (status == -ETIMEDOUT && is_stopped(recorder.pid)) break;
    }
    return !status && m->type == CTL_CAPTURE;
}

static void say_end(uint32_t what) {
    region_t *region = alloc_region();
    int sock = call_dial(what);
    if (sock < 0 && region) region->end_code = (uint32_t)errno;
    ctl_msg_t m;
    int out = -1;
    if (sock >= 0 && is_asked(sock, &m, &out)) {
        capture_t c = {.rt = &runtime,
                       .fd = out,
                       .peer = sock,
                       .flags = m.capture.flags,
                       .stop = wants_stop,
                       .arg = &sock};
        m.type = CTL_RESULT;
        capture_run(&c, &m.result);
        call_say(sock, &m);
    }
    if (sock >= 0) close(sock);
}

static void *none(void) {
    runtime.Py_IncRef((void *)runtime.py_none);
    return (void *)runtime.py_none;
}

static bool may_exit(void) {
    return getpid() == program && !exiting && !ended;
}

/* What the program's exit functions clear is what it had at its end. They are still to run, and so are its snapshots and its limit. */
static void *before_exits(void *self, void *args) {
    (void)self;
    (void)args;
    if (!may_exit()) return none();
    exiting = capturing = true;
    peak_end();
    keep_low_rest();
    say_end(CTL_PROGRAM_EXITS);
    keep_low_go_on();
    capturing = false;
    return none();
}

static void *at_exit(void *self, void *args) {
    (void)self;
    (void)args;
    /* A child that was forked, and ends by sys.exit, has our callback too, and is answered by nothing. */
    bool follow = profile.mode && profile.flags & CTL_PROFILE_CHILDREN;
    ended = true;
    exits_end();
    peak_end();
    keep_low_end();
    if (follow || getpid() == program) say_end(CTL_PROGRAM_ENDS);
    return none();
}

/* Programs that are in a hurry leave by os._exit, past atexit (mypy does, and every child of multiprocessing, which is not asked). C code
 * that calls this may be a signal's handler: it has its status at once, and nothing of ours runs. */
static _Noreturn void leave(int status) {
    if (exits_leaving() && program && !ended && !capturing && getpid() == program)
        at_exit(NULL, NULL);
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}

__attribute__((visibility("default"))) void _exit(int status) {
    leave(status);
}

__attribute__((visibility("default"))) void _Exit(int status) {
    leave(status);
}

static method_def_t at_exit_def = {"lowtide", at_exit, METH_NOARGS, NULL},
                    before_exits_def = {"lowtide", before_exits, METH_NOARGS, NULL};

static bool register_at_exit(void) {
    void *module = runtime.PyImport_ImportModule("atexit");
    void *add = module ? runtime.PyObject_GetAttrString(module, "register") : NULL;
    void *callback = add ? runtime.PyCFunction_NewEx(&at_exit_def, NULL, NULL) : NULL;
    void *done = callback ? runtime.PyObject_CallFunctionObjArgs(add, callback, NULL) : NULL;
    void *before = done ? runtime.PyCFunction_NewEx(&before_exits_def, NULL, NULL) : NULL;
    if (before) exits_begin(&runtime, module, before, may_exit);
    void *posix = done ? runtime.PyImport_ImportModule("posix") : NULL;
    if (posix) exits_watch_leave(&runtime, posix);
    void *const made[] = {module, add, callback, done, before, posix};
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++)
        if (made[i]) runtime.Py_DecRef(made[i]);
    if (!done || !before || !posix) runtime.PyErr_Clear();
    return done != NULL;
}

static void on_fork(void) {
    peak_fork_child();
    watched = call_forked(&runtime, profile.flags & CTL_PROFILE_CHILDREN);
}

/* Returns one more than the place in which its name is new, 0 where it is not; to take the name out again. */
static int count_silent(const char *path, int told) {
    region_t *region = alloc_region();
    if (!region) return 0;
    int64_t change = path ? 1 : -1;
    atomic_fetch_add_explicit(&region->silent_programs, change, memory_order_relaxed);
    if (!path && told) atomic_store(&region->silent_names[told - 1], 0);
    uint32_t text = path && *path ? alloc_text(path) : 0, none = 0;
    for (int i = 0; text && i < REGION_SILENT_NAMES; i++, none = 0) {
        if (atomic_compare_exchange_strong(&region->silent_names[i], &none, text)) return i + 1;
        if (none == text) return 0;
    }
    return 0;
}

static void start_profile(int sock) {
    alloc_options_t o = {.mode = profile.mode,
                         .interval_bytes = profile.interval_bytes,
                         .native = profile.flags & CTL_PROFILE_NATIVE,
                         .stays = true};
    int region;
    err_t e;
    peak_begin(&runtime, dial_at_peak);
    int status = alloc_start(&runtime, &o, &region, &e);
    if (!status) {
        /* peak_end: of two threads a fork warns (Python 3.12 and later), and one of them would be ours. */
        pthread_atfork(peak_end, NULL, on_fork);
        follow_on_silent(count_silent);
        status = call_region(sock, &runtime, region, 0, &e);
        if (status) alloc_region()->dismissed = 1; /* nobody will read it */
    }
    if (status) call_status(sock, status, &e);
    watched = !status;
}

bool lowtide_mark(const char *text);
/* For lowtide.mark in the program, which finds it by its name. Returns whether anybody watches; NULL only asks. */
__attribute__((visibility("default"))) bool lowtide_mark(const char *text) {
    if (watched && text) alloc_mark(text);
    return watched;
}

static void start_limit(void) {
    char *path = strchr(limit_wish, ':');
    err_t e;
    if (!path) return;
    *path++ = '\0';
    bool child = *path == CTL_LIMIT_CHILD;
    if (keep_low_begin(&runtime, limit_wish, path + child, child, &e))
        fprintf(stderr, "lowtide: no limit: %s\n", e.text);
}

static void prepare_children(void) {
    if (!variable[0]) return;
    setenv(CTL_RUN_VARIABLE, variable, 1);
    setenv("LD_PRELOAD", preload, 1);
}

/* In the main thread, with the GIL, just before the program's first line. */
static int on_audit(const char *event, void *args, void *data) {
    static const char begins[] = "cpython.run_", ends[] = "cpython._PySys_ClearAuditHooks";
    (void)args;
    (void)data;
    if (strcmp(event, ends) == 0) audit_end(); /* it ends without having begun */
    if (program || strncmp(event, begins, sizeof begins - 1) != 0) return 0;
    audit_end();
    program = getpid();
    prepare_children();
    int sock = call_dial(CTL_PROGRAM_BEGINS);
    if (sock < 0) return 0;
    err_t e;
    int status = rt_prove(&runtime, &e);
    if (!status && !register_at_exit())
        status = err_set(&e, -EIO, "atexit.register did not take a callback");
    call_status(sock, status, &e);
    if (!status && profile.mode) start_profile(sock);
    close(sock);
    if (!status && limit_wish[0]) start_limit();
    return 0;
}

/* "mode.flags.interval" */
static bool read_profile(const char *text) {
    char *end;
    profile.mode = (uint32_t)strtoul(text, &end, 10);
    if (*end != '.' || profile.mode > REGION_EXACT) return false;
    profile.flags = (uint32_t)strtoul(end + 1, &end, 10);
    if (*end != '.') return false;
    profile.interval_bytes = strtoull(end + 1, &end, 10);
    return *end == ':';
}

/* "key:name:profile:agent" */
static const char *read_variable(const char *v) {
    const char *name = strchr(v, ':'), *how = name ? strchr(name + 1, ':') : NULL;
    const char *agent = how ? strchr(how + 1, ':') : NULL;
    size_t key_bytes = name ? (size_t)(name - v) : 0;
    size_t name_bytes = how ? (size_t)(how - name - 1) : 0;
    if (!key_bytes || !name_bytes || !agent || !read_profile(how + 1) ||
        !call_set(v, key_bytes, name + 1, name_bytes))
        return NULL;
    return agent + 1;
}

/* What the children are to have, unless it is too long to keep. */
static void keep_environment(const char *v, const char *libraries) {
    if (!(profile.flags & CTL_PROFILE_CHILDREN) || !libraries || strlen(v) >= sizeof variable ||
        strlen(libraries) >= sizeof preload)
        return;
    strcpy(variable, v);
    strcpy(preload, libraries);
}

/* The program shall find its environment as it would without us. Nothing else runs yet. */
static void clean_environment(const char *agent) {
    const char *libraries = getenv("LD_PRELOAD");
    char rest[sizeof preload];
    keep_environment(getenv(CTL_RUN_VARIABLE), libraries);
    if (libraries && follow_without(libraries, agent, rest, sizeof rest)) {
        if (rest[0])
            setenv("LD_PRELOAD", rest, 1);
        else
            unsetenv("LD_PRELOAD");
    }
    unsetenv(CTL_RUN_VARIABLE);
    const char *wish = getenv(CTL_LIMIT_VARIABLE);
    if (wish) snprintf(limit_wish, sizeof limit_wish, "%s", wish);
    unsetenv(CTL_LIMIT_VARIABLE);
}

__attribute__((constructor)) static void program_begin(void) {
    const char *v = getenv(CTL_RUN_VARIABLE), *agent;
    int (*begun)(void) = NULL;
    err_t e;
    if (!v || !(agent = read_variable(v))) return;
    bool is_python = dlsym(RTLD_DEFAULT, "PySys_AddAuditHook");
    if (profile.flags & CTL_PROFILE_CHILDREN)
        follow_begin(v, agent, getenv(CTL_LIMIT_VARIABLE), is_python);
    if (!is_python) return;
    /* Brought in by the injector, beside the preloaded one. */
    *(void **)&begun = dlsym(RTLD_DEFAULT, "Py_IsInitialized");
    if (!begun || begun()) return;
    clean_environment(agent);
    int status = rt_find(&runtime, &e);
    if (!status && !runtime.Py_IsInitialized() && audit_begin(&runtime, on_audit)) return;
    if (!status) err_set(&e, status = -EIO, "Python did not take an audit hook");
    int sock = call_dial(CTL_PROGRAM_BEGINS);
    if (sock >= 0) {
        call_status(sock, status, &e);
        close(sock);
    }
}
