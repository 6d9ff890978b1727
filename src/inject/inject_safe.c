#define _GNU_SOURCE
#include "inject/inject_safe.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <ucontext.h>

#define PF_EXITING     0x00000004u
#define PF_IO_WORKER   0x00000010u
#define PF_USER_WORKER 0x00004000u

#define SCAN_BYTES 65536

/* How well a wait in this system call takes an interruption: 0 exactly restarted by the kernel, 1 made again
 * by us, 2 with time limits of which nobody knows what is left; -1 not to be interrupted, or locks may be held over it. */
static int call_rank(long number, const uint64_t args[6], target_code_t code) {
    switch (number) {
    case SYS_read:
    case SYS_readv:
    case SYS_pread64:
    case SYS_recvmsg:
    case SYS_accept:
    case SYS_accept4:
    case SYS_poll:
    case SYS_ppoll:
    case SYS_select:
    case SYS_pselect6:
    case SYS_nanosleep:
    case SYS_clock_nanosleep:
    case SYS_wait4:
    case SYS_waitid:
    case SYS_pause:
    case SYS_rt_sigsuspend:
    case SYS_flock:
    case SYS_msgrcv:
    case SYS_restart_syscall:
        return 0;
    case SYS_recvfrom:
        return args[3] & MSG_WAITALL ? -1 : 0;
    case SYS_futex:
        /* Conditions, semaphores and joins wait with a bit set; plain waits in libc are for its own locks. */
        return (args[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET || code == TARGET_CODE_OTHER ? 0
                                                                                            : -1;
    case SYS_rt_sigtimedwait:
        return args[2] == 0 ? 1 : -1;
    case SYS_semtimedop:
        return args[3] == 0 ? 1 : -1;
    case SYS_semop:
        return 1;
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
        return (int)args[3] <= 0 ? 1 : 2;
    case SYS_epoll_pwait2:
        return args[3] == 0 ? 1 : 2;
    default:
        return -1;
    }
}

static int thread_rank(const inject_target_t *t, pid_t tid, const char **why) {
    proc_stat_t stat;
    proc_call_t call;
    if (proc_stat_read(t->pid, tid, &stat) || proc_call_read(t->pid, tid, &call)) return -1;
    if (stat.flags & (PF_EXITING | PF_IO_WORKER | PF_USER_WORKER)) return -1;
    if (stat.state != 'R' && stat.state != 'S') {
        *why = stat.state == 'D' ? "waits in the kernel and cannot be interrupted" : "is stopped";
        return -1;
    }
    if (call.running || call.number < 0) return 3;
    target_code_t code = target_code_at(t, call.pc);
    int rank = code == TARGET_CODE_UNSAFE ? -1 : call_rank(call.number, call.args, code);
    if (rank < 0) *why = "waits in a system call that should not be interrupted";
    return rank;
}

static int by_rank(const void *a, const void *b) {
    const safe_thread_t *x = a, *y = b;
    return x->rank != y->rank ? x->rank - y->rank : (x->tid > y->tid) - (x->tid < y->tid);
}

int safe_candidates(const inject_target_t *t, safe_thread_vec_t *out, const char **why) {
    pid_vec_t threads = {0};
    int status = proc_threads(t->pid, &threads);
    out->count = 0;
    for (size_t i = 0; status == 0 && i < threads.count; i++) {
        safe_thread_t s = {threads.at[i], thread_rank(t, threads.at[i], why)};
        if (s.rank >= 0) status = safe_thread_vec_push(out, s);
    }
    pid_vec_free(&threads);
    if (out->count > 1) qsort(out->at, out->count, sizeof *out->at, by_rank);
    return status;
}

/* Whether a signal frame starts here whose handler still runs: its signal is then blocked, or tells of a fault. */
static bool is_live_frame(const uint8_t *at, size_t room, uint64_t blocked) {
    ucontext_t uc;
    int signo;
    if (room < 8 + 304 + sizeof signo) return false;
    memcpy(&uc, at + 8, 304);
    memcpy(&signo, at + 8 + 304, sizeof signo);
    bool plausible = (uc.uc_flags & ~7UL) == 0 && uc.uc_link == NULL &&
                     (uc.uc_mcontext.gregs[REG_CSGSFS] & 0xffff) == 0x33;
    if (!plausible || signo < 1 || signo > 64) return false;
    return signo == 4 || signo == 7 || signo == 8 || signo == 11 || (blocked >> (signo - 1) & 1);
}

static bool in_signal_handler(const inject_target_t *t, const thread_t *thread,
                              const proc_map_t *stack) {
    uint64_t sp = thread->state.regs.rsp & ~7ULL;
    size_t bytes = stack->end - sp < SCAN_BYTES ? stack->end - sp : SCAN_BYTES;
    uint8_t *copy = malloc(bytes);
    bool found = !copy || elf_read(t->mem_fd, sp, copy, bytes);
    for (size_t i = 0; !found && i + 8 <= bytes; i += 8) {
        uint64_t word;
        unsigned char code[9];
        memcpy(&word, copy + i, 8);
        if (target_code_at(t, word) == TARGET_CODE_NONE) continue;
        /* Not only libc has the two instructions that lead back from a handler. */
        if (elf_read(t->mem_fd, word, code, sizeof code) ||
            memcmp(code, "\x48\xc7\xc0\x0f\0\0\0\x0f\x05", 9) != 0)
            continue;
        found = is_live_frame(copy + i, bytes - i, thread->state.sigmask);
    }
    free(copy);
    return found;
}

/* The thread descriptor of glibc begins with its own address, and has it again 16 bytes on. */
static bool has_own_descriptor(const inject_target_t *t, const thread_t *thread) {
    uint64_t head[3], fs = thread->state.regs.fs_base;
    return elf_read(t->mem_fd, fs, head, sizeof head) == 0 && head[0] == fs && head[2] == fs;
}

/* In a restartable sequence the kernel must see each interruption, or its guarantees are lost. */
static bool in_rseq(const inject_target_t *t, const thread_t *thread) {
    struct __ptrace_rseq_configuration c = {0};
    uint64_t section_at = 0, section[3];
    long n = ptrace(PTRACE_GET_RSEQ_CONFIGURATION, thread->tid, (void *)sizeof c, &c);
    if (n <= 0 || !c.rseq_abi_pointer ||
        elf_read(t->mem_fd, c.rseq_abi_pointer + 8, &section_at, 8) || !section_at)
        return false;
    if (elf_read(t->mem_fd, section_at, section, sizeof section)) return true;
    return thread->state.regs.rip - section[1] < section[2]; /* version and flags, start, length */
}

bool safe_code(const inject_target_t *t, const thread_t *thread) {
    const struct user_regs_struct *r = &thread->state.regs;
    target_code_t code = target_code_at(t, r->rip);
    if (code != TARGET_CODE_LIBC) return code == TARGET_CODE_OTHER;
    /* After the fix of an interrupted call (see thread_stop) it stands before its instruction again. */
    long number = thread->fixed_call ? (long)r->rax : (long)r->orig_rax;
    uint64_t args[6] = {r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9};
    return number >= 0 && call_rank(number, args, code) >= 0;
}

/* The main thread's stack grows by itself. */
static bool has_room(const thread_t *thread, const proc_map_t *stack) {
    if (!stack || !stack->writable) return false;
    return strcmp(stack->path, "[stack]") == 0 ||
           thread->state.regs.rsp - stack->start >= thread->state.xstate_bytes + 1024;
}

bool safe_here(const inject_target_t *t, const thread_t *thread, const char **why) {
    const proc_map_t *stack = proc_maps_find(&t->maps, thread->state.regs.rsp);
    *why = "is inside the C library";
    if (!safe_code(t, thread)) return false;
    *why = "waits while its loader is busy";
    if (!target_loader_rests(t)) return false;
    *why = "is on a stack without room";
    if (!has_room(thread, stack)) return false;
    *why = "is not a thread of the C library";
    if (!has_own_descriptor(t, thread)) return false;
    *why = "is in a restartable sequence";
    if (in_rseq(t, thread)) return false;
    *why = "is in a signal handler";
    return !in_signal_handler(t, thread, stack);
}
