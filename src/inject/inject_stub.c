#define _GNU_SOURCE
#include "inject/inject_stub.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

/* Nothing here may need a relocation, a constant elsewhere, or a function of this program: no strings, no switch, no
 * big initializers. The build turns off what compilers add of their own (see CMakeLists.txt), and
 * tests/unit/test_inject_stub.c runs a copy of the section at another address. */
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1U << 1)
#endif
#define LOOK_AT_FDS 65536

#define STUB __attribute__((section("lowtide_stub"), noinline, used))
#define PART static inline __attribute__((always_inline))

PART long call6(long nr, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
PART long call3(long nr, long a, long b, long c) {
    return call6(nr, a, b, c, 0, 0, 0);
}

PART void sys_close(int fd) {
    if (fd >= 0) call3(SYS_close, fd, 0, 0);
}

/* Out of the way of programs that count on getting the lowest number; where there is no room above, it stays. */
PART int sys_move_up(const inject_context_t *c, int fd) {
    int high = (int)call3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, c->fd_floor);
    if (high < 0) return fd;
    sys_close(fd);
    return high;
}

PART void borrowed_failed(inject_context_t *c, int step, long code) {
    c->failed_step = step;
    c->failed_errno = (int)-code;
}

/* Which socket it is; 0 = none. */
PART uint64_t sys_socket_inode(int fd) {
    struct stat st;
    if (call3(SYS_fstat, fd, (long)&st, 0) < 0 || !S_ISSOCK(st.st_mode)) return 0;
    return st.st_ino;
}

PART long make_sockets(inject_context_t *c) {
    int ends[2];
    long r = call6(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, (long)ends, 0, 0);
    if (r < 0) return r;
    c->guest_fd = sys_move_up(c, ends[0]);
    c->our_fd = sys_move_up(c, ends[1]);
    c->socket_inodes[0] = sys_socket_inode(c->guest_fd);
    c->socket_inodes[1] = sys_socket_inode(c->our_fd);
    return 0;
}

/* Out of the program's table, where the numbers may mean something else by now. */
PART void close_sockets(const inject_context_t *c) {
    if (sys_socket_inode(c->guest_fd) == c->socket_inodes[0]) sys_close(c->guest_fd);
    if (sys_socket_inode(c->our_fd) == c->socket_inodes[1]) sys_close(c->our_fd);
}

PART void borrowed_make_guest(inject_context_t *c) {
    long r = c->own_socket ? 0 : make_sockets(c);
    if (r < 0) {
        borrowed_failed(c, INJECT_STEP_SOCKETPAIR, r);
        return;
    }
    unsigned long thread;
    c->attr_init(c->thread_attr);
    c->attr_setdetachstate(c->thread_attr, PTHREAD_CREATE_DETACHED);
    c->attr_setstacksize(c->thread_attr, INJECT_GUEST_STACK);
    int code = c->thread_create(&thread, c->thread_attr, c->guest, c);
    if (code != 0) {
        borrowed_failed(c, INJECT_STEP_THREAD, -code);
        sys_close(c->guest_fd);
        sys_close(c->our_fd);
    }
}

STUB __attribute__((visibility("hidden"))) void inject_stub_borrowed(inject_context_t *c) {
    int *errno_place = c->errno_location();
    int errno_before = *errno_place;
    borrowed_make_guest(c);
    *errno_place = errno_before;
}

PART void sys_sleep_ms(void) {
    struct timespec pause;
    pause.tv_sec = 0;
    pause.tv_nsec = 1000000;
    call3(SYS_nanosleep, (long)&pause, 0, 0);
}

/* ── The closer ── */

/* Has the program's table, no stack but its own, and of libc nothing: system calls alone. */
STUB __attribute__((visibility("hidden"), noreturn)) void inject_stub_close(inject_context_t *c) {
    const volatile int32_t *let_go = &c->let_go;
    while (!*let_go) sys_sleep_ms();
    close_sockets(c);
    for (;;) call3(SYS_exit, 0, 0, 0);
}

PART long guest_start_closer(inject_context_t *c) {
    register long child_tid __asm__("r10") = (long)&c->closer;
    register inject_context_t *context __asm__("r12") = c;
    long stack = (long)(c->region + INJECT_CODE_BYTES + INJECT_CONTEXT_BYTES + INJECT_CLOSER_BYTES);
    long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                 CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    long result;
    __asm__ volatile("syscall\n"
                     "test %%rax, %%rax\n"
                     "jnz 1f\n"
                     "xor %%ebp, %%ebp\n"
                     "mov %%r12, %%rdi\n"
                     "call inject_stub_close\n"
                     "1:\n"
                     : "=a"(result)
                     : "a"(SYS_clone), "D"(flags), "S"(stack), "d"(&c->closer), "r"(child_tid),
                       "r"(context)
                     : "rcx", "r11", "memory", "cc");
    return result < 0 ? result : 0;
}

/* ── The guest ── */

/* A table of file descriptors of its own with nothing in it but `keep`; -1 = nothing at all. */
PART long guest_own_files(int keep) {
    long all = keep < 0 ? 0xffffffffL : (long)keep - 1;
    long r = keep == 0 ? call3(SYS_unshare, CLONE_FILES, 0, 0)
                       : call3(SYS_close_range, 0, all, CLOSE_RANGE_UNSHARE);
    if (r == 0 && keep < 0) return 0;
    if (r == 0) r = call3(SYS_close_range, (long)keep + 1, 0xffffffffL, 0);
    if (r == 0) return 0;
    /* Before Linux 5.9 there is no close_range. */
    r = call3(SYS_unshare, CLONE_FILES, 0, 0);
    for (int fd = 0; r == 0 && fd < LOOK_AT_FDS; fd++)
        if (fd != keep) sys_close(fd);
    return r;
}

PART bool guest_say(const inject_context_t *c, uint64_t magic, int code, const char *text) {
    inject_word_t word;
    word.magic = magic;
    word.tid = call3(SYS_gettid, 0, 0, 0);
    word.code = code;
    word.zero = 0;
    const volatile char *end = text;
    while (text && *end && end - text < 400) end++;
    struct iovec parts[2];
    parts[0].iov_base = &word;
    parts[0].iov_len = sizeof word;
    parts[1].iov_base = (void *)text;
    parts[1].iov_len = text ? (size_t)(end - text) : 0;
    struct msghdr m;
    m.msg_name = 0;
    m.msg_namelen = 0;
    m.msg_iov = parts;
    m.msg_iovlen = 2;
    m.msg_control = 0;
    m.msg_controllen = 0;
    m.msg_flags = 0;
    return call3(SYS_sendmsg, c->guest_fd, (long)&m, MSG_NOSIGNAL) > 0;
}

typedef struct gift {
    int memfd;    /* the library; -1 = none came */
    int proc_dir; /* somebody's /proc for targets without one; -1 = not needed */
} gift_t;

/* Waits for the library's file descriptor, and for a directory where the target has no /proc. */
PART void guest_receive(const inject_context_t *c, gift_t *gift) {
    struct pollfd p;
    p.fd = c->guest_fd;
    p.events = POLLIN;
    p.revents = 0;
    if (call3(SYS_poll, (long)&p, 1, c->patience_ms) <= 0) return;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    char byte;
    struct iovec part;
    part.iov_base = &byte;
    part.iov_len = 1;
    struct msghdr m;
    m.msg_name = 0;
    m.msg_namelen = 0;
    m.msg_iov = &part;
    m.msg_iovlen = 1;
    m.msg_control = control.bytes;
    m.msg_controllen = sizeof control.bytes;
    m.msg_flags = 0;
    if (call3(SYS_recvmsg, c->guest_fd, (long)&m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0) return;
    if (m.msg_controllen < CMSG_LEN(sizeof(int)) || control.align.cmsg_type != SCM_RIGHTS) return;
    const volatile int *fds = (const volatile int *)CMSG_DATA(&control.align);
    gift->memfd = sys_move_up(c, fds[0]);
    if (control.align.cmsg_len >= CMSG_LEN(2 * sizeof(int)))
        gift->proc_dir = sys_move_up(c, fds[1]);
}

PART long guest_root(int dir) {
    volatile char here[2]; /* a string would lie outside of what was copied */
    here[0] = '.';
    here[1] = 0;
    long r = call3(SYS_fchdir, dir, 0, 0);
    return r ? r : call3(SYS_chroot, (long)here, 0, 0);
}

/* Somebody's /proc becomes the root of this thread alone; *root is for the way back. To be in it is not enough: of a library by a
 * relative path glibc wants the directory that it is relative to, and where that lies outside of the root it reads directories for
 * it (getcwd), which does not always come to an end. */
PART long guest_enter_proc(int proc_dir, int *root) {
    volatile char top[2];
    top[0] = '/';
    top[1] = 0;
    long r = call3(SYS_unshare, CLONE_FS, 0, 0);
    if (r == 0) r = call3(SYS_open, (long)top, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (r < 0) return r;
    *root = (int)r;
    return guest_root(proc_dir);
}

/* Writes the number behind the path and opens it. */
PART void *guest_dlopen(inject_context_t *c, const gift_t *gift) {
    volatile char *p = c->path;
    while (*p) p++;
    int scale = 1;
    while (gift->memfd / scale >= 10) scale *= 10;
    for (; scale > 0; scale /= 10) *p++ = (char)('0' + gift->memfd / scale % 10);
    *p = 0;
    return c->dlopen(c->path, RTLD_NOW | RTLD_LOCAL);
}

PART void guest_host_library(inject_context_t *c, const gift_t *gift) {
    struct pollfd p;
    p.fd = c->guest_fd;
    p.events = 0;
    p.revents = 0;
    call3(SYS_poll, (long)&p, 1, 0);
    if (p.revents) return; /* lowtide is gone */
    int root = -1;
    if (gift->proc_dir >= 0 && guest_enter_proc(gift->proc_dir, &root) != 0) {
        guest_say(c, INJECT_LOADED_MAGIC, INJECT_NO_PROC, 0);
        return;
    }
    void *library = guest_dlopen(c, gift);
    if (root >= 0) {
        guest_root(root);
        sys_close(root);
    }
    int (*start)(int) = library ? (int (*)(int))(uintptr_t)c->dlsym(library, c->entry_name) : 0;
    int outcome = !library ? INJECT_NO_LIBRARY : !start ? INJECT_NO_ENTRY : INJECT_LOADED;
    if (guest_say(c, INJECT_LOADED_MAGIC, outcome, outcome == INJECT_LOADED ? 0 : c->dlerror()) &&
        outcome == INJECT_LOADED)
        start(c->guest_fd);
    if (library) c->dlclose(library);
}

/* It was born with all signals blocked, those of libc itself too, to which each thread must answer: setuid waits for that. */
PART void guest_unblock_libc(void) {
    uint64_t cancel_and_setxid = 3ULL << 31;
    call6(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&cancel_and_setxid, 0, sizeof cancel_and_setxid, 0,
          0);
}

/* Gets a table of its own and its socket into it. */
PART long guest_settle(inject_context_t *c) {
    long r = c->own_socket ? 0 : guest_start_closer(c);
    if (r < 0) close_sockets(c);
    if (r == 0) r = guest_own_files(c->own_socket ? -1 : c->guest_fd);
    if (r == 0 && c->own_socket) r = make_sockets(c);
    if (r == 0 && sys_socket_inode(c->guest_fd) != c->socket_inodes[0]) r = -EBADF;
    return r;
}

PART void guest_serve(inject_context_t *c) {
    gift_t gift;
    gift.memfd = -1;
    gift.proc_dir = -1;
    guest_say(c, INJECT_HELLO_MAGIC, 0, 0);
    guest_receive(c, &gift);
    *(volatile int32_t *)&c->let_go = 1;
    if (c->own_socket) sys_close(c->our_fd); /* fetched by now, or nobody will */
    if (gift.memfd >= 0) guest_host_library(c, &gift);
    sys_close(gift.memfd);
    sys_close(gift.proc_dir);
    sys_close(c->guest_fd);
}

STUB __attribute__((visibility("hidden"))) void inject_stub_serve(inject_context_t *c) {
    call3(SYS_madvise, (long)c->region, (long)c->region_bytes, MADV_DONTFORK);
    call3(SYS_prctl, PR_SET_NAME, (long)c->thread_name, 0);
    long settled = guest_settle(c); /* with all signals blocked, for the closer */
    guest_unblock_libc();
    *(volatile int32_t *)&c->ready = (int32_t)(settled < 0 ? settled : call3(SYS_gettid, 0, 0, 0));
    if (settled == 0) guest_serve(c);
    *(volatile int32_t *)&c->let_go = 1;
    const volatile int64_t *left = c->left;
    const volatile int32_t *closer = &c->closer;
    while ((left[0] == 0 && left[1] == 0) || *closer) sys_sleep_ms();
}

#define STRING_OF(x) #x
#define STRING(x)    STRING_OF(x)

/* Top-level assembly cannot take operands, so the offsets that it uses are fixed here and proven. */
#define AT_MUNMAP     80
#define AT_GADGET     88
#define AT_RETURN_SP  96
#define AT_REGION     104
#define AT_REGION_END 112
#define AT_MXCSR      128
#define AT_LEFT       312
_Static_assert(offsetof(inject_context_t, munmap) == AT_MUNMAP, "as the assembly says");
_Static_assert(offsetof(inject_context_t, syscall_then_ret) == AT_GADGET, "as the assembly says");
_Static_assert(offsetof(inject_context_t, return_sp) == AT_RETURN_SP, "as the assembly says");
_Static_assert(offsetof(inject_context_t, region) == AT_REGION, "as the assembly says");
_Static_assert(offsetof(inject_context_t, region_bytes) == AT_REGION_END, "as the assembly says");
_Static_assert(offsetof(inject_context_t, mxcsr) == AT_MXCSR, "as the assembly says");
_Static_assert(offsetof(inject_context_t, left) == AT_LEFT, "as the assembly says");
_Static_assert(SYS_clock_gettime == 228 && CLOCK_MONOTONIC == 1, "as the assembly says");

__asm__(
    ".pushsection lowtide_stub, \"ax\", @progbits\n"
    ".hidden inject_stub_enter\n"
    ".globl inject_stub_enter\n"
    ".type inject_stub_enter, @function\n"
    "inject_stub_enter:\n"
    "    fninit\n"
    "    ldmxcsr " STRING(
        AT_MXCSR) "(%rbx)\n"
                  "    mov %rbx, %rdi\n"
                  "    call inject_stub_borrowed\n"
                  "    mov " STRING(
                      AT_RETURN_SP) "(%rbx), %rsp\n"
                                    "    lea " STRING(
                                        AT_LEFT) "(%rbx), %rsi\n"
                                                 "    mov $1, %edi\n"
                                                 "    mov $228, %eax\n"
                                                 "    jmp *" STRING(
                                                     AT_GADGET) "(%rbx)\n"
                                                                ".size inject_stub_enter, . - "
                                                                "inject_stub_enter\n"
                                                                ".hidden inject_stub_guest\n"
                                                                ".globl inject_stub_guest\n"
                                                                ".type inject_stub_guest, "
                                                                "@function\n"
                                                                "inject_stub_guest:\n"
                                                                "    push %rbx\n"
                                                                "    mov %rdi, %rbx\n"
                                                                "    call inject_stub_serve\n"
                                                                "    mov " STRING(
                                                                    AT_MUNMAP) "(%rbx), %rax\n"
                                                                               "    mov " STRING(
                                                                                   AT_REGION) "(%"
                                                                                              "rbx)"
                                                                                              ", "
                                                                                              "%rdi"
                                                                                              "\n"
                                                                                              "    "
                                                                                              "mov"
                                                                                              " " STRING(
                                                                                                  AT_REGION_END) "(%rbx), %rsi\n"
                                                                                                                 "    pop %rbx\n"
                                                                                                                 "    jmp *%rax\n"
                                                                                                                 ".size inject_stub_guest, . - inject_stub_guest\n"
                                                                                                                 ".popsection\n");
