#define _GNU_SOURCE
#include "agent/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

enum { NICER = 5, WATCH_MS = 200, WATCH_LEFT_MS = 10, REPORT_WAIT_MS = 5000, LOOK_AT_FDS = 65536 };

/* The child's own, set once before it works. */
static pid_t parent;
static int report_to = -1;

static void close_between(unsigned first, unsigned last) {
    if (first > last) return;
    if (syscall(SYS_close_range, first, last, 0) == 0) return;
    /* Before Linux 5.9 there is no close_range. */
    struct rlimit limit = {0, LOOK_AT_FDS};
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < last) last = (unsigned)limit.rlim_cur;
    for (unsigned fd = first; fd <= last; fd++) close((int)fd);
}

/* At once: a pipe whose end lives on in the child never ends for its reader. */
static void close_all_but(int keep, int peer) {
    int low = keep < peer ? keep : peer, high = keep < peer ? peer : keep;
    if (low > 0) close_between(0, (unsigned)low - 1);
    if (high > low + 1) close_between((unsigned)(low + 1), (unsigned)high - 1);
    close_between((unsigned)(high + 1), ~0u);
}

/* Every signal to its default, all blocked that do not come from a fault: the target's handlers are not to run here, and
 * Ctrl-C is for the target. Straight to the kernel: libc hides its own two signals. */
static void signals_reset(void) {
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } act = {0};
    for (int n = 1; n <= 64; n++) syscall(SYS_rt_sigaction, n, &act, NULL, sizeof act.mask);
    sigset_t blocked;
    sigfillset(&blocked);
    const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) sigdelset(&blocked, faults[i]);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
}

/* Nothing that the kernel or an administrator picks by should fall on the target because of us. */
static void be_modest(void) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY);
    if (fd >= 0) {
        ssize_t ignored = write(fd, "1000", 4);
        (void)ignored;
        close(fd);
    }
    /* 1, not 0: the kernel then also leaves a crash handler behind a pipe alone. */
    struct rlimit one = {1, 1}, none = {0, 0};
    if (setrlimit(RLIMIT_CORE, &one)) setrlimit(RLIMIT_CORE, &none);
    struct sched_param plain = {0};
    sched_setscheduler(0, SCHED_OTHER, &plain);
    setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + NICER);
    prctl(PR_SET_NAME, "lowtide");
}

/* What the program may not have for itself is there for its copy: the walk's tables, and pages that the program writes on; and the
 * recording is no file of the program's. */
static void raise_limits(void) {
    const int kinds[] = {RLIMIT_DATA, RLIMIT_AS, RLIMIT_FSIZE};
    struct rlimit limit;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (getrlimit((__rlimit_resource_t)kinds[i], &limit)) continue;
        limit.rlim_cur = limit.rlim_max;
        setrlimit((__rlimit_resource_t)kinds[i], &limit);
    }
}

/* While the parent lives it watches for a CANCEL. When it has died, nobody does but this. */
static void on_watch(int signal) {
    (void)signal;
    if (getppid() == parent) return;
    struct pollfd p = {.fd = report_to, .events = POLLIN};
    if (poll(&p, 1, 0) > 0) _exit(1);
}

static void watch_start(int every_ms) {
    struct sigaction act = {.sa_handler = on_watch, .sa_flags = SA_RESTART};
    struct itimerval every = {{0, every_ms * 1000}, {0, every_ms * 1000}};
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    sigaction(SIGALRM, &act, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    sigprocmask(SIG_UNBLOCK, &alarm, NULL);
}

void child_report_if_orphan(const ctl_result_t *result) {
    err_t e;
    if (report_to < 0 || getppid() == parent) return;
    ctl_msg_t m = {.type = CTL_RESULT, .result = *result};
    ctl_send(report_to, &m, -1, REPORT_WAIT_MS, &e);
}

void child_leave(void) {
    long child = syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L);
    if (child != 0) _exit(child < 0);
    if (report_to >= 0) watch_start(WATCH_LEFT_MS); /* timers are not inherited */
}

pid_t child_start(void (*look)(void *arg), void (*work)(void *arg), void *arg, int keep, int peer) {
    sigset_t all, before;
    sigfillset(&all);
    /* So that no handler of the target runs in the child before its signals are reset. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t self = getpid();
    /* No clone() of libc: its fork runs atfork handlers and takes locks, and its clone wants a stack. */
    long child = syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L);
    if (child != 0) {
        int code = errno;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return child < 0 ? -code : (pid_t)child;
    }
    parent = self;
    report_to = peer;
    raise_limits();
    if (look) look(arg);
    close_all_but(keep, peer);
    signals_reset();
    be_modest();
    if (peer >= 0) watch_start(WATCH_MS);
    work(arg);
    _exit(0);
}
