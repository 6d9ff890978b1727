#define _GNU_SOURCE
#include "agent/alloc/alloc.h"

#include "agent/alloc/alloc_count.h"
#include "agent/alloc/alloc_libc.h"
#include "agent/alloc/alloc_opens.h"
#include "agent/alloc/alloc_python.h"
#include "agent/alloc/alloc_stack.h"
#include "agent/alloc/alloc_store.h"
#include "agent/alloc/alloc_unwind.h"
#include "base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { INTERVAL_BYTES_MIN = 1024, LOOK_EVERY_US = 2000, LEFT_MS = 50, INSIDE_MS_MOST = 1500 };

enum state { STATE_OFF, STATE_ON, STATE_LEAVING, STATE_SILENT };

static struct {
    const rt_t *rt;
    alloc_options_t options;
    enum state state;
} alloc;

static void close_all(void) {
    count_close();
    opens_close();
    stack_close();
    unwind_close();
    store_close();
    alloc.state = STATE_OFF;
}

/* The recorder watches it from outside. */
static void tell_of_collector(void) {
    rt_addr_t interp = (rt_addr_t)alloc.rt->PyInterpreterState_Main(), collecting, counts;
    if (!interp) return;
    rt_gc_watch(alloc.rt, interp, &collecting, &counts);
    store_region()->gc_collecting = (uint64_t)collecting;
    store_region()->gc_stats = (uint64_t)counts;
}

int alloc_start(const rt_t *rt, const alloc_options_t *o, int *region_fd, err_t *e) {
    /* Somebody was inside when the last profile ended. */
    if (alloc.state == STATE_LEAVING && alloc_quiet(LEFT_MS, e)) return -EBUSY;
    if (alloc.state != STATE_OFF)
        return err_set(e, -EALREADY, "allocations are being watched already");
    alloc.rt = rt;
    alloc.options = *o;
    uint64_t *interval = &alloc.options.interval_bytes;
    if (!*interval) *interval = ALLOC_INTERVAL_BYTES;
    if (*interval < INTERVAL_BYTES_MIN) *interval = INTERVAL_BYTES_MIN;
    int status = store_open(o->mode, *interval, region_fd, e);
    if (status) return status;
    tell_of_collector();
    if (o->native) status = unwind_open(e);
    if (!status && !stack_open(rt, o->native))
        status = err_set(e, -ENOMEM, "no memory for the profile");
    if (!status) status = count_open(o->mode, *interval, e);
    if (!status) status = python_hook(rt, o->mode, e);
    if (!status && (status = libc_hook(o->mode, o->stays, e))) python_unhook(rt);
    if (status) {
        close(*region_fd);
        close_all();
        return status;
    }
    if (o->mode == REGION_SAMPLED) python_trust_libc();
    alloc.state = STATE_ON;
    return 0;
}

int alloc_stop(err_t *e) {
    if (alloc.state != STATE_ON && alloc.state != STATE_SILENT) return 0;
    if (!python_unhookable(alloc.rt))
        return err_set(e, -EBUSY,
                       "the program has put allocator hooks of its own over lowtide's "
                       "(tracemalloc?); they stay until it takes them out");
    python_unhook(alloc.rt);
    libc_unhook();
    /* Of a silent child the region is its parent's. */
    if (alloc.state == STATE_ON && store_region()) store_region()->ended = 1;
    alloc.state = STATE_LEAVING;
    return 0;
}

/* ── Is anybody still inside? ──
 *
 * Longer stays are counted. In its first and last instructions a hook is not counted yet or any more; nothing waits
 * there, so a thread that is there is running or waits for a processor. One that sleeps in the kernel, or has used
 * processor time since, is past them. */

static bool read_task(int task, const char *name, char *to, size_t room) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/%s", task, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, to, room - 1);
    if (fd >= 0) close(fd);
    to[n > 0 ? n : 0] = 0;
    return n > 0;
}

static bool task_sleeps(int task) {
    char text[512], *p;
    if (!read_task(task, "stat", text, sizeof text) || !(p = strrchr(text, ')'))) return true;
    /* For a disk, or for a child of vfork to call exec: in a system call, not where memory is touched. */
    if (p[1] == ' ' && p[2] == 'D')
        return read_task(task, "syscall", text, sizeof text) && text[0] >= '0' && text[0] <= '9';
    return p[1] == ' ' && (p[2] == 'S' || p[2] == 'Z' || p[2] == 'X' || p[2] == 'I');
}

static uint64_t task_ran_ns(int task) {
    char text[128];
    return read_task(task, "schedstat", text, sizeof text) ? strtoull(text, NULL, 10) : 0;
}

static bool task_passes(int task, int64_t deadline_ms) {
    uint64_t before = task_ran_ns(task);
    while (!task_sleeps(task) && task_ran_ns(task) == before) {
        if (now_ms() > deadline_ms) return false;
        usleep(LOOK_EVERY_US);
    }
    return true;
}

static bool tasks_pass(int64_t deadline_ms) {
    DIR *tasks = opendir("/proc/self/task");
    bool passed = tasks != NULL;
    struct dirent *d;
    const int me = (int)syscall(SYS_gettid);
    while (passed && (d = readdir(tasks))) {
        int task = atoi(d->d_name);
        if (task && task != me) passed = task_passes(task, deadline_ms);
    }
    if (tasks) closedir(tasks);
    return passed;
}

int alloc_quiet(uint32_t timeout_ms, err_t *e) {
    const int64_t began = now_ms(), deadline = began + timeout_ms;
    /* Whoever is in a hook for longer than that waits in it for something. */
    const int64_t most = timeout_ms < INSIDE_MS_MOST ? deadline : began + INSIDE_MS_MOST;
    if (alloc.state == STATE_OFF) return 0;
    if (alloc.state != STATE_LEAVING)
        return err_set(e, -EBUSY, "allocations are still being watched");
    for (int round = 0; round < 2; round++) {
        while (libc_inside() && now_ms() < most) usleep(LOOK_EVERY_US);
        if (libc_inside() || !tasks_pass(deadline))
            return err_set(e, -ETIMEDOUT, "a thread of the program is still in an allocation");
    }
    close_all();
    return 0;
}

bool alloc_inside(void) {
    return libc_inside() != 0;
}

/* ── Children and marks ── */

int alloc_fork_child(int *region_fd, err_t *e) {
    if (alloc.state != STATE_OFF) libc_fork_child();
    if (alloc.state != STATE_ON) return err_set(e, -ENOENT, "nothing was being watched");
    int status = -ENOENT;
    if (region_fd) {
        store_close();
        status = store_open(alloc.options.mode, alloc.options.interval_bytes, region_fd, e);
        if (!status) tell_of_collector();
        stack_close();
        if (!status && !stack_open(alloc.rt, alloc.options.native)) {
            status = err_set(e, -ENOMEM, "no memory");
            close(*region_fd);
        }
        if (status) *region_fd = -1;
    } else {
        err_set(e, status, "not followed");
    }
    if (status) {
        alloc.state = STATE_SILENT;
        opens_close();
    } else {
        opens_forget();
    }
    count_restart(!status);
    return status;
}

region_t *alloc_region(void) {
    return alloc.state == STATE_ON ? store_region() : NULL;
}

void alloc_on_peak(void (*call)(void)) {
    store_on_peak(call);
}

uint32_t alloc_text(const char *text) {
    return alloc.state == STATE_ON ? store_text(text, strlen(text)) : 0;
}

void alloc_mark(const char *text) {
    if (alloc.state == STATE_ON) store_event(REGION_EVENT_MARK, 0, 0, text);
}

bool alloc_may_know(uintptr_t block) {
    return count_may_have((const void *)block) || count_is_shown((const void *)block);
}
