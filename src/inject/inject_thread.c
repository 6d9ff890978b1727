#define _GNU_SOURCE
#include "inject/inject_thread.h"

#include "base/clock.h"

#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef enum thread_event {
    EVENT_TRAP,   /* the stop that we asked for */
    EVENT_GROUP,  /* a stop by job control */
    EVENT_SIGNAL, /* a signal is about to be delivered */
    EVENT_CALL,   /* at the entry or exit of a system call */
    EVENT_EXEC,
    EVENT_GONE,
    EVENT_TIMEOUT,
} thread_event_t;

#define FAULTS                                                                                     \
    (1ULL << (SIGSEGV - 1) | 1ULL << (SIGBUS - 1) | 1ULL << (SIGILL - 1) | 1ULL << (SIGFPE - 1) |  \
     1ULL << (SIGTRAP - 1))

static long trace(int request, pid_t tid, uintptr_t address, uintptr_t data) {
    return ptrace((enum __ptrace_request)request, tid, (void *)address, (void *)data);
}

/* waitpid knows no time limit, and a stop takes microseconds: look often at first. */
static thread_event_t thread_wait(const thread_t *t, int64_t deadline_ms, int *sig) {
    for (unsigned turn = 0;; turn++) {
        int status;
        pid_t r = waitpid(t->tid, &status, __WALL | WNOHANG);
        if (r < 0 && errno != EINTR) return EVENT_GONE;
        if (r == t->tid) {
            if (!WIFSTOPPED(status)) return EVENT_GONE;
            *sig = WSTOPSIG(status);
            if (status >> 16 == PTRACE_EVENT_STOP)
                return *sig == SIGTRAP ? EVENT_TRAP : EVENT_GROUP;
            if (status >> 16 == PTRACE_EVENT_EXEC) return EVENT_EXEC;
            return *sig == (SIGTRAP | 0x80) ? EVENT_CALL : EVENT_SIGNAL;
        }
        if (now_ms() >= deadline_ms) return EVENT_TIMEOUT;
        struct timespec pause = {.tv_nsec = turn < 200 ? 20000 : 500000};
        if (turn < 50)
            sched_yield();
        else
            nanosleep(&pause, NULL);
    }
}

void thread_watch(thread_t *t) {
    t->asleep_ms = -1;
    t->switches = proc_switches(t->pid, t->tid);
    if (proc_call_read(t->pid, t->tid, &t->waited_in))
        t->waited_in = (proc_call_t){.running = true};
    bool epoll = t->waited_in.number == SYS_epoll_wait || t->waited_in.number == SYS_epoll_pwait;
    if (!t->waited_in.running && epoll && (int)t->waited_in.args[3] > 0) {
        t->asleep_ms = proc_asleep_ms(t->pid, t->tid);
        t->seen_at_ms = now_ms();
    }
}

/* ── Calls that give EINTR for no signal's sake ──
 *
 * A few system calls give EINTR whenever the thread is stopped and goes on (signal(7) lists them), even where no
 * handler runs. The program is not to see that: the call is made again. epoll_wait gets what is left of its time, a
 * socket's own time limit (SO_RCVTIMEO) begins anew; where what is left is not to be known, EINTR stays. */

static bool signals_pending(const thread_t *t) {
    char *status = proc_read_text("/proc/%d/task/%d/status", (int)t->pid, (int)t->tid);
    if (!status) return true;
    const char *own = proc_status_value(status, "SigPnd"),
               *shared = proc_status_value(status, "ShdPnd");
    const char *blocked = proc_status_value(status, "SigBlk");
    bool pending =
        !own || !shared || !blocked ||
        ((strtoull(own, NULL, 16) | strtoull(shared, NULL, 16)) & ~strtoull(blocked, NULL, 16));
    free(status);
    return pending;
}

/* Milliseconds left of a wait with a time limit; -1 = for ever, -2 = not known. */
static int64_t epoll_left_ms(const thread_t *t, const struct user_regs_struct *r) {
    int timeout_ms = (int)r->r10;
    if (timeout_ms <= 0) return timeout_ms < 0 ? -1 : 0; /* "for ever" and 0 stay what they are */
    const proc_call_t *w = &t->waited_in;
    bool seen = !w->running && w->number == (long)r->orig_rax && w->args[0] == r->rdi &&
                w->sp == r->rsp && w->args[3] == r->r10;
    if (!seen) return timeout_ms; /* it began since we looked, which is next to nothing ago */
    if (t->asleep_ms < 0 || t->switches < 0) return -2;
    /* One switch more is the stop itself; two mean that it woke and waits anew. */
    if (proc_switches(t->pid, t->tid) > t->switches + 1) return timeout_ms;
    int64_t left = timeout_ms - t->asleep_ms - (now_ms() - t->seen_at_ms);
    return left < 1 ? 1 : left;
}

static void thread_fix_call(thread_t *t) {
    struct user_regs_struct *r = &t->state.regs;
    if ((long)r->orig_rax < 0 || (long)r->rax != -EINTR) return;
    bool again = false;
    switch (r->orig_rax) {
    case SYS_read:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_accept:
    case SYS_accept4:
    case SYS_semop:
        again = true;
        break;
    case SYS_rt_sigtimedwait:
        again = r->rdx == 0;
        break;
    case SYS_semtimedop:
    case SYS_epoll_pwait2:
        again = r->r10 == 0;
        break;
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
        again = epoll_left_ms(t, r) >= -1;
        break;
    default:
        break;
    }
    if (!again || signals_pending(t)) return;
    if (r->orig_rax == SYS_epoll_wait || r->orig_rax == SYS_epoll_pwait)
        r->r10 = (unsigned)(int)epoll_left_ms(t, r);
    r->rax = r->orig_rax;
    r->orig_rax = (unsigned long)-1;
    r->rip -= 2;
    t->fixed_call = true;
}

/* ── Stopping ── */

static int thread_save(thread_t *t) {
    frame_state_t *s = &t->state;
    struct iovec xstate = {s->xstate, sizeof s->xstate};
    if (trace(PTRACE_GETREGS, t->tid, 0, (uintptr_t)&s->regs)) return -errno;
    if (trace(PTRACE_GETREGSET, t->tid, NT_X86_XSTATE, (uintptr_t)&xstate)) {
        xstate = (struct iovec){s->xstate, sizeof s->xstate};
        if (trace(PTRACE_GETREGSET, t->tid, NT_PRFPREG, (uintptr_t)&xstate)) return -errno;
    }
    s->xstate_bytes = xstate.iov_len;
    if (s->xstate_bytes >= sizeof s->xstate) return -EOVERFLOW;
    if (trace(PTRACE_GETSIGMASK, t->tid, 8, (uintptr_t)&s->sigmask)) return -errno;
    thread_fix_call(t);
    return 0;
}

int thread_stop(thread_t *t, int64_t deadline_ms) {
    t->foreign = t->masked = t->fixed_call = false;
    if (trace(PTRACE_SEIZE, t->tid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC)) return -errno;
    if (trace(PTRACE_INTERRUPT, t->tid, 0, 0) && errno != ESRCH) return -errno;
    for (;;) {
        int sig = 0;
        switch (thread_wait(t, deadline_ms, &sig)) {
        case EVENT_TRAP: {
            int status = thread_save(t);
            if (status) trace(PTRACE_DETACH, t->tid, 0, 0);
            return status;
        }
        case EVENT_GROUP:
            trace(PTRACE_DETACH, t->tid, 0, 0);
            return -EBUSY;
        case EVENT_EXEC:
            trace(PTRACE_DETACH, t->tid, 0, 0);
            return -EAGAIN;
        case EVENT_SIGNAL:
            trace(PTRACE_CONT, t->tid, 0, (uintptr_t)sig);
            break;
        case EVENT_CALL:
            trace(PTRACE_CONT, t->tid, 0, 0);
            break;
        case EVENT_GONE:
            return -ESRCH;
        case EVENT_TIMEOUT:
            return -ETIMEDOUT;
        }
    }
}

/* ── Making it do something ── */

static int memory_write(const thread_t *t, uint64_t address, const void *from, size_t bytes) {
    ssize_t n = pwrite(t->mem_fd, from, bytes, (off_t)address);
    return n == (ssize_t)bytes ? 0 : -EFAULT;
}

int thread_poke(thread_t *t, uint64_t address, const void *from, size_t bytes) {
    /* One call where the kernel lets /proc/PID/mem write to read-only pages; word by word where it was told not to. */
    if (memory_write(t, address, from, bytes) == 0) return 0;
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = 0;
        memcpy(&word, (const char *)from + i, bytes - i < 8 ? bytes - i : 8);
        if (trace(PTRACE_POKEDATA, t->tid, address + i, word)) return -errno;
    }
    return 0;
}

int thread_arm(thread_t *t) {
    int status = frame_build(&t->state, t->restorer, &t->frame);
    return status ? status : memory_write(t, t->frame.address, t->frame.at, t->frame.bytes);
}

/* Registers first: from then on every way leads back through the frame, which holds the signal mask too. */
static int thread_set(thread_t *t, const struct user_regs_struct *regs) {
    if (trace(PTRACE_SETREGS, t->tid, 0, (uintptr_t)regs)) return -errno;
    t->foreign = true;
    uint64_t all_but_faults = ~FAULTS;
    if (!t->masked && trace(PTRACE_SETSIGMASK, t->tid, 8, (uintptr_t)&all_but_faults))
        return -errno;
    t->masked = true;
    return 0;
}

static bool is_fault(const thread_t *t, int sig) {
    siginfo_t info;
    return (FAULTS >> (sig - 1) & 1) &&
           trace(PTRACE_GETSIGINFO, t->tid, 0, (uintptr_t)&info) == 0 && info.si_code > 0;
}

/* Lets it run to the next entry or exit of a system call. */
static int thread_to_call(thread_t *t, int64_t deadline_ms) {
    int sig = 0;
    for (;;) {
        if (trace(PTRACE_SYSCALL, t->tid, 0, (uintptr_t)sig)) return -errno;
        int seen;
        thread_event_t event = thread_wait(t, deadline_ms, &seen);
        if (event == EVENT_CALL) return 0;
        if (event == EVENT_GONE || event == EVENT_EXEC) return -ESRCH;
        if (event == EVENT_TIMEOUT) return -ETIMEDOUT;
        if (event == EVENT_SIGNAL && is_fault(t, seen)) return -EFAULT;
        sig = event == EVENT_SIGNAL ? seen : 0;
    }
}

static struct user_regs_struct regs_for(const thread_t *t, uint64_t pc, uint64_t sp) {
    struct user_regs_struct r = t->state.regs;
    r.rip = pc;
    r.rsp = sp;
    r.rbp = 0;
    r.eflags = 0x202;               /* interrupts on, direction up, no single steps */
    r.orig_rax = (unsigned long)-1; /* there is no system call to restart */
    return r;
}

int thread_call(thread_t *t, long number, const uint64_t args[6], long *result,
                int64_t deadline_ms) {
    struct user_regs_struct r = regs_for(t, t->syscall_then_ret, t->frame.address);
    r.rax = (unsigned long)number;
    r.rdi = args[0], r.rsi = args[1], r.rdx = args[2], r.r10 = args[3], r.r8 = args[4],
    r.r9 = args[5];
    int status = thread_set(t, &r);
    /* Entry and exit. A handler of a signal that cannot be blocked may make calls of its own before. */
    do {
        if (status == 0) status = thread_to_call(t, deadline_ms);
        if (status == 0) status = thread_to_call(t, deadline_ms);
        if (status == 0 && trace(PTRACE_GETREGS, t->tid, 0, (uintptr_t)&r)) status = -errno;
    } while (status == 0 && (r.rip != t->syscall_then_ret + 2 || (long)r.orig_rax != number));
    if (status == 0) *result = (long)r.rax;
    return status;
}

int thread_run(thread_t *t, uint64_t pc, uint64_t sp, uint64_t context, int64_t deadline_ms) {
    struct user_regs_struct r = regs_for(t, pc, sp);
    r.rbx = context;
    int status = thread_set(t, &r);
    /* Every second stop is an exit; the one behind the known instruction is the last. */
    do {
        if (status == 0) status = thread_to_call(t, deadline_ms);
        if (status == 0) status = thread_to_call(t, deadline_ms);
        if (status == 0 && trace(PTRACE_GETREGS, t->tid, 0, (uintptr_t)&r)) status = -errno;
    } while (status == 0 && (r.rip != t->syscall_then_ret + 2 || r.orig_rax != SYS_clock_gettime));
    return status;
}

/* ── Letting go ── */

/* Into the kind of stop from which the kernel restarts an interrupted system call when it goes on. */
static bool thread_to_trap(thread_t *t) {
    if (trace(PTRACE_INTERRUPT, t->tid, 0, 0) || trace(PTRACE_CONT, t->tid, 0, 0)) return false;
    for (;;) {
        int sig = 0;
        switch (thread_wait(t, INT64_MAX, &sig)) {
        case EVENT_TRAP:
        case EVENT_GROUP:
            return true;
        case EVENT_SIGNAL:
            trace(PTRACE_CONT, t->tid, 0, (uintptr_t)sig);
            break;
        case EVENT_CALL:
            trace(PTRACE_CONT, t->tid, 0, 0);
            break;
        default:
            return false;
        }
    }
}

static void thread_restore(thread_t *t) {
    frame_state_t *s = &t->state;
    struct iovec xstate = {s->xstate, s->xstate_bytes};
    int kind = s->xstate_bytes >= 576 ? NT_X86_XSTATE : NT_PRFPREG;
    /* Wherever it was stopped, from here on it finds its way: the order keeps that true if we die between two lines. */
    struct user_regs_struct home = regs_for(t, t->restorer, t->frame.address + 8);
    trace(PTRACE_SETREGS, t->tid, 0, (uintptr_t)&home);
    trace(PTRACE_SETSIGMASK, t->tid, 8, (uintptr_t)&s->sigmask);
    trace(PTRACE_SETREGSET, t->tid, (uintptr_t)kind, (uintptr_t)&xstate);
    trace(PTRACE_SETREGS, t->tid, 0, (uintptr_t)&s->regs);
}

void thread_release(thread_t *t) {
    if (t->foreign) {
        if (!thread_to_trap(t)) return;
        thread_restore(t);
    } else if (t->fixed_call) {
        trace(PTRACE_SETREGS, t->tid, 0, (uintptr_t)&t->state.regs);
    }
    trace(PTRACE_DETACH, t->tid, 0, 0);
    t->foreign = t->masked = false;
}

void thread_abandon(thread_t *t) {
    int sig = 0;
    trace(PTRACE_INTERRUPT, t->tid, 0, 0);
    thread_event_t event = thread_wait(t, INT64_MAX, &sig);
    if (event != EVENT_GONE)
        trace(PTRACE_DETACH, t->tid, 0, event == EVENT_SIGNAL ? (uintptr_t)sig : 0);
}
