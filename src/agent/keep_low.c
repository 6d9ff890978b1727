#define _GNU_SOURCE
#include "agent/keep_low.h"

#include "agent/alloc/alloc.h"
#include "agent/capture.h"
#include "agent/free/free_steps.h"
#include "agent/gil.h"
#include "agent/gone.h"
#include "agent/limit/limit_watch.h"
#include "base/clock.h"
#include "base/limit_size.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    CALL_MS = 250,
    GIL_MS = 250,
    DUMP_GIL_MS = 5000,
    DUMP_EVERY_S = 600,
    STACK_BYTES = 256 << 10
};
enum { RESERVE_SHARE = 20, RESERVE_MAX = 64 << 20, PATH_BYTES = 4096 };
#define TIME_SHARE 0.1

enum call { CALL_NONE, CALL_QUEUED, CALL_DONE };

/* What is called of Python beyond what the agent needs elsewhere. */
typedef struct python {
    void *(*modules)(void);
    void *(*item)(void *dict, const char *key);
    void *(*call)(void *object, const char *method, const char *format, ...);
    long long (*number)(void *object);
} python_t;

static struct {
    rt_t *rt;
    python_t python;
    limit_watch_t watch;
    uint64_t bytes;
    char given[PATH_BYTES], dump[PATH_BYTES + 16];
    pthread_t threads[2];
    pid_t tasks[2]; /* theirs; 0: gone */
    int count;
    bool registered;
    _Atomic bool queued;        /* start_again */
    _Atomic bool stop, patient; /* patient: a recording that has begun is finished */
    int64_t next_dump_us;       /* not before */
    _Atomic int call;
    limit_state_t asked;   /* of the main thread, while a call is queued */
    _Atomic bool is_light; /* its caches did */
    gil_t gil[2];
    void *reserve;
    size_t reserve_bytes;
    /* Around the threads' beginning and end, and held for all of a fork: threads without the GIL may fork at once, and since glibc 2.36 so do
     * their handlers. Nobody waits for anybody else's lock with it: what others do before a fork is done by then, what they do behind it comes later. */
    pthread_mutex_t lock;
} low = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool stopped(void *arg) {
    (void)arg;
    return atomic_load(&low.stop);
}

/* ── In the main thread, by a pending call ── */

/* Of lowtide's own caches, where the program uses them. */
static uint64_t ask_caches(const char *method, uint64_t bytes) {
    void *modules = low.python.modules(), *keep;
    keep = modules ? low.python.item(modules, "lowtide._keep") : NULL; /* borrowed */
    if (!keep) return 0;
    void *told = strcmp(method, "total_bytes")
                     ? low.python.call(keep, method, "K", (unsigned long long)bytes)
                     : low.python.call(keep, method, NULL);
    long long n = told ? low.python.number(told) : 0; /* None is none */
    if (told) low.rt->Py_DecRef(told);
    low.rt->PyErr_Clear();
    return n > 0 ? (uint64_t)n : 0;
}

/* They give a little and grow no more: what they gave stays with the allocator, which serves the program from it. */
static bool caches_do(const limit_state_t *s) {
    uint64_t held = s->light_bytes ? ask_caches("total_bytes", 0) : 0;
    if (held <= s->light_bytes || ask_caches("shrink", s->light_bytes) < s->light_bytes)
        return false;
    ask_caches("ceiling", held - s->over_bytes);
    return true;
}

/* Not PyGC_Collect, which does nothing where the program has turned the collector off. */
static void collect(void) {
    void *gc = low.rt->PyImport_ImportModule("gc");
    void *done = gc ? low.python.call(gc, "collect", NULL) : NULL;
    if (done) low.rt->Py_DecRef(done);
    if (gc) low.rt->Py_DecRef(gc);
    low.rt->PyErr_Clear();
}

static int on_call(void *unused) {
    (void)unused;
    const limit_state_t *s = &low.asked;
    bool is_light = caches_do(s);
    if (!is_light) {
        ask_caches("ceiling", UINT64_MAX);
        if (s->wanted_bytes && ask_caches("shrink", s->wanted_bytes) < s->wanted_bytes) collect();
    }
    atomic_store(&low.is_light, is_light);
    atomic_store(&low.call, CALL_DONE);
    return 0;
}

/* A table of descriptors of its own, and empty: no number of it is one that the program counts on. */
static void settle(int which) {
    low.tasks[which] = (pid_t)syscall(SYS_gettid);
    prctl(PR_SET_NAME, "lowtide");
    if (syscall(SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE)) unshare(CLONE_FILES);
}

/* ── Our first thread ── */

static const char *source_name(const limit_state_t *s) {
    return s->shared ? "all processes" : gauge_name(s->source);
}

static bool ask_main_thread(const limit_state_t *s) {
    int was = atomic_load(&low.call);
    if (was == CALL_QUEUED) return false; /* it has not come to the last one yet */
    low.asked = *s;
    atomic_store(&low.is_light, false);
    atomic_store(&low.call, CALL_QUEUED);
    if (low.rt->Py_AddPendingCall(on_call, NULL)) {
        atomic_store(&low.call, CALL_NONE);
        return false;
    }
    for (int ms = 0; ms < CALL_MS && !stopped(NULL); ms++) {
        if (atomic_load(&low.call) == CALL_DONE) return true;
        usleep(1000);
    }
    return false;
}

static void trim(void) {
    free_step_t step;
    err_t e;
    gil_t *gil = &low.gil[0];
    if (!gil_find(gil, low.rt, &e) && !gil_take(gil, GIL_MS, stopped, NULL, &e)) {
        free_pools(low.rt, false, 0, &step);
        gil_release(gil);
    }
    if (!stopped(NULL)) free_libc(false, &step);
}

static void *act_forever(void *unused) {
    limit_state_t s;
    (void)unused;
    settle(0);
    for (;;) {
        enum limit_level level = limit_watch_wait(&low.watch, LIMIT_PRESSURE, &s);
        char text[160];
        if (level == LIMIT_STOPPED) break;
        if (level == LIMIT_SPARE) {
            s.wanted_bytes = 0;
            if (ask_main_thread(&s)) continue;
            low.watch.light = true; /* said again, until it has heard */
            limit_watch_sleep(&low.watch, CALL_MS * 1000000ll);
            continue;
        }
        int64_t began = now_us();
        bool light = ask_main_thread(&s) && atomic_load(&low.is_light);
        if (!light) trim();
        int64_t took_us = now_us() - began;
        uint64_t freed = limit_watch_acted(&low.watch, &s, took_us * 1000, light);
        snprintf(text, sizeof text,
                 "near the memory limit: %llu of %llu bytes (%s); %llu came back",
                 (unsigned long long)s.used_bytes, (unsigned long long)s.hard_bytes,
                 source_name(&s), (unsigned long long)freed);
        alloc_mark(text);
    }
    return NULL;
}

/* ── Our second thread: a recording while there is room for one ── */

static int hold(void *arg, err_t *e) {
    (void)arg;
    int status = gil_find(&low.gil[1], low.rt, e);
    return status ? status : gil_take(&low.gil[1], DUMP_GIL_MS, stopped, NULL, e);
}

static void let_go(void *arg) {
    (void)arg;
    gil_release(&low.gil[1]);
}

static void adopt(void *arg) {
    (void)arg;
    gil_adopt(&low.gil[1]);
}

static bool wait_and_ask(void *arg, int wait_ms) {
    usleep((useconds_t)wait_ms * 1000);
    return stopped(arg) && !atomic_load(&low.patient);
}

static void set_aside(void) {
    if (low.reserve) return;
    low.reserve_bytes =
        low.bytes / RESERVE_SHARE < RESERVE_MAX ? low.bytes / RESERVE_SHARE : RESERVE_MAX;
    low.reserve = mmap(NULL, low.reserve_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_NORESERVE, -1, 0);
    if (low.reserve == MAP_FAILED)
        low.reserve = NULL;
    else
        madvise(low.reserve, low.reserve_bytes, MADV_DONTFORK);
}

static void use_reserve(void) {
    if (low.reserve) munmap(low.reserve, low.reserve_bytes);
    low.reserve = NULL;
}

/* On the program's standard error, by the main thread's table. */
static void say(const char *text) {
    int process = (int)syscall(SYS_pidfd_open, getpid(), 0);
    int fd = process < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, process, STDERR_FILENO, 0);
    ssize_t ignored = fd < 0 ? 0 : write(fd, text, strlen(text));
    (void)ignored;
    if (fd >= 0) close(fd);
    if (process >= 0) close(process);
}

static void dump(const limit_state_t *s) {
    char text[2 * sizeof low.dump + 256];
    ctl_result_t result;
    int out = open(low.dump, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    capture_t c = {.rt = low.rt,
                   .fd = out,
                   .peer = -1,
                   .hold = hold,
                   .let_go = let_go,
                   .adopt = adopt,
                   .stop = wait_and_ask};
    use_reserve();
    low.next_dump_us = now_us() + DUMP_EVERY_S * 1000000ll;
    if (out < 0) {
        snprintf(text, sizeof text, "lowtide: cannot write %s: %s\n", low.dump,
                 strerrordesc_np(errno));
        say(text);
    } else if (capture_run(&c, &result) == 0) {
        snprintf(text, sizeof text,
                 "lowtide: %llu of %llu bytes (%s) are in use; what holds them is in %s: lowtide "
                 "report %s\n",
                 (unsigned long long)s->used_bytes, (unsigned long long)s->hard_bytes,
                 source_name(s), low.dump, low.dump);
        say(text);
    } else if (stopped(NULL)) {
        low.next_dump_us = 0; /* taken from it by a fork: it may try again */
    } else {
        snprintf(text, sizeof text, "lowtide: no recording near the limit: %.400s\n", result.text);
        say(text);
    }
}

static void *dump_forever(void *unused) {
    limit_state_t s;
    (void)unused;
    settle(1);
    int64_t wait_us = low.next_dump_us - now_us();
    if (wait_us > 0 && !limit_watch_sleep(&low.watch, wait_us * 1000)) return NULL;
    set_aside();
    while (limit_watch_wait(&low.watch, LIMIT_NEAR, &s) == LIMIT_NEAR) {
        dump(&s);
        if (!limit_watch_sleep(&low.watch, DUMP_EVERY_S * 1000000000ll)) break;
        set_aside();
    }
    return NULL; /* the reserve stays: we are back after the fork */
}

/* ── In and out ── */

static bool find_python(python_t *p) {
    const struct {
        const char *name;
        void *to;
    } all[] = {{"PyImport_GetModuleDict", &p->modules},
               {"PyDict_GetItemString", &p->item},
               {"PyObject_CallMethod", &p->call},
               {"PyLong_AsLongLong", &p->number}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        void *found = dlsym(RTLD_DEFAULT, all[i].name);
        if (!found) return false;
        memcpy(all[i].to, &found, sizeof found);
    }
    return true;
}

static void start(void) {
    void *(*const work[])(void *) = {act_forever, dump_forever};
    pthread_attr_t how;
    sigset_t all, before;
    low.watch.stopped = false;
    atomic_store(&low.stop, false);
    sigfillset(&all);
    pthread_attr_init(&how);
    pthread_attr_setstacksize(&how, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 0; i < (low.dump[0] ? 2 : 1); i++)
        if (pthread_create(&low.threads[low.count], &how, work[i], NULL) == 0) low.count++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&how);
}

static void end(void) {
    if (!low.count) return;
    atomic_store(&low.stop, true);
    limit_watch_stop(&low.watch);
    while (low.count) pthread_join(low.threads[--low.count], NULL);
    for (int i = 0; i < 2; i++) {
        gone_wait(low.tasks[i]);
        low.tasks[i] = 0;
    }
}

/* Before a fork: of two threads it warns (Python 3.12 and later), and one of them would be ours. It counts them when the fork is done, so
 * where the program has one thread ours are back only when it runs on; nor may they be there in a child before Python has put its own
 * house in order. */
static void before_fork(void) {
    pthread_mutex_lock(&low.lock);
    if (low.bytes) end();
}

static int start_again(void *unused) {
    (void)unused;
    atomic_store(&low.queued, false);
    if (pthread_mutex_trylock(&low.lock))
        return 0; /* a fork is under way, and does it at its end */
    if (low.bytes && !low.count) start();
    pthread_mutex_unlock(&low.lock);
    return 0;
}

/* The main thread's next step; there are 32 places for such calls, the program's own among them. */
static bool start_soon(void) {
    if (atomic_exchange(&low.queued, true)) return true;
    if (low.rt->Py_AddPendingCall(start_again, NULL) == 0) return true;
    atomic_store(&low.queued, false);
    return false;
}

static bool has_threads(void) {
    struct stat tasks; /* a link for each, and two */
    return stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink > 3;
}

/* Of several threads of the program's own it warns anyway, and the main one may wait for long, for the very thread that forks. */
static void after_fork(void) {
    if (low.bytes && (has_threads() || !start_soon())) start();
    pthread_mutex_unlock(&low.lock);
}

static void watch_begin(const gauge_places_t *places) {
    region_t *region = alloc_region();
    limit_watch_open(&low.watch, places, low.bytes, TIME_SHARE);
    low.watch.tree = region;
    if (region) region->limit_bytes = low.bytes;
}

/* near.tide, and near.4711.tide for a child. */
static void name_dump(const char *path) {
    const char *name = strrchr(path, '/'), *suffix = strrchr(name ? name : path, '.');
    int stem = (int)(suffix ? (size_t)(suffix - path) : strlen(path));
    snprintf(low.dump, sizeof low.dump, "%.*s.%d%s", stem, path, (int)getpid(), path + stem);
}

/* Where the child is followed, it counts against the same limit. */
static void in_child(void) {
    pthread_mutex_init(&low.lock, NULL);
    if (!low.bytes) return;
    gauge_places_t places = low.watch.places;
    if (!alloc_region()) {
        low.bytes = 0;
        return;
    }
    low.reserve = NULL; /* stayed with the parent */
    low.next_dump_us = 0;
    atomic_store(&low.call, CALL_NONE);
    atomic_store(&low.patient, false);
    memset(low.gil, 0, sizeof low.gil);
    memset(low.tasks, 0, sizeof low.tasks);
    if (low.given[0]) name_dump(low.given);
    watch_begin(&places);
    atomic_store(&low.queued, false);
    start_soon();
}

int keep_low_begin(rt_t *rt, const char *size, const char *path, bool child, err_t *e) {
    gauge_places_t places;
    gauge_find(&places, "/proc", "/sys/fs/cgroup");
    uint64_t total = gauge_total(&places), bytes;
    int status = limit_size_parse(size, total, &bytes, e);
    if (status) return status;
    if (bytes > total)
        return err_set(
            e, -EINVAL,
            "a limit of %llu bytes is above the %llu that this process may have at most: lower it",
            (unsigned long long)bytes, (unsigned long long)total);
    if (!find_python(&low.python))
        return err_set(e, -ENOSYS, "this Python lacks functions that a limit needs");
    /* Before we hold the lock: before glibc 2.36 a fork has its handlers called with the lock held that this takes. */
    if (!low.registered) low.registered = pthread_atfork(before_fork, after_fork, in_child) == 0;
    pthread_mutex_lock(&low.lock);
    low.rt = rt;
    snprintf(low.given, sizeof low.given, "%s", path);
    snprintf(low.dump, sizeof low.dump, "%s", path);
    if (child && path[0]) name_dump(path);
    low.bytes = bytes;
    watch_begin(&places);
    if (!low.count) start();
    pthread_mutex_unlock(&low.lock);
    return 0;
}

void keep_low_rest(void) {
    atomic_store(&low.patient, true);
    pthread_mutex_lock(&low.lock);
    if (low.bytes) end();
}

void keep_low_go_on(void) {
    if (low.bytes) start();
    pthread_mutex_unlock(&low.lock);
    atomic_store(&low.patient, false);
}

void keep_low_end(void) {
    atomic_store(&low.patient, true);
    pthread_mutex_lock(&low.lock);
    end();
    low.bytes = 0;
    pthread_mutex_unlock(&low.lock);
}
