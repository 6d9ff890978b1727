#define _GNU_SOURCE
#include "agent/heap/fault.h"

#include "base/mem.h"

#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FAULT_STACK_BYTES = 64 << 10 };

static fault_t *volatile fault_current;

/* In place, other threads of the target run on: their faults go where they went before. */
static void fault_pass_on(int sig, siginfo_t *info, void *context) {
    const struct sigaction *old =
        sig == SIGBUS ? &fault_current->old_bus : &fault_current->old_segv;
    if (old->sa_flags & SA_SIGINFO)
        old->sa_sigaction(sig, info, context);
    else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)
        old->sa_handler(sig);
    else
        sigaction(sig, old,
                  NULL); /* the instruction is run again, and the signal taken by default */
}

static void fault_handle(int sig, siginfo_t *info, void *context) {
    fault_t *f = fault_current;
    if (!f) return;
    if (syscall(SYS_gettid) != f->thread) {
        fault_pass_on(sig, info, context);
        return;
    }
    siglongjmp(f->back, sig);
}

int fault_open(fault_t *f) {
    f->thread = syscall(SYS_gettid);
    f->stack = mem_map(FAULT_STACK_BYTES);
    if (!f->stack) return -ENOMEM;
    stack_t stack = {.ss_sp = f->stack, .ss_size = FAULT_STACK_BYTES};
    sigaltstack(&stack, &f->old_stack);
    /* A fault whose signal is blocked ends the process; the agent's thread blocks all of them. */
    sigset_t faults;
    sigemptyset(&faults);
    sigaddset(&faults, SIGSEGV);
    sigaddset(&faults, SIGBUS);
    sigprocmask(SIG_UNBLOCK, &faults, &f->old_mask);
    fault_current = f;
    /* Not blocked while handled: the handler is left by a jump. */
    struct sigaction action = {.sa_sigaction = fault_handle,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &f->old_segv);
    sigaction(SIGBUS, &action, &f->old_bus);
    return 0;
}

void fault_close(fault_t *f) {
    sigaction(SIGSEGV, &f->old_segv, NULL);
    sigaction(SIGBUS, &f->old_bus, NULL);
    fault_current = NULL;
    sigprocmask(SIG_SETMASK, &f->old_mask, NULL);
    sigaltstack(&f->old_stack, NULL);
    mem_unmap(f->stack, FAULT_STACK_BYTES);
}
