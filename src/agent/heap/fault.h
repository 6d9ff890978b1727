/* Faults of the walk: SIGSEGV and SIGBUS come back as a return value.
 *
 *     fault_t f;
 *     fault_open(&f);
 *     if (fault_mark(&f)) { … the code below faulted, once more … }
 *     … code that may fault …
 *     fault_close(&f);
 *
 * fault_mark returns 0 when called and, each time a fault happens in this thread until fault_close, returns again from the
 * same place with the signal's number. The function that calls it must stay on the stack, and what it needs after a fault
 * must not live in its registers (volatile, or behind a pointer). One walk a process at a time.
 */
#ifndef LOWTIDE_HEAP_FAULT_H
#define LOWTIDE_HEAP_FAULT_H

#include <setjmp.h>
#include <signal.h>

typedef struct fault {
    sigjmp_buf back;
    struct sigaction old_segv, old_bus;
    sigset_t old_mask;
    stack_t old_stack;
    void *stack;
    long thread;
} fault_t;

int fault_open(fault_t *f); /* 0 or a negative errno */
void fault_close(fault_t *f);

#define fault_mark(f) sigsetjmp((f)->back, 0)

#endif
