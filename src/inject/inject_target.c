#define _GNU_SOURCE
#include "inject/inject_target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define PF_KTHREAD       0x00200000u
#define TRACER_LOOKS     5
#define TRACER_LOOKS_MAX 100

/* ── Refusals that /proc/PID/status is enough for ── */

/* A process names itself as it likes: nothing of that may disturb a terminal. */
static void name_of(pid_t pid, char out[64]) {
    char *comm = proc_read_text("/proc/%d/comm", (int)pid);
    snprintf(out, 64, "%.*s", comm ? (int)strcspn(comm, "\n") : 1, comm ? comm : "?");
    free(comm);
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 127) *p = '?';
}

int target_gone(pid_t pid, err_t *e) {
    proc_stat_t stat;
    if (proc_stat_read(pid, pid, &stat) == 0 && stat.state != 'Z' && stat.state != 'X')
        return err_set(e, -EAGAIN, "process %d became another program meanwhile (exec); try again",
                       (int)pid);
    return err_set(e, -ESRCH, "process %d ended while lowtide was at it", (int)pid);
}

int target_not_permitted(pid_t pid, const char *name, err_t *e) {
    char *status = proc_read_text("/proc/%d/status", (int)pid);
    if (!status) return target_gone(pid, e);
    long uid = proc_status_number(status, "Uid", -1);
    free(status);
    char *yama = proc_read_text("/proc/sys/kernel/yama/ptrace_scope");
    int scope = yama ? atoi(yama) : 0;
    free(yama);
    if (scope == 3)
        return err_set(e, -EPERM,
                       "not permitted to observe process %d (%s): kernel.yama.ptrace_scope is 3, "
                       "which forbids it to everybody until the next boot",
                       (int)pid, name);
    if (geteuid() == 0)
        return err_set(
            e, -EPERM,
            "not permitted to observe process %d (%s), though lowtide runs as root: the capability "
            "CAP_SYS_PTRACE is missing (docker run --cap-add=SYS_PTRACE), or a security module "
            "forbids it",
            (int)pid, name);
    if (uid != (long)geteuid())
        return err_set(
            e, -EPERM,
            "not permitted to observe process %d (%s): it belongs to user %ld; run lowtide "
            "as that user or as root",
            (int)pid, name, uid);
    if (scope > 0)
        return err_set(
            e, -EPERM,
            "not permitted to observe process %d (%s): kernel.yama.ptrace_scope is %d; run lowtide "
            "as root, or allow it: sudo sysctl kernel.yama.ptrace_scope=0",
            (int)pid, name, scope);
    return err_set(
        e, -EPERM,
        "not permitted to observe process %d (%s): it changed its privileges or made itself "
        "undumpable (PR_SET_DUMPABLE); run lowtide as root",
        (int)pid, name);
}

/* A tracer that lets go is replaced by the parent before the mark of being traced is taken away (__ptrace_unlink): a look in
 * between names a stranger. Who traces is seen again and again. Returns 0 when nobody is. */
static long tracer_for_sure(const char *status, pid_t pid) {
    long tid = proc_status_number(status, "Pid", pid);
    long tracer = proc_status_number(status, "TracerPid", 0), before = tracer;
    for (int i = 0, same = 1; i < TRACER_LOOKS_MAX && tracer && same < TRACER_LOOKS; i++) {
        before = tracer;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        char *again = proc_read_text("/proc/%d/task/%ld/status", (int)pid, tid);
        tracer = again ? proc_status_number(again, "TracerPid", 0) : 0;
        free(again);
        same = tracer == before ? same + 1 : 1;
    }
    return tracer;
}

static int refuse_traced(const inject_target_t *t, long tracer, err_t *e) {
    char by[64];
    name_of((pid_t)tracer, by);
    /* Another lowtide holds a thread for a millisecond, and may be gone already: that is waited for. */
    int code = strcmp(by, "lowtide") == 0 || strcmp(by, "?") == 0 ? -EALREADY : -EBUSY;
    return err_set(
        e, code,
        "process %d (%s) is already traced by process %ld (%s); try again when that is done",
        (int)t->pid, t->name, tracer, by);
}

static int refuse_by_thread_status(const inject_target_t *t, const char *status, err_t *e) {
    long tracer = tracer_for_sure(status, t->pid);
    if (tracer != 0) return refuse_traced(t, tracer, e);
    if (proc_status_number(status, "Seccomp", 0) != 0)
        return err_set(e, -EBUSY,
                       "process %d (%s) runs under a seccomp filter, which may kill it for system "
                       "calls that it does "
                       "not make itself; start it under lowtide run instead",
                       (int)t->pid, t->name);
    const char *features = proc_status_value(status, "x86_Thread_features");
    if (features && memmem(features, strcspn(features, "\n"), "shstk", 5))
        return err_set(
            e, -ENOTSUP,
            "process %d (%s) runs with a shadow stack, which lowtide cannot step around; "
            "start it under lowtide run instead",
            (int)t->pid, t->name);
    return 0;
}

static int refuse_by_state(const inject_target_t *t, const char *status, err_t *e) {
    long leader = proc_status_number(status, "Tgid", t->pid);
    if (leader != t->pid)
        return err_set(e, -EINVAL, "%d is a thread of process %ld; name the process", (int)t->pid,
                       leader);
    proc_stat_t stat;
    if (proc_stat_read(t->pid, t->pid, &stat)) return target_gone(t->pid, e);
    if (stat.flags & PF_KTHREAD)
        return err_set(e, -ENOTSUP, "process %d (%s) is a thread of the kernel, not a Python",
                       (int)t->pid, t->name);
    if (stat.state == 'Z' || stat.state == 'X')
        return err_set(e, -ESRCH,
                       "process %d (%s) has ended already: a zombie that waits for its parent",
                       (int)t->pid, t->name);
    if (stat.state == 'T')
        return err_set(e, -EBUSY, "process %d (%s) is stopped; let it go on first: kill -CONT %d",
                       (int)t->pid, t->name, (int)t->pid);
    return 0;
}

int target_refuse_by_status(const inject_target_t *t, err_t *e) {
    char *status = proc_read_text("/proc/%d/status", (int)t->pid);
    if (!status) return err_set(e, -ESRCH, "there is no process %d", (int)t->pid);
    int result = refuse_by_thread_status(t, status, e);
    if (result == 0) result = refuse_by_state(t, status, e);
    free(status);
    pid_vec_t threads = {0};
    if (result == 0 && proc_threads(t->pid, &threads)) result = target_gone(t->pid, e);
    for (size_t i = 0; result == 0 && i < threads.count; i++) {
        status = proc_read_text("/proc/%d/task/%d/status", (int)t->pid, (int)threads.at[i]);
        if (status) result = refuse_by_thread_status(t, status, e);
        free(status);
    }
    pid_vec_free(&threads);
    return result;
}

/* Between vfork and exec a child works on its parent's memory: what we did to one would be done to the other. */
static int refuse_borrowed_memory(const inject_target_t *t, err_t *e) {
    char *status = proc_read_text("/proc/%d/status", (int)t->pid);
    long parent = status ? proc_status_number(status, "PPid", 0) : 0;
    free(status);
    if (parent > 0 && syscall(SYS_kcmp, (pid_t)parent, t->pid, KCMP_VM, 0, 0) == 0)
        return err_set(e, -EBUSY,
                       "process %d (%s) still shares the memory of its parent %ld; try again",
                       (int)t->pid, t->name, parent);
    return 0;
}

/* ── What is loaded ── */

typedef struct survey {
    inject_target_t *t;
    elf_object_t libc, python;
    bool has_libc, has_python, has_musl, has_loader, has_program, needs_loader;
    elf_object_t libraries[4]; /* libc, and where they are apart libpthread and libdl */
    int library_count;
} survey_t;

static int remember_code(inject_target_t *t, const proc_map_t *m, target_code_t code) {
    target_file_t f = {m->device, m->inode, code};
    return target_file_vec_push(&t->files, f);
}

static bool base_name_starts(const char *path, const char *start) {
    const char *slash = strrchr(path, '/');
    return strncmp(slash ? slash + 1 : path, start, strlen(start)) == 0;
}

static int survey_object(survey_t *s, const proc_map_t *m, const elf_object_t *o) {
    int fd = s->t->mem_fd;
    bool libc = elf_symbol(fd, o, "gnu_get_libc_version") != 0;
    if (libc || base_name_starts(m->path, "libpthread.so") ||
        base_name_starts(m->path, "libpthread-2") || base_name_starts(m->path, "libdl.so") ||
        base_name_starts(m->path, "libdl-2")) {
        if (libc) s->libc = *o;
        s->has_libc |= libc;
        if (s->library_count < 4) s->libraries[s->library_count++] = *o;
        return remember_code(s->t, m, TARGET_CODE_LIBC);
    }
    if (elf_symbol(fd, o, "_rtld_global") != 0) {
        s->has_loader = true;
        s->t->loader_debug = elf_symbol(fd, o, "_r_debug");
        return remember_code(s->t, m, TARGET_CODE_UNSAFE);
    }
    if (!s->has_python && elf_symbol(fd, o, "Py_IsInitialized")) {
        s->python = *o;
        s->has_python = true;
    }
    if (elf_symbol(fd, o, "malloc") || elf_symbol(fd, o, "calloc"))
        return remember_code(s->t, m, TARGET_CODE_UNSAFE);
    return 0;
}

/* Only programs and libraries are looked into: reading the memory of a device may mean something to it. */
static bool is_code_file(const proc_maps_t *maps, const proc_map_t *first) {
    if (first->offset != 0 || first->inode == 0 || !first->readable) return false;
    const proc_map_t *last = maps->list.at + maps->list.count;
    for (const proc_map_t *m = first;
         m < last && m->inode == first->inode && m->device == first->device; m++) {
        if (m != first && m->offset == 0) return false;
        if (m->executable) return true;
    }
    return false;
}

static int survey_all(survey_t *s, err_t *e) {
    inject_target_t *t = s->t;
    for (size_t i = 0; i < t->maps.list.count; i++) {
        const proc_map_t *m = &t->maps.list.at[i];
        if (!is_code_file(&t->maps, m)) continue;
        if (base_name_starts(m->path, "ld-musl") || base_name_starts(m->path, "libc.musl"))
            s->has_musl = true;
        elf_object_t o;
        int status = elf_object_open(t->mem_fd, &t->maps, m, &o);
        s->has_program |= status != -EFAULT;
        s->needs_loader |= o.has_interpreter;
        if (status == -ENOTSUP)
            return err_set(e, -ENOTSUP, "process %d (%s) is not an x86-64 program", (int)t->pid,
                           t->name);
        if (status == 0 && survey_object(s, m, &o))
            return err_sys(e, -ENOMEM, "cannot look at process %d", (int)t->pid);
    }
    return 0;
}

bool target_loader_rests(const inject_target_t *t) {
    struct {
        int version;
        uint64_t objects, stop_here;
        int state; /* 0 = consistent */
    } debug;
    if (!t->loader_debug || elf_read(t->mem_fd, t->loader_debug, &debug, sizeof debug))
        return false;
    return debug.version != 0 && debug.state == 0;
}

static int refuse_by_survey(survey_t *s, err_t *e) {
    inject_target_t *t = s->t;
    int pid = (int)t->pid;
    char byte;
    if (elf_read(t->mem_fd, t->maps.list.at[0].start, &byte, 1) == -ESRCH)
        return target_gone(t->pid, e);
    if (s->has_musl)
        return err_set(e, -ENOTSUP,
                       "process %d (%s) runs on musl; lowtide observes Pythons on glibc", pid,
                       t->name);
    /* The loader says that it rests a moment before it begins to load. */
    bool in_exec = !s->has_program || (s->needs_loader && !(s->has_loader && s->has_libc));
    if (in_exec || (s->has_loader && !target_loader_rests(t)))
        return err_set(e, -EAGAIN, "process %d (%s) is just loading its libraries; try again", pid,
                       t->name);
    if (!s->has_libc || !s->has_loader)
        return err_set(
            e, -ENOTSUP,
            "process %d (%s) is linked statically, without the glibc loader that lowtide needs; "
            "use a dynamically linked Python",
            pid, t->name);
    if (!s->has_python)
        return err_set(e, -ENOTSUP, "process %d (%s) is not a Python", pid, t->name);
    uint64_t version_at = elf_symbol(t->mem_fd, &s->python, "Py_Version");
    if (version_at && elf_read(t->mem_fd, version_at, &t->python_version, sizeof t->python_version))
        return target_gone(t->pid, e);
    unsigned minor = (unsigned)(t->python_version >> 16 & 0xff);
    if (!version_at || t->python_version >> 24 != 3 || minor < 11)
        return err_set(e, -ENOTSUP,
                       "process %d (%s) is a Python older than 3.11; lowtide observes 3.11 to 3.15",
                       pid, t->name);
    if (minor > 15)
        return err_set(e, -ENOTSUP,
                       "process %d (%s) is Python 3.%u; this lowtide observes 3.11 to 3.15", pid,
                       t->name, minor);
    if (elf_symbol(t->mem_fd, &s->python, "_Py_DecRefShared"))
        return err_set(
            e, -ENOTSUP,
            "process %d (%s) is a free-threaded Python, which lowtide does not observe yet", pid,
            t->name);
    return 0;
}

/* Looks for these instructions in an object: near a function that is known to be close to them first, because each page that is
 * read this way becomes resident in the target. */
static uint64_t find_code(const inject_target_t *t, const elf_object_t *o, const char *near,
                          const char *bytes, size_t n) {
    unsigned char block[8192 + 16];
    uint64_t hint = elf_symbol(t->mem_fd, o, near);
    for (size_t i = 0; i < 2 * t->maps.list.count; i++) {
        const proc_map_t *m = &t->maps.list.at[i / 2];
        if (!m->executable || m->start < o->base || m->end > o->end) continue;
        uint64_t at = m->start, end = m->end;
        if (i % 2 == 0) {
            if (hint < m->start || hint >= m->end) continue;
            at = hint - m->start < 4096 ? m->start : hint - 4096;
            end = at + 8192 < m->end ? at + 8192 : m->end;
        }
        for (; at < end; at += 8192) {
            size_t size = end - at < sizeof block ? end - at : sizeof block;
            if (elf_read(t->mem_fd, at, block, size)) return 0;
            const unsigned char *found = memmem(block, size, bytes, n);
            if (found) return at + (uint64_t)(found - block);
        }
    }
    return 0;
}

static uint64_t library_symbol(const survey_t *s, const char *name) {
    uint64_t found = 0;
    for (int i = 0; i < s->library_count && !found; i++)
        found = elf_symbol(s->t->mem_fd, &s->libraries[i], name);
    return found;
}

static int find_addresses(survey_t *s, err_t *e) {
    inject_target_t *t = s->t;
    target_functions_t *at = &t->at;
    const struct {
        const char *name;
        uint64_t *address;
    } wanted[] = {
        {"__errno_location", &at->errno_location},
        {"pthread_attr_init", &at->attr_init},
        {"pthread_attr_setdetachstate", &at->attr_setdetachstate},
        {"pthread_attr_setstacksize", &at->attr_setstacksize},
        {"pthread_create", &at->thread_create},
        {"dlopen", &at->dlopen},
        {"dlsym", &at->dlsym},
        {"dlclose", &at->dlclose},
        {"dlerror", &at->dlerror},
        {"munmap", &at->munmap},
    };
    const char *missing = NULL;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!(*wanted[i].address = library_symbol(s, wanted[i].name))) missing = wanted[i].name;
    t->syscall_then_ret = find_code(t, &s->libc, "getpid", "\x0f\x05\xc3", 3);
    t->restorer = find_code(t, &s->libc, "sigaction", "\x48\xc7\xc0\x0f\0\0\0\x0f\x05", 9);
    if (!t->syscall_then_ret || !t->restorer) missing = "a system call instruction";
    if (!missing) return 0;
    char byte;
    if (elf_read(t->mem_fd, s->libc.base, &byte, 1) == -ESRCH) return target_gone(t->pid, e);
    return err_set(e, -ENOTSUP,
                   "process %d (%s) has no %s where lowtide looks for it; please report its C "
                   "library and Python",
                   (int)t->pid, t->name, missing);
}

static int open_memory(inject_target_t *t, err_t *e) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)t->pid);
    t->mem_fd = open(path, O_RDWR | O_CLOEXEC);
    int status = t->mem_fd < 0 ? -errno : proc_maps_read(t->pid, &t->maps);
    if (status == -ENOENT || status == -ESRCH) return target_gone(t->pid, e);
    if (status == -EACCES || status == -EPERM) return target_not_permitted(t->pid, t->name, e);
    if (status)
        return err_sys(e, status, "cannot read the memory of process %d (%s)", (int)t->pid,
                       t->name);
    if (t->maps.list.count == 0) return target_gone(t->pid, e);
    return 0;
}

static bool has_proc(pid_t pid) {
    char path[64];
    struct statfs fs;
    snprintf(path, sizeof path, "/proc/%d/root/proc", (int)pid);
    return statfs(path, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

/* What was missing may have been mapped since we looked. */
static bool has_changed(const inject_target_t *t) {
    proc_maps_t now;
    if (proc_maps_read(t->pid, &now)) return false;
    bool changed = now.list.count != t->maps.list.count;
    proc_maps_free(&now);
    return changed;
}

int target_open(pid_t pid, inject_target_t *out, err_t *e) {
    *out = (inject_target_t){.pid = pid, .mem_fd = -1};
    if (pid <= 0) return err_set(e, -EINVAL, "%d is not a process id", (int)pid);
    if (pid == getpid())
        return err_set(e, -EINVAL,
                       "process %d is lowtide itself; from inside a Python use lowtide.snapshot()",
                       (int)pid);
    name_of(pid, out->name);
    survey_t s = {.t = out};
    int status = target_refuse_by_status(out, e);
    if (status == 0) status = open_memory(out, e);
    if (status == 0) status = refuse_borrowed_memory(out, e);
    if (status == 0) status = survey_all(&s, e);
    if (status == 0) status = refuse_by_survey(&s, e);
    if (status == 0) status = find_addresses(&s, e);
    if (status == -ENOTSUP && has_changed(out)) status = -EAGAIN;
    if (status == 0) out->has_proc = has_proc(pid);
    if (status) target_close(out);
    return status;
}

void target_close(inject_target_t *t) {
    if (t->mem_fd >= 0) close(t->mem_fd);
    t->mem_fd = -1;
    proc_maps_free(&t->maps);
    target_file_vec_free(&t->files);
}

int target_refresh(inject_target_t *t, err_t *e) {
    const proc_map_t *before = proc_maps_find(&t->maps, t->at.thread_create);
    uint64_t start = before->start, inode = before->inode;
    proc_maps_t maps;
    int status = proc_maps_read(t->pid, &maps);
    if (status)
        return status == -ENOMEM ? err_sys(e, status, "cannot read the memory map")
                                 : target_gone(t->pid, e);
    proc_maps_free(&t->maps);
    t->maps = maps;
    const proc_map_t *now = proc_maps_find(&maps, t->at.thread_create);
    char byte;
    if (now && now->start == start && now->inode == inode &&
        elf_read(t->mem_fd, t->at.thread_create, &byte, 1) == 0)
        return 0;
    return target_gone(t->pid, e);
}

target_code_t target_code_at(const inject_target_t *t, uint64_t pc) {
    const proc_map_t *m = proc_maps_find(&t->maps, pc);
    if (!m || !m->executable) return TARGET_CODE_NONE;
    if (m->path[0] == '[') return TARGET_CODE_UNSAFE;
    for (size_t i = 0; i < t->files.count; i++)
        if (t->files.at[i].inode == m->inode && t->files.at[i].device == m->device)
            return t->files.at[i].code;
    return TARGET_CODE_OTHER;
}
