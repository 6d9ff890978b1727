#define _GNU_SOURCE
#include "agent/alloc/alloc_opens.h"

#include "agent/alloc/alloc_count.h"
#include "agent/alloc/alloc_libc.h"
#include "agent/alloc/alloc_stack.h"
#include "agent/alloc/alloc_store.h"
#include "agent/runtime/runtime.h"
#include "base/mem.h"
#include "base/origin.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { THREAD_PROBES = 8, DEPTH_MAX = 512 };

typedef struct started {
    _Atomic uint64_t ident;
    _Atomic uint32_t stack; /* + 1 */
} started_t;

typedef struct known {
    _Atomic uint32_t descriptors[OPENS_DESCRIPTORS]; /* stack + 1 */
    started_t threads[OPENS_THREADS];
} known_t;

static struct {
    known_t *known;
    got_hook_t *hooks;
    pid_t pid;
} opens;

bool opens_open(void) {
    if (!opens.known) opens.known = mem_map(sizeof *opens.known);
    opens.pid = getpid();
    return opens.known != NULL;
}

void opens_forget(void) {
    if (!opens.known) return;
    mem_unmap(opens.known, sizeof *opens.known);
    opens.known = NULL;
    opens_open();
}

void opens_close(void) {
    mem_unmap(opens.known, sizeof *opens.known);
    opens.known = NULL;
}

/* ── Noting ── */

/* A child between vfork and exec has our memory and descriptors of its own. */
static bool is_ours(void) {
    return opens.known && store_region() && getpid() == opens.pid;
}

static int opened(int descriptor) {
    if (descriptor < 0 || descriptor >= OPENS_DESCRIPTORS || !is_ours()) return descriptor;
    int error = errno;
    atomic_store_explicit(&opens.known->descriptors[descriptor], stack_here() + 1,
                          memory_order_relaxed);
    errno = error;
    return descriptor;
}

static started_t *thread_slot(uint64_t ident) {
    started_t *threads = opens.known->threads, *at = NULL;
    uint32_t first = (uint32_t)(ident * 0x9e3779b97f4a7c15ull >> 51) % OPENS_THREADS;
    for (uint32_t i = 0; i < THREAD_PROBES; i++) {
        at = &threads[(first + i) % OPENS_THREADS];
        uint64_t there = atomic_load_explicit(&at->ident, memory_order_relaxed);
        if (there == ident || !there) return at;
    }
    return at; /* the last is replaced: its thread has probably ended */
}

/* A thread that nobody joins may have ended already, and have freed what its number lies in. */
static void started(const pthread_t *thread) {
    if (!is_ours()) return;
    int error = errno;
    uint64_t ident;
    if (!rt_peek((rt_addr_t)thread, &ident, sizeof ident)) {
        uint32_t stack = stack_here() + 1;
        started_t *at = thread_slot(ident);
        atomic_store_explicit(&at->ident, ident, memory_order_relaxed);
        atomic_store_explicit(&at->stack, stack, memory_order_relaxed);
    }
    errno = error;
}

/* ── Hooks ── */

enum real {
    OPEN,
    OPEN64,
    OPENAT,
    OPENAT64,
    SOCKET,
    SOCKETPAIR,
    PIPE,
    PIPE2,
    DUP,
    DUP2,
    DUP3,
    EVENTFD,
    EPOLL_CREATE1,
    MEMFD_CREATE,
    CLOSE,
    PTHREAD_CREATE,
    WAITING, /* from here on as long as they like */
    ACCEPT = WAITING,
    ACCEPT4,
    FCNTL,
    FCNTL64,
    REALS
};
_Static_assert(REALS <= (int)OPENS_HOOKS, "room for all rows");

#define REAL(type, which) ((type)got_real(&opens.hooks[which]))
typedef int (*open_t)(const char *, int, mode_t);
typedef int (*openat_t)(int, const char *, int, mode_t);
typedef int (*socket_t)(int, int, int);
typedef int (*socketpair_t)(int, int, int, int *);
typedef int (*accept4_t)(int, struct sockaddr *, socklen_t *, int);
typedef int (*pipe2_t)(int *, int);
typedef int (*dup_t)(int);
typedef int (*dup2_t)(int, int);
typedef int (*dup3_t)(int, int, int);
typedef int (*fcntl_t)(int, int, void *);
typedef int (*eventfd_t)(unsigned, int);
typedef int (*memfd_t)(const char *, unsigned);
typedef int (*pthread_create_t)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

/* The end of a hook that libc_inside counts, so that it can be taken out again. */
static int noted(int status) {
    libc_leave();
    return status;
}

/* The real ones take their last arguments only sometimes; in registers they harm nobody. */
static int hook_open(const char *path, int flags, mode_t mode) {
    libc_enter();
    return noted(opened(REAL(open_t, OPEN)(path, flags, mode)));
}
static int hook_open64(const char *path, int flags, mode_t mode) {
    libc_enter();
    return noted(opened(REAL(open_t, OPEN64)(path, flags, mode)));
}
static int hook_openat(int at, const char *path, int flags, mode_t mode) {
    libc_enter();
    return noted(opened(REAL(openat_t, OPENAT)(at, path, flags, mode)));
}
static int hook_openat64(int at, const char *path, int flags, mode_t mode) {
    libc_enter();
    return noted(opened(REAL(openat_t, OPENAT64)(at, path, flags, mode)));
}
static int hook_socket(int family, int type, int protocol) {
    libc_enter();
    return noted(opened(REAL(socket_t, SOCKET)(family, type, protocol)));
}
static int hook_socketpair(int family, int type, int protocol, int pair[2]) {
    libc_enter();
    int status = REAL(socketpair_t, SOCKETPAIR)(family, type, protocol, pair);
    if (!status) opened(pair[0]), opened(pair[1]);
    return noted(status);
}
static int hook_accept(int listening, struct sockaddr *peer, socklen_t *bytes) {
    return opened(REAL(accept4_t, ACCEPT)(listening, peer, bytes, 0));
}
static int hook_accept4(int listening, struct sockaddr *peer, socklen_t *bytes, int flags) {
    return opened(REAL(accept4_t, ACCEPT4)(listening, peer, bytes, flags));
}
static int hook_pipe(int ends[2]) {
    libc_enter();
    int status = REAL(pipe2_t, PIPE)(ends, 0);
    if (!status) opened(ends[0]), opened(ends[1]);
    return noted(status);
}
static int hook_pipe2(int ends[2], int flags) {
    libc_enter();
    int status = REAL(pipe2_t, PIPE2)(ends, flags);
    if (!status) opened(ends[0]), opened(ends[1]);
    return noted(status);
}
static int hook_dup(int descriptor) {
    libc_enter();
    return noted(opened(REAL(dup_t, DUP)(descriptor)));
}
/* Number `to` is another file from now on. */
static int hook_dup2(int descriptor, int to) {
    libc_enter();
    return noted(opened(REAL(dup2_t, DUP2)(descriptor, to)));
}
static int hook_dup3(int descriptor, int to, int flags) {
    libc_enter();
    return noted(opened(REAL(dup3_t, DUP3)(descriptor, to, flags)));
}
/* Whatever opens it next may be none of ours. Before the call: then another thread may have the number already. */
static int hook_close(int descriptor) {
    libc_enter();
    if (descriptor >= 0 && descriptor < OPENS_DESCRIPTORS && is_ours())
        atomic_store_explicit(&opens.known->descriptors[descriptor], 0, memory_order_relaxed);
    return noted(REAL(dup_t, CLOSE)(descriptor));
}
/* F_DUPFD and F_DUPFD_CLOEXEC: what Python's dup is. */
static int fcntl_of(int which, int descriptor, int command, void *argument) {
    int status = REAL(fcntl_t, which)(descriptor, command, argument);
    return command == 0 || command == 1030 ? opened(status) : status;
}
static int hook_fcntl(int descriptor, int command, void *argument) {
    return fcntl_of(FCNTL, descriptor, command, argument);
}
static int hook_fcntl64(int descriptor, int command, void *argument) {
    return fcntl_of(FCNTL64, descriptor, command, argument);
}
static int hook_eventfd(unsigned value, int flags) {
    libc_enter();
    return noted(opened(REAL(eventfd_t, EVENTFD)(value, flags)));
}
static int hook_epoll_create1(int flags) {
    libc_enter();
    return noted(opened(REAL(dup_t, EPOLL_CREATE1)(flags)));
}
static int hook_memfd_create(const char *name, unsigned flags) {
    libc_enter();
    return noted(opened(REAL(memfd_t, MEMFD_CREATE)(name, flags)));
}
static int hook_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *),
                               void *argument) {
    libc_enter();
    int status = REAL(pthread_create_t, PTHREAD_CREATE)(thread, how, run, argument);
    if (!status) started(thread);
    return noted(status);
}

size_t opens_hooks(got_hook_t rows[OPENS_HOOKS], bool waiting) {
    static const got_hook_t all[REALS] = {
        [OPEN] = {"open", (got_function_t)hook_open, NULL},
        [OPEN64] = {"open64", (got_function_t)hook_open64, NULL},
        [OPENAT] = {"openat", (got_function_t)hook_openat, NULL},
        [OPENAT64] = {"openat64", (got_function_t)hook_openat64, NULL},
        [SOCKET] = {"socket", (got_function_t)hook_socket, NULL},
        [SOCKETPAIR] = {"socketpair", (got_function_t)hook_socketpair, NULL},
        [ACCEPT] = {"accept", (got_function_t)hook_accept, NULL},
        [ACCEPT4] = {"accept4", (got_function_t)hook_accept4, NULL},
        [PIPE] = {"pipe", (got_function_t)hook_pipe, NULL},
        [PIPE2] = {"pipe2", (got_function_t)hook_pipe2, NULL},
        [DUP] = {"dup", (got_function_t)hook_dup, NULL},
        [DUP2] = {"dup2", (got_function_t)hook_dup2, NULL},
        [DUP3] = {"dup3", (got_function_t)hook_dup3, NULL},
        [CLOSE] = {"close", (got_function_t)hook_close, NULL},
        [FCNTL] = {"fcntl", (got_function_t)hook_fcntl, NULL},
        [FCNTL64] = {"fcntl64", (got_function_t)hook_fcntl64, NULL},
        [EVENTFD] = {"eventfd", (got_function_t)hook_eventfd, NULL},
        [EPOLL_CREATE1] = {"epoll_create1", (got_function_t)hook_epoll_create1, NULL},
        [MEMFD_CREATE] = {"memfd_create", (got_function_t)hook_memfd_create, NULL},
        [PTHREAD_CREATE] = {"pthread_create", (got_function_t)hook_pthread_create, NULL},
    };
    if (!opens_open()) return 0;
    opens.hooks = rows;
    memcpy(rows, all, sizeof all);
    return waiting ? REALS : WAITING;
}

/* ── Telling ── */

/* Texts are not terminated, and somebody may have written over them: every number is checked. */
static void copy_text(const region_t *r, uint32_t at, char *to, size_t room) {
    const char *texts = (const char *)r + r->texts.offset;
    uint32_t bytes = 0;
    to[0] = '\0';
    if (at + sizeof bytes > r->texts.room) return;
    memcpy(&bytes, texts + at, sizeof bytes);
    if (bytes >= room) bytes = (uint32_t)room - 1;
    if (at + sizeof bytes + bytes > r->texts.room) return;
    memcpy(to, texts + at + sizeof bytes, bytes);
    to[bytes] = '\0';
}

/* The innermost line of the program's own, or of what comes nearest to it. */
static bool place_of(uint32_t stack, opens_place_t *out) {
    const region_t *r = store_region();
    int best = -1;
    memset(out, 0, sizeof *out);
    if (!r || !stack) return false;
    const region_stack_t *stacks = (const void *)((const char *)r + r->stacks.offset);
    const region_frame_t *frames = (const void *)((const char *)r + r->frames.offset);
    for (int depth = 0; stack && stack <= r->stacks.room && depth < DEPTH_MAX && best < ORIGIN_OWN;
         depth++) {
        const region_stack_t *s = &stacks[stack - 1];
        opens_place_t here = {.line = 0};
        stack = s->parent;
        if (s->frame >= r->frames.room || frames[s->frame].kind != REGION_FRAME_PYTHON) continue;
        copy_text(r, frames[s->frame].file, here.file, sizeof here.file);
        int origin = (int)origin_of(here.file, NULL);
        if (origin <= best) continue;
        best = origin;
        copy_text(r, frames[s->frame].function, here.function, sizeof here.function);
        here.line = frames[s->frame].line;
        *out = here;
    }
    return best >= 0;
}

bool opens_descriptor(int64_t descriptor, opens_place_t *out) {
    memset(out, 0, sizeof *out);
    if (!opens.known || descriptor < 0 || descriptor >= OPENS_DESCRIPTORS) return false;
    return place_of(atomic_load(&opens.known->descriptors[descriptor]), out);
}

bool opens_object(uint64_t block, opens_place_t *out) {
    uint32_t cell = count_cell_at((const void *)(uintptr_t)block);
    memset(out, 0, sizeof *out);
    return cell && store_region() && cell <= store_region()->cells.room &&
           place_of(store_stack_of(cell - 1) + 1, out);
}

bool opens_thread(uint64_t ident, opens_place_t *out) {
    memset(out, 0, sizeof *out);
    if (!opens.known) return false;
    started_t *at = thread_slot(ident);
    return atomic_load(&at->ident) == ident && place_of(atomic_load(&at->stack), out);
}
