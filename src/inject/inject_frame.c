#define _GNU_SOURCE
#include "inject/inject_frame.h"

#include <cpuid.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

/* The kernel's uapi/asm/sigcontext.h cannot be included beside glibc's ucontext.h. */
#define FP_XSTATE_MAGIC1 0x46505853u
#define FP_XSTATE_MAGIC2 0x46505845u
typedef struct xstate_software {
    uint32_t magic1, extended_bytes;
    uint64_t features;
    uint32_t xstate_bytes;
    uint32_t padding[7];
} xstate_software_t;
_Static_assert(sizeof(xstate_software_t) == 48, "the bytes that FXSAVE leaves to software");

#define SOFTWARE_AT  464
#define XSTATE_BV_AT 512
#define XSAVE_HEAD   576
#define TILE_DATA    (1ULL << 18)
#define RED_ZONE     128
#define KERNEL_UC    304 /* the kernel's struct ucontext: its signal mask has 8 bytes */
#define UC_FLAGS     7   /* extended state, SS is saved, SS is restored */
_Static_assert(offsetof(ucontext_t, uc_sigmask) == KERNEL_UC - 8,
               "glibc lays out the rest like the kernel");

/* In the uncompacted format each feature has its place, so the size follows from the last one. Tiles count only where they
 * are in use: the kernel refuses a frame with room for them from a process that never asked for them. */
static size_t xsave_bytes(uint64_t features) {
    size_t bytes = XSAVE_HEAD;
    for (unsigned i = 2; i < 63; i++) {
        unsigned size, offset, c, d;
        if (!(features >> i & 1) || !__get_cpuid_count(0xd, i, &size, &offset, &c, &d)) continue;
        if (offset + size > bytes) bytes = offset + size;
    }
    return bytes;
}

static int frame_put_xstate(const frame_state_t *s, uint8_t *to, size_t *bytes) {
    uint64_t features = 0, in_use = 0;
    xstate_software_t software = {0};
    if (s->xstate_bytes >= XSAVE_HEAD) {
        memcpy(&features, s->xstate + SOFTWARE_AT, 8);
        memcpy(&in_use, s->xstate + XSTATE_BV_AT, 8);
    }
    if (!(in_use & TILE_DATA)) features &= ~TILE_DATA;
    *bytes = features ? xsave_bytes(features) : 512;
    if (*bytes > s->xstate_bytes) return -EOVERFLOW;
    memcpy(to, s->xstate, *bytes);
    if (features) {
        uint32_t magic2 = FP_XSTATE_MAGIC2;
        software = (xstate_software_t){.magic1 = FP_XSTATE_MAGIC1,
                                       .extended_bytes = (uint32_t)*bytes + 4,
                                       .features = features,
                                       .xstate_bytes = (uint32_t)*bytes};
        memcpy(to + *bytes, &magic2, 4);
        *bytes += 4;
    }
    memcpy(to + SOFTWARE_AT, &software, sizeof software);
    return 0;
}

/* What the kernel does about an interrupted system call before it returns to a program without a handler. */
static struct user_regs_struct regs_restarted(const struct user_regs_struct *regs) {
    struct user_regs_struct r = *regs;
    long result = (long)r.rax;
    if ((long)r.orig_rax < 0) return r;
    if (result == -512 || result == -513 || result == -514) { /* ERESTARTSYS, NOINTR, NOHAND */
        r.rax = r.orig_rax;
        r.rip -= 2;
    } else if (result == -516) { /* ERESTART_RESTARTBLOCK: rt_sigreturn forgets the block */
        r.rax = (unsigned long)-EINTR;
    }
    return r;
}

int frame_build(const frame_state_t *s, uint64_t restorer, frame_image_t *out) {
    struct user_regs_struct r = regs_restarted(&s->regs);
    uint8_t *xstate = out->at + 320; /* restorer and ucontext, rounded up to 64 */
    size_t xstate_bytes;
    int status = frame_put_xstate(s, xstate, &xstate_bytes);
    if (status) return status;
    out->bytes = 320 + xstate_bytes;
    out->address = (s->regs.rsp - RED_ZONE - out->bytes) & ~63ULL;
    ucontext_t uc = {.uc_flags = UC_FLAGS};
    uc.uc_stack.ss_flags =
        0x7fff; /* not valid: the kernel then leaves the alternate stack as it is */
    greg_t *g = uc.uc_mcontext.gregs;
    const unsigned long long from[] = {
        [REG_R8] = r.r8,   [REG_R9] = r.r9,      [REG_R10] = r.r10, [REG_R11] = r.r11,
        [REG_R12] = r.r12, [REG_R13] = r.r13,    [REG_R14] = r.r14, [REG_R15] = r.r15,
        [REG_RDI] = r.rdi, [REG_RSI] = r.rsi,    [REG_RBP] = r.rbp, [REG_RBX] = r.rbx,
        [REG_RDX] = r.rdx, [REG_RAX] = r.rax,    [REG_RCX] = r.rcx, [REG_RSP] = r.rsp,
        [REG_RIP] = r.rip, [REG_EFL] = r.eflags,
    };
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) g[i] = (greg_t)from[i];
    g[REG_CSGSFS] = (greg_t)((r.cs & 0xffff) | (r.gs & 0xffff) << 16 | (r.fs & 0xffff) << 32 |
                             (r.ss & 0xffff) << 48);
    uc.uc_mcontext.fpregs = (fpregset_t)(uintptr_t)(out->address + 320);
    memcpy(&uc.uc_sigmask, &s->sigmask, 8);
    memset(out->at, 0, 320);
    memcpy(out->at, &restorer, 8);
    memcpy(out->at + 8, &uc, KERNEL_UC);
    return 0;
}
