/* `lowtide run`: the agent preloaded into a program, to capture its heap when it ends.
 *
 *     lowtide run                          the program
 *     LD_PRELOAD, $LOWTIDE_RUN ──────────▶ constructor: not Python? then nothing, and a child may be one.
 *                                          Python: takes both out of the environment, adds an audit hook
 *              ◀── HELLO program begins ── at cpython.run_…: registers with atexit
 *              ◀── HELLO program ends ──── atexit, in the main thread with the GIL, before anything is torn down
 *     CAPTURE + descriptor ──────────────▶ captures; the program goes on to end
 *
 * So it is also captured after sys.exit and an unhandled exception, and not after os._exit, exec or a signal that kills.
 * Children that the program forks or starts are left alone. Nothing stays open in between.
 */
#define _GNU_SOURCE
#include "agent/capture.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_MS = 10000, SEND_WAIT_MS = 1000, METH_NOARGS = 4 };

/* PyMethodDef, as the stable ABI has it. */
typedef struct method_def {
    const char *name;
    void *(*call)(void *self, void *args);
    int flags;
    const char *doc;
} method_def_t;

static rt_t runtime;
static ctl_hello_t hello;
static struct sockaddr_un address;
static socklen_t address_bytes;
static pid_t program;

static bool say(int sock, const ctl_msg_t *m) {
    err_t e;
    return ctl_send(sock, m, -1, SEND_WAIT_MS, &e) == 0;
}

static int dial(uint32_t what) {
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ctl_msg_t m = {.type = CTL_HELLO, .hello = hello};
    m.hello.what = what;
    m.hello.pid = (uint32_t)getpid();
    if (sock < 0) return -1;
    if (connect(sock, (struct sockaddr *)&address, address_bytes) == 0 && say(sock, &m))
        return sock;
    close(sock);
    return -1;
}

static void say_failure(int sock, int status, const err_t *e) {
    ctl_msg_t m = {.type = CTL_RESULT, .result = {.status = status}};
    memcpy(m.result.text, e->text, sizeof m.result.text);
    say(sock, &m);
}

static bool wants_stop(void *arg, int wait_ms) {
    struct pollfd p = {.fd = *(int *)arg, .events = POLLIN};
    return poll(&p, 1, wait_ms) > 0;
}

static void *at_exit(void *self, void *args) {
    (void)self;
    (void)args;
    /* A child that was forked, and ends by sys.exit, has our callback too. */
    int sock = getpid() == program ? dial(CTL_PROGRAM_ENDS) : -1;
    ctl_msg_t m;
    int out = -1;
    err_t e;
    if (sock >= 0 && ctl_recv(sock, &m, &out, ANSWER_MS, &e) == 0 && m.type == CTL_CAPTURE) {
        capture_t c = {.rt = &runtime,
                       .fd = out,
                       .peer = sock,
                       .flags = m.capture.flags,
                       .stop = wants_stop,
                       .arg = &sock};
        m.type = CTL_RESULT;
        capture_run(&c, &m.result);
        say(sock, &m);
    }
    if (sock >= 0) close(sock);
    runtime.Py_IncRef((void *)runtime.py_none);
    return (void *)runtime.py_none;
}

static method_def_t at_exit_def = {"lowtide", at_exit, METH_NOARGS, NULL};

static bool register_at_exit(void) {
    void *module = runtime.PyImport_ImportModule("atexit");
    void *add = module ? runtime.PyObject_GetAttrString(module, "register") : NULL;
    void *callback = add ? runtime.PyCFunction_NewEx(&at_exit_def, NULL, NULL) : NULL;
    void *done = callback ? runtime.PyObject_CallFunctionObjArgs(add, callback, NULL) : NULL;
    void *const made[] = {module, add, callback, done};
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++)
        if (made[i]) runtime.Py_DecRef(made[i]);
    if (!done) runtime.PyErr_Clear();
    return done != NULL;
}

/* In the main thread, with the GIL, just before the program's first line. */
static int on_audit(const char *event, void *args, void *data) {
    static const char begins[] = "cpython.run_";
    (void)args;
    (void)data;
    if (program || strncmp(event, begins, sizeof begins - 1) != 0) return 0;
    program = getpid();
    int sock = dial(CTL_PROGRAM_BEGINS);
    if (sock < 0) return 0;
    err_t e;
    int status = rt_prove(&runtime, &e);
    if (!status && !register_at_exit())
        status = err_set(&e, -EIO, "atexit.register did not take a callback");
    if (status) say_failure(sock, status, &e);
    close(sock);
    return 0;
}

/* "key:name:agent" */
static const char *read_variable(const char *v) {
    const char *name = strchr(v, ':'), *agent = name ? strchr(name + 1, ':') : NULL;
    size_t key_bytes = name ? (size_t)(name - v) : 0;
    size_t name_bytes = agent ? (size_t)(agent - name - 1) : 0;
    if (!key_bytes || key_bytes >= sizeof hello.key || !name_bytes ||
        name_bytes >= sizeof address.sun_path)
        return NULL;
    memcpy(hello.key, v, key_bytes);
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path + 1, name + 1, name_bytes);
    address_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + name_bytes);
    return agent + 1;
}

/* The program shall find its environment as it would without us. Nothing else runs yet. */
static void clean_environment(const char *agent) {
    const char *preload = getenv("LD_PRELOAD");
    size_t n = strlen(agent);
    if (preload && strncmp(preload, agent, n) == 0) {
        if (preload[n] == ':')
            setenv("LD_PRELOAD", preload + n + 1, 1);
        else if (!preload[n])
            unsetenv("LD_PRELOAD");
    }
    unsetenv(CTL_RUN_VARIABLE);
}

__attribute__((constructor)) static void program_begin(void) {
    const char *v = getenv(CTL_RUN_VARIABLE), *agent;
    err_t e;
    if (!v || !dlsym(RTLD_DEFAULT, "PySys_AddAuditHook") || !(agent = read_variable(v))) return;
    clean_environment(agent);
    int status = rt_find(&runtime, &e);
    if (!status && !runtime.Py_IsInitialized() && runtime.PySys_AddAuditHook(on_audit, NULL) == 0)
        return;
    if (!status) err_set(&e, status = -EIO, "Python did not take an audit hook");
    int sock = dial(CTL_PROGRAM_BEGINS);
    if (sock >= 0) {
        say_failure(sock, status, &e);
        close(sock);
    }
}
