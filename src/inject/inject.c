#define _GNU_SOURCE
#include "inject/inject.h"

#include "base/clock.h"
#include "inject/inject_safe.h"
#include "inject/inject_stub.h"
#include "inject/inject_target.h"
#include "inject/inject_thread.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TIMEOUT_MS_DEFAULT 10000
#define STOP_MS_MAX        300 /* a thread that does not stop by then waits in the kernel */
#define HELD_MS_MAX                                                                                \
    5000 /* for the borrowed thread's own work: well under one, unless both have to wait for a processor */
#define PATIENCE_MS   3000
#define LEAVING_MS    500
#define STARTING_MS   2000 /* for a process that is just starting, or becomes another by exec */
#define FD_FLOOR      960
#define MXCSR_DEFAULT 0x1f80

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

struct inject {
    pid_t pid, guest;
    uint64_t guest_start; /* so that a thread of the same number is not taken for it */
    int sock;
    int timeout_ms;
    char name[64];
};

static void pause_ms(int ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

/* ── The library ── */

static int copy_file(int from, int to) {
    char block[65536];
    ssize_t n;
    while ((n = read(from, block, sizeof block)) > 0)
        for (ssize_t done = 0, w; done < n; done += w)
            if ((w = write(to, block + done, (size_t)(n - done))) < 0) return -errno;
    return n < 0 ? -errno : 0;
}

/* A copy in memory, so that the target needs to see no file of ours. */
static int library_load(const char *path, int *memfd, err_t *e) {
    int from = open(path, O_RDONLY | O_CLOEXEC);
    if (from < 0) return err_sys(e, -errno, "cannot read the agent %s", path);
    int to = memfd_create("lowtide", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
    if (to < 0 && errno == EINVAL) to = memfd_create("lowtide", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int status = to < 0 ? -errno : copy_file(from, to);
    close(from);
    if (status) {
        if (to >= 0) close(to);
        return err_sys(e, status, "cannot load the agent %s", path);
    }
    fcntl(to, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
    *memfd = to;
    return 0;
}

/* ── Borrowing a thread ── */

typedef struct borrow {
    inject_target_t *target;
    int pidfd;
    int64_t deadline_ms;
    thread_t *thread;
    const char *why; /* what the last thread that could not be borrowed did */
    bool stuck;      /* a thread does not stop; only our end lets it go */
    bool done;
    bool own_socket; /* the guest makes the socketpair */
    uint64_t region; /* where the guest's code and context are */
    int sock;
    int status;
    err_t *e;
} borrow_t;

/* An absolute path has many spellings: with one of its own for each visit, the loader cannot take a library that another lowtide has
 * in the target for ours. */
static void spell_path(const inject_target_t *t, char *out) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    unsigned nonce = (unsigned)now.tv_nsec ^ (unsigned)getpid() << 12;
    char *p = stpcpy(out, t->has_proc ? "/proc/thread-self/fd" : "/thread-self/fd");
    for (int i = 0; i < 24; i++) p = stpcpy(p, nonce >> i & 1 ? "/." : "/");
    strcpy(p, "/");
}

static int fd_floor(pid_t pid) {
    struct rlimit limit;
    if (prlimit(pid, RLIMIT_NOFILE, NULL, &limit) || limit.rlim_cur >= FD_FLOOR + 16)
        return FD_FLOOR;
    return limit.rlim_cur > 16 ? (int)limit.rlim_cur - 16 : 0;
}

static inject_context_t context_for(const borrow_t *b, uint64_t region) {
    const target_functions_t *at = &b->target->at;
    inject_context_t c = {
        .munmap = at->munmap,
        .syscall_then_ret = b->target->syscall_then_ret,
        .return_sp = b->thread->frame.address,
        .region = region,
        .region_bytes = INJECT_REGION_BYTES,
        .fd_floor = fd_floor(b->target->pid),
        .patience_ms = PATIENCE_MS,
        .mxcsr = MXCSR_DEFAULT,
        .thread_name = "lowtide",
        .entry_name = INJECT_AGENT_START,
        .guest_fd = -1,
        .our_fd = -1,
        .own_socket = b->own_socket,
    };
    const struct {
        void *slot;
        uint64_t address;
    } functions[] = {
        {&c.errno_location, at->errno_location},
        {&c.attr_init, at->attr_init},
        {&c.attr_setdetachstate, at->attr_setdetachstate},
        {&c.attr_setstacksize, at->attr_setstacksize},
        {&c.thread_create, at->thread_create},
        {&c.dlopen, at->dlopen},
        {&c.dlsym, at->dlsym},
        {&c.dlclose, at->dlclose},
        {&c.dlerror, at->dlerror},
        {&c.guest,
         region + (uint64_t)((const char *)(uintptr_t)inject_stub_guest - inject_stub_begin)},
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        memcpy(functions[i].slot, &functions[i].address, 8);
    spell_path(b->target, c.path);
    return c;
}

static int map_region(borrow_t *b, uint64_t *region, int64_t deadline_ms) {
    const uint64_t flags = MAP_PRIVATE | MAP_ANONYMOUS;
    long at, code;
    int status =
        thread_call(b->thread, SYS_mmap,
                    (uint64_t[6]){0, INJECT_REGION_BYTES, PROT_READ | PROT_WRITE, flags, ~0ULL, 0},
                    &at, deadline_ms);
    if (status) return status;
    if (at < 0 && at > -4096) return (int)at;
    *region = (uint64_t)at;
    /* Memory that was never writable may be executable even where the two together are forbidden. */
    status = thread_call(b->thread, SYS_mmap,
                         (uint64_t[6]){*region, INJECT_CODE_BYTES, PROT_READ | PROT_EXEC,
                                       flags | MAP_FIXED, ~0ULL, 0},
                         &code, deadline_ms);
    return status ? status : code < 0 && code > -4096 ? (int)code : 0;
}

static int run_stub(borrow_t *b, uint64_t region, inject_context_t *c, int64_t deadline_ms) {
    thread_t *t = b->thread;
    uint64_t context_at = region + INJECT_CODE_BYTES;
    *c = context_for(b, region);
    size_t code_bytes = (size_t)(inject_stub_end - inject_stub_begin);
    uint64_t enter =
        region + (uint64_t)((const char *)(uintptr_t)inject_stub_enter - inject_stub_begin);
    if (code_bytes > INJECT_CODE_BYTES) return -EOVERFLOW;
    int status = thread_poke(t, region, inject_stub_begin, code_bytes);
    if (status == 0) status = thread_poke(t, context_at, c, sizeof *c);
    if (status == 0)
        status = thread_run(t, enter, region + INJECT_REGION_BYTES, context_at, deadline_ms);
    if (status == 0) status = elf_read(b->target->mem_fd, context_at, c, sizeof *c);
    return status;
}

static int socket_lost(const borrow_t *b) {
    return err_set(b->e, -EAGAIN,
                   "process %d (%s) closes all file descriptors, lowtide's too; try again",
                   (int)b->target->pid, b->target->name);
}

static int step_failed(const borrow_t *b, const inject_context_t *c) {
    const inject_target_t *t = b->target;
    const char *what = c->failed_step == INJECT_STEP_THREAD ? "start a thread" : "make a socket";
    return err_sys(b->e, -c->failed_errno, "cannot %s in process %d (%s)", what, (int)t->pid,
                   t->name);
}

/* Takes the other end of the socket out of a table of file descriptors: of the process, or of one thread. */
static int fetch_socket(borrow_t *b, int pidfd, const inject_context_t *c) {
    struct stat st;
    int sock = (int)syscall(SYS_pidfd_getfd, pidfd, c->our_fd, 0);
    if (sock < 0) return errno == EBADF ? -EAGAIN : -errno; /* closed by the program, as it may */
    if (fstat(sock, &st) || !S_ISSOCK(st.st_mode) || st.st_ino != c->socket_inodes[1]) {
        close(sock);
        return -EAGAIN;
    }
    b->sock = sock;
    return 0;
}

/* The thread is held at a safe place. Whatever comes of it, it is let go as it was. */
static int borrow_held(borrow_t *b) {
    thread_t *t = b->thread;
    inject_target_t *target = b->target;
    int64_t deadline_ms = now_ms() + HELD_MS_MAX;
    uint64_t region = 0;
    inject_context_t c = {0};
    if (thread_arm(t)) {
        b->why = "is on a stack without room";
        thread_release(t);
        return 0;
    }
    int status = map_region(b, &region, deadline_ms);
    if (status == 0) status = run_stub(b, region, &c, deadline_ms);
    if (status == -ETIMEDOUT) {
        thread_abandon(t);
        return err_set(b->e, -ETIMEDOUT,
                       "process %d (%s) did not start a thread for lowtide within %d s; it will go "
                       "on by itself",
                       (int)target->pid, target->name, HELD_MS_MAX / 1000);
    }
    if (status == 0 && c.failed_step == 0) {
        b->region = region;
        if (!b->own_socket) status = fetch_socket(b, b->pidfd, &c);
    } else if (region && (status == 0 || (status != -ESRCH && status != -EFAULT))) {
        long ignored;
        thread_call(t, SYS_munmap, (uint64_t[6]){region, INJECT_REGION_BYTES}, &ignored,
                    deadline_ms);
    }
    thread_release(t);
    if (status == 0 && c.failed_step) return step_failed(b, &c);
    if (status == -ESRCH) return target_gone(target->pid, b->e);
    if (status == -EAGAIN) return socket_lost(b);
    if (status)
        return err_sys(b->e, status, "cannot get into process %d (%s)", (int)target->pid,
                       target->name);
    b->done = true;
    return 0;
}

static int stop_failed(const borrow_t *b, int status) {
    const inject_target_t *t = b->target;
    if (status == -EPERM || status == -EBUSY) {
        int refused = target_refuse_by_status(t, b->e);
        if (refused) return refused;
        /* Its memory could be opened, which asks for the same right: most likely it was traced, and is no more. */
        if (status == -EPERM && target_not_permitted(t->pid, t->name, b->e)) return -EAGAIN;
        return 0; /* stopped a moment ago, and goes on already */
    }
    if (status == -EAGAIN) return target_gone(t->pid, b->e);
    return err_sys(b->e, status, "cannot stop a thread of process %d (%s)", (int)t->pid, t->name);
}

/* 0: done, or to be tried again. */
static int borrow_try(borrow_t *b, pid_t tid) {
    thread_t *t = b->thread;
    *t = (thread_t){.pid = b->target->pid, .tid = tid, .mem_fd = b->target->mem_fd};
    t->syscall_then_ret = b->target->syscall_then_ret;
    t->restorer = b->target->restorer;
    thread_watch(t);
    int status = thread_stop(t, now_ms() + STOP_MS_MAX);
    if (status == -ESRCH) return kill(t->pid, 0) && errno == ESRCH ? target_gone(t->pid, b->e) : 0;
    b->stuck = status == -ETIMEDOUT;
    if (b->stuck) b->why = "does not stop: it waits in the kernel";
    if (b->stuck) return 0;
    if (status) return stop_failed(b, status);
    b->why = "is inside the C library";
    bool safe = safe_code(b->target, t);
    if (safe) status = target_refresh(b->target, b->e);
    if (!safe || status || !safe_here(b->target, t, &b->why)) {
        thread_release(t);
        return status;
    }
    return borrow_held(b);
}

static bool interrupted(void) {
    sigset_t pending;
    sigpending(&pending);
    return sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) ||
           sigismember(&pending, SIGHUP);
}

static int borrow_out_of_time(const borrow_t *b) {
    if (interrupted()) return err_set(b->e, -EINTR, "interrupted");
    if (now_ms() < b->deadline_ms) return 0;
    return err_set(b->e, -ETIMEDOUT,
                   "no thread of process %d (%s) could be stopped at a safe place in time: the "
                   "last one %s; try again, "
                   "or wait longer with --timeout",
                   (int)b->target->pid, b->target->name, b->why);
}

/* Every thread that looks good, until one is borrowed. */
static int borrow_round(borrow_t *b, safe_thread_vec_t *threads) {
    int status = safe_candidates(b->target, threads, &b->why);
    if (status == -ESRCH) return target_gone(b->target->pid, b->e);
    if (status) return err_sys(b->e, status, "cannot attach");
    for (size_t i = 0; status == 0 && !b->done && !b->stuck && i < threads->count; i++) {
        status = borrow_try(b, threads->at[i].tid);
        if (status == 0 && !b->done) status = borrow_out_of_time(b);
    }
    if (status == 0 && !b->done) status = borrow_out_of_time(b);
    return status;
}

/* Again and again, less and less often. Ends early when a thread is stuck. */
static void *borrow_main(void *arg) {
    borrow_t *b = arg;
    safe_thread_vec_t threads = {0};
    b->thread = malloc(sizeof *b->thread);
    b->status = b->thread ? 0 : err_sys(b->e, -ENOMEM, "cannot attach");
    b->stuck = false;
    for (int turn = 0; b->status == 0 && !b->done && !b->stuck; turn++) {
        if (turn > 0)
            pause_ms(turn < 6 ? turn : 5 + turn % 7); /* in step with nothing of the target's */
        if (turn % 8 == 7) b->status = target_refresh(b->target, b->e);
        if (b->status == 0) b->status = borrow_round(b, &threads);
    }
    safe_thread_vec_free(&threads);
    free(b->thread);
    return NULL;
}

/* On a thread of its own: the kernel lets go of what a tracer holds when that thread ends, and of a thread that does
 * not stop in no other way. */
static int borrow_thread(borrow_t *b) {
    do {
        pthread_t worker;
        int code = pthread_create(&worker, NULL, borrow_main, b);
        if (code) return err_sys(b->e, -code, "cannot attach");
        pthread_join(worker, NULL);
    } while (b->status == 0 && !b->done);
    return b->status;
}

/* ── Talking with the guest ── */

/* PIDFD_THREAD, Linux 6.9: a thread's own table of file descriptors can be reached. */
static int pidfd_of_thread(pid_t tid) {
    return (int)syscall(SYS_pidfd_open, tid, O_EXCL);
}

static bool can_reach_threads(void) {
    int fd = pidfd_of_thread(gettid());
    if (fd >= 0) close(fd);
    return fd >= 0;
}

/* Waits until the guest has made its socket, and takes our end. */
static int meet_guest(borrow_t *b) {
    const inject_target_t *t = b->target;
    inject_context_t c = {0};
    for (int turn = 0; c.ready == 0; turn++) {
        int status = elf_read(t->mem_fd, b->region + INJECT_CODE_BYTES, &c, sizeof c);
        if (status) return target_gone(t->pid, b->e);
        if (c.ready) break;
        if (interrupted()) return err_set(b->e, -EINTR, "interrupted");
        if (now_ms() >= b->deadline_ms)
            return err_set(b->e, -ETIMEDOUT,
                           "process %d (%s) has not run lowtide's thread in time; wait longer with "
                           "--timeout",
                           (int)t->pid, t->name);
        pause_ms(turn < 20 ? 1 : 10);
    }
    if (c.ready < 0)
        return err_sys(b->e, c.ready, "cannot make a socket in process %d (%s)", (int)t->pid,
                       t->name);
    pid_t tid = proc_thread_by_inner(t->pid, (pid_t)c.ready);
    int pidfd = tid ? pidfd_of_thread(tid) : -1;
    if (pidfd < 0) return target_gone(t->pid, b->e);
    int status = fetch_socket(b, pidfd, &c);
    close(pidfd);
    if (status == -ESRCH || status == -EAGAIN) return target_gone(t->pid, b->e);
    return status ? err_sys(b->e, status, "cannot get into process %d (%s)", (int)t->pid, t->name)
                  : 0;
}

typedef struct heard {
    inject_word_t word;
    char text[401];
} heard_t;

/* 0, -EPIPE, -ETIMEDOUT, -EINTR, -EBADMSG. Signals are blocked, so they are looked for. */
static int hear(int sock, uint64_t magic, heard_t *out, int64_t deadline_ms) {
    struct pollfd p = {.fd = sock, .events = POLLIN};
    int n;
    while ((n = poll(&p, 1, 20)) <= 0) {
        if (n < 0 && errno != EINTR) return -errno;
        if (interrupted()) return -EINTR;
        if (now_ms() >= deadline_ms) return -ETIMEDOUT;
    }
    memset(out, 0, sizeof *out);
    ssize_t got = recv(sock, out, sizeof out->word + 400, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno == ECONNRESET)) return -EPIPE;
    if (got < 0) return -errno;
    for (char *c = out->text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = ' ';
    return (size_t)got >= sizeof out->word && out->word.magic == magic ? 0 : -EBADMSG;
}

static int send_library(int sock, int memfd, bool with_proc) {
    int fds[2] = {memfd, with_proc ? open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1};
    size_t count = with_proc ? 2 : 1;
    if (with_proc && fds[1] < 0) return -errno;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof fds)];
    } control = {0};
    char byte = 0;
    struct iovec part = {&byte, 1};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes};
    m.msg_controllen = CMSG_SPACE(count * sizeof(int));
    control.align = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.align), fds, count * sizeof(int));
    int status = sendmsg(sock, &m, MSG_NOSIGNAL) == 1 ? 0 : -errno;
    if (with_proc) close(fds[1]);
    return status;
}

static int greet(inject_t *in, const inject_target_t *t, int memfd, int64_t deadline_ms, err_t *e) {
    heard_t heard;
    proc_stat_t stat;
    int status = hear(in->sock, INJECT_HELLO_MAGIC, &heard, deadline_ms);
    if (status == 0) {
        in->guest = proc_thread_by_inner(in->pid, (pid_t)heard.word.tid);
        if (in->guest && proc_stat_read(in->pid, in->guest, &stat) == 0)
            in->guest_start = stat.start;
        status = send_library(in->sock, memfd, !t->has_proc);
    }
    if (status == 0) status = hear(in->sock, INJECT_LOADED_MAGIC, &heard, deadline_ms);
    if (status == 0 && heard.word.code == INJECT_LOADED) return 0;
    if (status == 0 && heard.word.code == INJECT_NO_PROC)
        return err_set(e, -ENOTSUP,
                       "process %d (%s) has no /proc in its root, and may not look into another "
                       "(CAP_SYS_CHROOT): mount /proc there, or use lowtide run",
                       (int)in->pid, in->name);
    if (status == 0)
        return err_set(e, -ELIBBAD, "process %d (%s) could not load the agent: %s", (int)in->pid,
                       in->name, heard.text[0] ? heard.text : "it has no " INJECT_AGENT_START);
    if (status == -EINTR) return err_set(e, status, "interrupted");
    if (status == -ETIMEDOUT)
        return err_set(e, status,
                       "process %d (%s) did not load the agent in time: its loader is busy with "
                       "another library",
                       (int)in->pid, in->name);
    if (status == -EPIPE) return target_gone(in->pid, e);
    return err_sys(e, status, "cannot talk with process %d (%s)", (int)in->pid, in->name);
}

/* ── The whole ── */

static int pidfd_of(pid_t pid, int *out, err_t *e) {
    inject_probe_t probe;
    *out = (int)syscall(SYS_pidfd_open, pid, 0);
    if (*out < 0 && errno == ESRCH) return err_set(e, -ESRCH, "there is no process %d", (int)pid);
    if (*out >= 0 && inject_probe(&probe) == 0 && probe.pidfd_getfd) return 0;
    if (*out >= 0) close(*out);
    /* /proc/PID/fd cannot stand in for it: sockets do not open by that. */
    return err_set(e, -ENOTSUP,
                   "this system does not hand over sockets (pidfd_getfd: Linux 5.6 or later, not "
                   "filtered); use lowtide run");
}

static bool guest_is_there(const inject_t *in) {
    proc_stat_t stat;
    return in->guest && proc_stat_read(in->pid, in->guest, &stat) == 0 &&
           stat.start == in->guest_start && stat.state != 'Z' && stat.state != 'X';
}

int inject_close(inject_t *in, err_t *e) {
    if (!in) return 0;
    if (in->sock >= 0) shutdown(in->sock, SHUT_RDWR);
    int64_t deadline_ms = now_ms() + in->timeout_ms;
    int status = 0;
    for (int turn = 0; guest_is_there(in) && status == 0; turn++) {
        if (now_ms() >= deadline_ms)
            status = err_set(e, -ETIMEDOUT,
                             "the agent is still leaving process %d (%s); it will go by itself",
                             (int)in->pid, in->name);
        else
            pause_ms(turn < 20 ? 1 : 10);
    }
    inject_leave(in);
    return status;
}

void inject_leave(inject_t *in) {
    if (in->sock >= 0) shutdown(in->sock, SHUT_RDWR);
    if (in->sock >= 0) close(in->sock);
    free(in);
}

static int open_target(inject_t *in, inject_target_t *t, const inject_options_t *o, int *socket_fd,
                       err_t *e) {
    int64_t deadline_ms = now_ms() + in->timeout_ms;
    int memfd = -1;
    borrow_t b = {
        .target = t, .pidfd = -1, .deadline_ms = deadline_ms, .sock = -1, .e = e, .why = "ended"};
    b.own_socket = !o->shared_files && can_reach_threads();
    int status = library_load(o->library_path, &memfd, e);
    if (status == 0) status = pidfd_of(t->pid, &b.pidfd, e);
    if (status == 0) status = borrow_thread(&b);
    if (status == 0 && b.own_socket) status = meet_guest(&b);
    in->sock = b.sock;
    if (status == 0) status = greet(in, t, memfd, deadline_ms, e);
    if (status == 0 && (*socket_fd = fcntl(in->sock, F_DUPFD_CLOEXEC, 3)) < 0)
        status = err_sys(e, -errno, "cannot attach");
    if (b.pidfd >= 0) close(b.pidfd);
    if (memfd >= 0) close(memfd);
    return status;
}

/* It went with the program that the target was before. */
static void forget_guest(inject_t *in) {
    if (in->sock >= 0) close(in->sock);
    in->sock = -1;
    in->guest = 0;
    pause_ms(5);
}

int inject_open(pid_t pid, const inject_options_t *options, inject_t **out, int *socket_fd,
                err_t *e) {
    inject_target_t target;
    inject_t *in = calloc(1, sizeof *in);
    if (!in) return err_sys(e, -ENOMEM, "cannot attach");
    *in = (inject_t){.pid = pid, .sock = -1};
    in->timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : TIMEOUT_MS_DEFAULT;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int64_t began_ms = now_ms();
    int64_t patience_end_ms = began_ms + STARTING_MS;
    bool again;
    int status;
    do {
        status = target_open(pid, &target, e);
        if (status == 0) {
            memcpy(in->name, target.name, sizeof in->name);
            status = open_target(in, &target, options, socket_fd, e);
            target_close(&target);
        }
        again = status == -EAGAIN || status == -EALREADY;
        if (again) forget_guest(in);
        if (status == -EALREADY) patience_end_ms = began_ms + in->timeout_ms;
    } while (again && !interrupted() && now_ms() < patience_end_ms);
    if (status == 0) {
        *out = in;
    } else {
        in->timeout_ms =
            LEAVING_MS; /* a guest that is there but of no use leaves at once if it can */
        inject_close(in, NULL);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}
