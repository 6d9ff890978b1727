/* A signal frame, as the kernel would have made it: rt_sigreturn on it puts a thread back where it was. */
#ifndef LOWTIDE_INJECT_INJECT_FRAME_H
#define LOWTIDE_INJECT_INJECT_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <sys/user.h>

/* Room for the largest state that x86-64 knows today (11 KiB with AMX tiles), and for more. */
#define FRAME_XSTATE_MAX 16384

typedef struct frame_state {
    struct user_regs_struct regs;
    uint64_t sigmask;
    size_t xstate_bytes;
    uint8_t xstate[FRAME_XSTATE_MAX]
        __attribute__((aligned(64))); /* as PTRACE_GETREGSET gives it */
} frame_state_t;

typedef struct frame_image {
    uint64_t address; /* where it belongs; a stack pointer from which `ret` goes to rt_sigreturn */
    size_t bytes;
    uint8_t at[FRAME_XSTATE_MAX + 1024];
} frame_image_t;

/* A frame for the stack of a thread in this state, below its red zone. A system call that was interrupted is made again
 * by it, or, where only the kernel could do that, gives EINTR as after a signal. `restorer` is the address of
 * "mov $15, %rax; syscall" there. Returns 0, or -EOVERFLOW when the state is larger than anything known. */
int frame_build(const frame_state_t *state, uint64_t restorer, frame_image_t *out);

#endif
