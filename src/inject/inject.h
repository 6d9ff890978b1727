/* Brings a shared object into a running, unmodified Python process (Linux, x86-64, glibc), and takes it out again.
 *
 * A target is never harmed: that rule stands above every feature. So the one thread that is borrowed does only
 * what cannot block, and for about a millisecond:
 *
 *   lowtide                                 target
 *   ───────                                 ──────
 *   checks, without touching it
 *   stops one thread at a safe place ─────▶ (all other threads run on)
 *   has it map a page of code ────────────▶ mmap
 *   lets it run that code ────────────────▶ pthread_create: the guest thread
 *   puts every register back, lets go ────▶ the thread goes on; an interrupted call is restarted
 *                                           guest: a table of file descriptors of its own, a socketpair in it
 *   fetches one end (pidfd_getfd)
 *   sends the library as a memfd ═════════▶ guest: dlopen("/proc/thread-self/fd/N")
 *                                           guest: agent_start(fd), for as long as it likes
 *   shuts the socket down ════════════════▶ guest: agent_start returns; dlclose; unmaps its code; ends
 *
 * Nothing needs the tracer to stay alive. Before the borrowed thread runs a single foreign instruction, a signal
 * frame with all its registers lies below its red zone, and every path through our code ends in rt_sigreturn on that
 * frame: when lowtide is killed in the middle the thread finds its way back by itself, as from a signal handler. The
 * guest notices that nobody is there (3 s for the library to come; end of file later) and takes everything away.
 *
 * The guest takes the loader's lock and malloc's, each for a moment, and nothing else: no GIL (the agent does that,
 * with a time limit), so no thread of the target can wait for it and be waited for. A target that forks while the
 * agent is in it leaves the library in that child until it calls exec or ends, and Python 3.12 and
 * later may warn of a fork beside another thread (DeprecationWarning).
 *
 * What the guest thread and the agent on it open has numbers in a table of their own (inject_stub.h): a program may close(0) and
 * count on open() giving 0, or close all that it does not know. Only before Linux 6.9 the socketpair's two ends are in
 * the program's table for about a millisecond, with high numbers; a program that closes them is visited again.
 *
 * What stays behind is what any thread that came and went leaves: glibc may keep one thread stack (1 MiB, address
 * space only) and one malloc arena for the next thread. Doing it again uses the same ones.
 */
#ifndef LOWTIDE_INJECT_INJECT_H
#define LOWTIDE_INJECT_INJECT_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

/* What the library exports. It is called on a thread of its own in the target, made for it, named "lowtide", with all
 * signals blocked (but libc's own two), 1 MiB of stack, a table of file descriptors of its own and without the GIL, and serves there until the agent is done: a
 * goodbye by the control protocol, or end of file on `fd` (recv gives 0). Then it returns, having ended what it started (threads,
 * hooks, children); `fd` is closed and the library taken out by the caller. The result is not used. */
typedef int inject_agent_start_fn(int fd);
#define INJECT_AGENT_START "agent_start"

typedef struct inject inject_t;

typedef struct inject_options {
    const char *library_path; /* as this process sees it; the file is read whole */
    int timeout_ms;           /* for all of inject_open, and again for inject_close; 0 = 10 s */
    bool shared_files;        /* as before Linux 6.9, for tests */
} inject_options_t;

/* Brings the library into the process. `socket_fd` gets one end of a SOCK_SEQPACKET socketpair (close-on-exec; the
 * caller closes it), whose other end agent_start got. Returns when the library is loaded and agent_start is about to
 * run. Refuses in one line, with the target as it was: -ESRCH (no such process, zombie, gone in the middle), -EPERM
 * (not permitted: says what to do), -EBUSY (stopped, traced by another, seccomp), -ENOTSUP (not a Python 3.11–3.15 with a
 * GIL, static, musl, 32-bit, old kernel), -ETIMEDOUT (no safe moment; or the loader's lock was not to be had: the
 * guest then leaves as soon as it gets it), -ELIBBAD (the target's loader refused the library; its own words), -EAGAIN
 * (for two seconds it did nothing but start, call exec or close our socket), -EALREADY (for all the time another lowtide held it), -EINTR (SIGINT, SIGTERM or SIGHUP came; they are held back while a thread is borrowed). */
int inject_open(pid_t pid, const inject_options_t *options, inject_t **out, int *socket_fd,
                err_t *e);

/* Shuts the socket down, waits until the agent's thread is gone and the library unmapped, and frees `inject` in every
 * case. -ETIMEDOUT: the agent is still leaving, and will go by itself. 0 also when the target ended meanwhile. Calling
 * it is optional for the target's sake: a lowtide that just ends has the same effect. NULL is allowed. */
int inject_close(inject_t *inject, err_t *e);

/* As inject_close, without waiting. */
void inject_leave(inject_t *inject);

/* What this machine allows, for `lowtide doctor`. */
typedef struct inject_probe {
    int yama_scope;      /* kernel.yama.ptrace_scope, -1 where there is no yama */
    bool cap_sys_ptrace; /* this process has CAP_SYS_PTRACE */
    bool pidfd_getfd;    /* Linux 5.6 and later, and not filtered */
    bool memfd;          /* memfd_create works */
    int seccomp;         /* of this process: 0 none, 1 strict, 2 filter */
    char advice[240];    /* one line: what to do where something is missing; "" when all is well */
} inject_probe_t;

int inject_probe(inject_probe_t *out); /* 0 or a negative errno */

#endif
