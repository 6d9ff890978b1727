/* inject_calls NAME: a process that waits in one system call, or computes with all registers in use, and tells what it saw.
 *
 * For the injector it looks like a Python: it exports what that looks for. It has one thread, so that this is the one which is
 * borrowed. Prints "ready", does it, and prints "NAME RESULT ERRNO", then "early" when a wait ended before its time. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))
EXPORTED const unsigned long Py_Version = 0x030d00f0;
EXPORTED int _PyRuntime;
EXPORTED int Py_IsInitialized(void) {
    return 1;
}

#define WAIT_MS 700

static int pipe_fds[2];

static struct timespec in_ms(clockid_t clock, long ms) {
    struct timespec t = {0, 0};
    if (clock >= 0) clock_gettime(clock, &t);
    long ns = t.tv_nsec + ms % 1000 * 1000000;
    return (struct timespec){t.tv_sec + ms / 1000 + ns / 1000000000, ns % 1000000000};
}

/* ── Waits that end by their time limit ── */

static long do_nanosleep(void) {
    struct timespec t = in_ms(-1, WAIT_MS);
    return syscall(SYS_nanosleep, &t, &t);
}
static long do_clock_nanosleep(void) {
    struct timespec t = in_ms(CLOCK_MONOTONIC, WAIT_MS);
    return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}
static long do_poll(void) {
    struct pollfd p = {pipe_fds[0], POLLPRI, 0};
    return syscall(SYS_poll, &p, 1, WAIT_MS);
}
static long do_ppoll(void) {
    struct pollfd p = {pipe_fds[0], POLLPRI, 0};
    struct timespec t = in_ms(-1, WAIT_MS);
    sigset_t mask;
    sigemptyset(&mask);
    return ppoll(&p, 1, &t, &mask);
}
static long do_select(void) {
    struct timeval t = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000};
    return select(0, NULL, NULL, NULL, &t);
}
static long do_epoll_timed(void) {
    struct epoll_event event;
    return epoll_wait(epoll_create1(0), &event, 1, WAIT_MS);
}
static long do_epoll_pwait_timed(void) {
    struct epoll_event event;
    sigset_t mask;
    sigemptyset(&mask);
    return epoll_pwait(epoll_create1(0), &event, 1, WAIT_MS, &mask);
}
static long do_cond_timed(void) {
    pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t c = PTHREAD_COND_INITIALIZER;
    struct timespec t = in_ms(CLOCK_REALTIME, WAIT_MS);
    pthread_mutex_lock(&m);
    errno = pthread_cond_timedwait(&c, &m, &t);
    return -1;
}
static long do_sem_timed(void) {
    sem_t s;
    struct timespec t = in_ms(CLOCK_REALTIME, WAIT_MS);
    sem_init(&s, 0, 0);
    return sem_timedwait(&s, &t);
}
static long do_wait4(void) {
    pid_t child = fork();
    if (child == 0) {
        usleep(WAIT_MS * 1000);
        _exit(7);
    }
    int status = 0;
    return waitpid(child, &status, 0) == child ? WEXITSTATUS(status) : -1;
}
static long do_recv_timed(void) {
    int s[2];
    char c;
    struct timeval t = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000};
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    return recv(s[0], &c, 1, 0);
}

/* ── Waits that end when the child writes, connects, posts … after that time ── */

static void after_a_while(void (*act)(void)) {
    if (fork() != 0) return;
    usleep(WAIT_MS * 1000);
    act();
    _exit(0);
}

/* A signal that comes before the call that waits for one is lost. */
static void until_parent_is_in(long call) {
    char path[64], text[128];
    ssize_t n = 1;
    snprintf(path, sizeof path, "/proc/%d/syscall", (int)getppid());
    for (; n > 0; usleep(1000)) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
        if (fd >= 0) close(fd);
        text[n > 0 ? n : 0] = '\0';
        if (text[0] != 'r' && strtol(text, NULL, 10) == call) return; /* r: running */
    }
}

static void after_a_while_in(long call, void (*act)(void)) {
    if (fork() != 0) return;
    until_parent_is_in(call);
    usleep(WAIT_MS * 1000);
    act();
    _exit(0);
}

static void act_write(void) {
    (void)!write(pipe_fds[1], "x", 1);
}
static void act_signal(void) {
    kill(getppid(), SIGUSR2);
}

static long do_read(void) {
    char c;
    after_a_while(act_write);
    return read(pipe_fds[0], &c, 1);
}
static long do_epoll(void) {
    struct epoll_event event = {.events = EPOLLIN};
    int ep = epoll_create1(0);
    epoll_ctl(ep, EPOLL_CTL_ADD, pipe_fds[0], &event);
    after_a_while(act_write);
    return epoll_wait(ep, &event, 1, -1);
}
static int listener;
static struct sockaddr_un_like {
    sa_family_t family;
    char path[6];
} name;
static void act_connect(void) {
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    connect(s, (struct sockaddr *)&name, sizeof name);
}
static long do_accept(void) {
    socklen_t n = sizeof name;
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    name.family = AF_UNIX;
    bind(listener, (struct sockaddr *)&name, sizeof(sa_family_t));
    getsockname(listener, (struct sockaddr *)&name, &n);
    listen(listener, 1);
    after_a_while(act_connect);
    return accept(listener, NULL, NULL) >= 0 ? 0 : -1;
}
static long do_sigwait(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    after_a_while(act_signal);
    return sigwaitinfo(&set, NULL);
}
static void on_signal(int sig) {
    (void)sig;
}
static long do_pause(void) { /* gives EINTR, but only for its own signal */
    signal(SIGUSR2, on_signal);
    after_a_while_in(SYS_pause, act_signal);
    return pause();
}
static long do_sigsuspend(void) {
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    signal(SIGUSR2, on_signal);
    sigprocmask(SIG_SETMASK, &all, NULL);
    after_a_while_in(SYS_rt_sigsuspend, act_signal);
    return sigsuspend(&none);
}
static int queue;
static void act_post(void) {
    semop(queue, &(struct sembuf){0, 1, 0}, 1);
}
static long do_semop(void) {
    queue = semget(IPC_PRIVATE, 1, 0600);
    after_a_while(act_post);
    long r = semop(queue, &(struct sembuf){0, -1, 0}, 1);
    int code = errno;
    semctl(queue, 0, IPC_RMID);
    errno = code;
    return r;
}
static void act_send(void) {
    msgsnd(queue, &(struct {
               long type;
               char c;
           }){1, 'x'},
           1, 0);
}
static long do_msgrcv(void) {
    struct {
        long type;
        char c;
    } m;
    queue = msgget(IPC_PRIVATE, 0600);
    after_a_while(act_send);
    long r = msgrcv(queue, &m, 1, 0, 0);
    int code = errno;
    msgctl(queue, IPC_RMID, NULL);
    errno = code;
    return r;
}
static long do_flock(void) {
    char path[] = "/tmp/inject_calls_XXXXXX";
    int ours = mkstemp(path), theirs = open(path, O_RDWR);
    unlink(path);
    flock(theirs, LOCK_EX);
    if (fork() == 0) {
        usleep(WAIT_MS * 1000);
        flock(theirs, LOCK_UN);
        _exit(0);
    }
    return flock(ours, LOCK_EX);
}

/* ── Work with every register in use: any that changes is seen ── */

static long do_general_registers(void) {
    static uint64_t saved[16];
    long bad = 0;
    for (int i = 0; i < 30; i++) {
        __asm__ volatile(
            "sub $256, %%rsp\n push %%rbx\n push %%rbp\n"
            "mov $0x1111111111111111, %%rax\n lea 1(%%rax), %%rbx\n lea 2(%%rax), %%rdx\n"
            "lea 3(%%rax), %%rsi\n lea 4(%%rax), %%rbp\n lea 5(%%rax), %%r8\n lea 6(%%rax), %%r9\n"
            "lea 7(%%rax), %%r10\n lea 8(%%rax), %%r11\n lea 9(%%rax), %%r12\n lea 10(%%rax), "
            "%%r13\n"
            "lea 11(%%rax), %%r14\n lea 12(%%rax), %%r15\n"
            "std\n"
            "mov $30000000, %%ecx\n 1: dec %%ecx\n jnz 1b\n"
            "pushf\n cld\n testl $0x400, (%%rsp)\n lea 8(%%rsp), %%rsp\n jz 2f\n"
            "mov %%rbx, 8(%%rdi)\n mov %%rdx, 16(%%rdi)\n mov %%rsi, 24(%%rdi)\n mov %%rbp, "
            "32(%%rdi)\n"
            "mov %%r8, 40(%%rdi)\n mov %%r9, 48(%%rdi)\n mov %%r10, 56(%%rdi)\n mov %%r11, "
            "64(%%rdi)\n"
            "mov %%r12, 72(%%rdi)\n mov %%r13, 80(%%rdi)\n mov %%r14, 88(%%rdi)\n mov %%r15, "
            "96(%%rdi)\n"
            "mov %%rax, (%%rdi)\n"
            "2: pop %%rbp\n pop %%rbx\n add $256, %%rsp\n"
            :
            : "D"(saved)
            : "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
              "memory", "cc");
        for (uint64_t k = 0; k < 13; k++) bad += saved[k] != 0x1111111111111111u + k;
        memset(saved, 0, sizeof saved);
    }
    return bad;
}

__attribute__((target("avx"))) static long do_vector_registers(void) {
    static uint8_t in[16][32], out[16][32];
    long bad = 0;
    for (int i = 0; i < 16; i++) memset(in[i], 0xa0 + i, 32);
    unsigned mxcsr = 0x7f80, seen = 0; /* rounds to zero */
    for (int turn = 0; turn < 30; turn++) {
        __asm__ volatile("ldmxcsr %2\n"
                         "vmovdqu (%0), %%ymm0\n vmovdqu 32(%0), %%ymm1\n vmovdqu 64(%0), %%ymm2\n "
                         "vmovdqu 96(%0), %%ymm3\n"
                         "vmovdqu 128(%0), %%ymm4\n vmovdqu 160(%0), %%ymm5\n vmovdqu 192(%0), "
                         "%%ymm6\n vmovdqu 224(%0), %%ymm7\n"
                         "vmovdqu 256(%0), %%ymm8\n vmovdqu 288(%0), %%ymm9\n vmovdqu 320(%0), "
                         "%%ymm10\n vmovdqu 352(%0), %%ymm11\n"
                         "vmovdqu 384(%0), %%ymm12\n vmovdqu 416(%0), %%ymm13\n vmovdqu 448(%0), "
                         "%%ymm14\n vmovdqu 480(%0), %%ymm15\n"
                         "fldpi\n"
                         "mov $30000000, %%ecx\n 1: dec %%ecx\n jnz 1b\n"
                         "vmovdqu %%ymm0, (%1)\n vmovdqu %%ymm1, 32(%1)\n vmovdqu %%ymm2, 64(%1)\n "
                         "vmovdqu %%ymm3, 96(%1)\n"
                         "vmovdqu %%ymm4, 128(%1)\n vmovdqu %%ymm5, 160(%1)\n vmovdqu %%ymm6, "
                         "192(%1)\n vmovdqu %%ymm7, 224(%1)\n"
                         "vmovdqu %%ymm8, 256(%1)\n vmovdqu %%ymm9, 288(%1)\n vmovdqu %%ymm10, "
                         "320(%1)\n vmovdqu %%ymm11, 352(%1)\n"
                         "vmovdqu %%ymm12, 384(%1)\n vmovdqu %%ymm13, 416(%1)\n vmovdqu %%ymm14, "
                         "448(%1)\n vmovdqu %%ymm15, 480(%1)\n"
                         "stmxcsr %3\n"
                         "fldpi\n fcomip %%st(1), %%st\n fstp %%st(0)\n jz 2f\n incl %4\n 2:\n"
                         :
                         : "r"(in), "r"(out), "m"(mxcsr), "m"(seen), "m"(bad)
                         : "ecx", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
                           "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
                           "xmm14", "xmm15");
        bad += memcmp(in, out, sizeof in) != 0;
        bad += (seen & 0xffc0) != mxcsr;
        memset(out, 0, sizeof out);
    }
    return bad;
}

/* A leaf function may keep what it likes in the 128 bytes below its stack pointer. */
static long do_red_zone(void) {
    long bad = 0;
    for (int i = 0; i < 30; i++)
        __asm__ volatile("mov $-128, %%rdx\n 1: mov %%rdx, (%%rsp,%%rdx)\n add $8, %%rdx\n jnz 1b\n"
                         "mov $30000000, %%ecx\n 2: dec %%ecx\n jnz 2b\n"
                         "mov $-128, %%rdx\n 3: cmp %%rdx, (%%rsp,%%rdx)\n je 4f\n inc %0\n 4: add "
                         "$8, %%rdx\n jnz 3b\n"
                         : "+r"(bad)
                         :
                         : "rcx", "rdx", "memory", "cc");
    return bad;
}

static long do_errno(void) {
    long bad = 0;
    errno = 77;
    for (long i = 0; i < 700000000; i++) bad += *(volatile int *)&errno != 77;
    errno = 0;
    return bad;
}

static const struct {
    const char *name;
    long (*run)(void);
    int at_least_ms;
} calls[] = {
    {"nanosleep", do_nanosleep, WAIT_MS},
    {"clock_nanosleep", do_clock_nanosleep, WAIT_MS},
    {"poll", do_poll, WAIT_MS},
    {"ppoll", do_ppoll, WAIT_MS},
    {"select", do_select, WAIT_MS},
    {"epoll_timed", do_epoll_timed, WAIT_MS - 20},
    {"epoll_pwait_timed", do_epoll_pwait_timed, WAIT_MS - 20},
    {"cond_timed", do_cond_timed, WAIT_MS},
    {"sem_timed", do_sem_timed, WAIT_MS},
    {"wait4", do_wait4, 0},
    {"recv_timed", do_recv_timed, WAIT_MS},
    {"read", do_read, 0},
    {"epoll", do_epoll, 0},
    {"accept", do_accept, 0},
    {"sigwait", do_sigwait, 0},
    {"pause", do_pause, 0},
    {"sigsuspend", do_sigsuspend, 0},
    {"semop", do_semop, 0},
    {"msgrcv", do_msgrcv, 0},
    {"flock", do_flock, 0},
    {"general_registers", do_general_registers, 0},
    {"vector_registers", do_vector_registers, 0},
    {"red_zone", do_red_zone, 0},
    {"errno", do_errno, 0},
};

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (pipe(pipe_fds)) return 1;
    for (size_t i = 0; argc > 1 && i < sizeof calls / sizeof *calls; i++) {
        if (strcmp(calls[i].name, argv[1]) != 0) continue;
        struct timespec start, end;
        puts("ready");
        clock_gettime(CLOCK_MONOTONIC, &start);
        errno = 0;
        long result = calls[i].run();
        int code = result < 0 ? errno : 0;
        clock_gettime(CLOCK_MONOTONIC, &end);
        long ms = (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000;
        printf("%s %ld %s%s\n", argv[1], result, strerrorname_np(code),
               ms < calls[i].at_least_ms ? " early" : "");
        fprintf(stderr, "%ld ms\n", ms);
        return 0;
    }
    return 2;
}
