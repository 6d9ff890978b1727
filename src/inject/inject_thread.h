/* One thread of the target under ptrace: stopped, made to do something, and put back as it was.
 *
 * All calls of one thread_t come from the same thread of ours; when that one ends, the kernel lets go what it holds.
 * Whatever happens to us between two calls, the thread stays able to go on by itself:
 *   - until thread_arm it has its own registers;
 *   - from the first thread_call on, its next `ret` goes to rt_sigreturn on the armed frame;
 *   - the signal mask is changed only while that holds.
 *
 * Signals that arrive meanwhile are blocked and stay pending, except those that tell of a fault; those that cannot be
 * blocked (SIGSTOP) are passed on. */
#ifndef LOWTIDE_INJECT_INJECT_THREAD_H
#define LOWTIDE_INJECT_INJECT_THREAD_H

#include "base/err.h"
#include "inject/inject_frame.h"
#include "inject/inject_proc.h"

typedef struct thread {
    pid_t pid, tid;
    int mem_fd;
    bool foreign;        /* it has registers of ours */
    bool masked;         /* and our signal mask */
    bool fixed_call;     /* regs differ from what the kernel holds: an epoll_wait is made again */
    frame_state_t state; /* as it was found, or as it is to go on */
    frame_image_t frame;
    uint64_t syscall_then_ret, restorer;
    proc_call_t
        waited_in; /* what it was seen waiting in before; makes an exact restart of epoll_wait possible */
    int64_t asleep_ms, seen_at_ms; /* -1: not known */
    long switches;
} thread_t;

/* Looks at the thread while it runs on: fills waited_in and what goes with it. */
void thread_watch(thread_t *t);

/* Stops it. 0; -ESRCH (gone), -EBUSY (job control stopped the process), -EAGAIN (exec), -EPERM, -ETIMEDOUT: it does not stop, and lets
 * itself be let go only by the end of the calling thread. */
int thread_stop(thread_t *t, int64_t deadline_ms);

/* Writes the frame that brings the thread back. -EFAULT: there is no room on its stack. */
int thread_arm(thread_t *t);

/* The thread makes a system call. `result` is what the kernel gives: negative errno on failure. */
int thread_call(thread_t *t, long number, const uint64_t args[6], long *result,
                int64_t deadline_ms);

/* The thread runs from `pc` with rbx = `context` until it is through the instruction at syscall_then_ret. -EFAULT: our code crashed there (the
 * signal is not delivered); -ETIMEDOUT: it waits for something. */
int thread_run(thread_t *t, uint64_t pc, uint64_t sp, uint64_t context, int64_t deadline_ms);

int thread_poke(thread_t *t, uint64_t address, const void *from,
                size_t bytes); /* writes even where it may only execute */

/* Puts everything back and lets go. The thread may be gone, which is no failure. */
void thread_release(thread_t *t);

/* Lets go without putting anything back: for a thread that runs our code and will find back by itself. */
void thread_abandon(thread_t *t);

#endif
