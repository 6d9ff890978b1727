#define _GNU_SOURCE
#include "inject/inject_proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *text_of_fd(int fd) {
    size_t room = 16384, n = 0;
    char *text = malloc(room);
    while (text) {
        ssize_t got = read(fd, text + n, room - n - 1);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) break;
        n += (size_t)got;
        text[n] = 0;
        if (got == 0) return text;
        if (room - n < 4096) {
            char *bigger = realloc(text, room *= 2);
            if (!bigger) break;
            text = bigger;
        }
    }
    int code = text ? errno : ENOMEM;
    free(text);
    errno = code;
    return NULL;
}

char *proc_read_text(const char *path, ...) {
    char name[128];
    va_list ap;
    va_start(ap, path);
    vsnprintf(name, sizeof name, path, ap);
    va_end(ap);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOENT) errno = ESRCH;
        return NULL;
    }
    char *text = text_of_fd(fd);
    int code = errno;
    close(fd);
    errno = code;
    return text;
}

/* "start-end perms offset major:minor inode      path", of which the path may hold anything but a newline. */
static bool map_parse(char *line, proc_map_t *m) {
    char perms[5];
    unsigned major, minor;
    int path_at = 0;
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &m->start,
               &m->end, perms, &m->offset, &major, &minor, &m->inode, &path_at) < 7)
        return false;
    m->device = (uint64_t)major << 32 | minor;
    m->readable = perms[0] == 'r';
    m->writable = perms[1] == 'w';
    m->executable = perms[2] == 'x';
    m->path = line + path_at;
    return true;
}

int proc_maps_read(pid_t pid, proc_maps_t *out) {
    *out = (proc_maps_t){0};
    out->text = proc_read_text("/proc/%d/maps", (int)pid);
    if (!out->text) return -errno;
    char *rest = out->text;
    char *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        proc_map_t m;
        if (!map_parse(line, &m)) continue;
        if (proc_map_vec_push(&out->list, m)) {
            proc_maps_free(out);
            return -ENOMEM;
        }
    }
    return 0;
}

void proc_maps_free(proc_maps_t *m) {
    proc_map_vec_free(&m->list);
    free(m->text);
    *m = (proc_maps_t){0};
}

const proc_map_t *proc_maps_find(const proc_maps_t *m, uint64_t address) {
    size_t low = 0, high = m->list.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const proc_map_t *at = &m->list.at[middle];
        if (address < at->start)
            high = middle;
        else if (address >= at->end)
            low = middle + 1;
        else
            return at;
    }
    return NULL;
}

const char *proc_status_value(const char *status, const char *name) {
    size_t n = strlen(name);
    for (const char *line = status; line && *line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, name, n) == 0 && line[n] == ':')
            return line + n + 1 + strspn(line + n + 1, " \t");
    }
    return NULL;
}

long proc_status_number(const char *status, const char *name, long missing) {
    const char *value = proc_status_value(status, name);
    return value ? strtol(value, NULL, 10) : missing;
}

int proc_threads(pid_t pid, pid_vec_t *out) {
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/task", (int)pid);
    DIR *d = opendir(name);
    if (!d) return errno == ENOENT ? -ESRCH : -errno;
    int status = 0;
    struct dirent *entry;
    while (status == 0 && (entry = readdir(d)) != NULL) {
        int tid = atoi(entry->d_name);
        if (tid > 0) status = pid_vec_push(out, tid);
    }
    closedir(d);
    return status;
}

int proc_stat_read(pid_t pid, pid_t tid, proc_stat_t *out) {
    char *text = proc_read_text("/proc/%d/task/%d/stat", (int)pid, (int)tid);
    if (!text) return -errno;
    /* The name may hold spaces and parentheses: the fields start behind the last one. */
    const char *p = strrchr(text, ')');
    int n =
        p ? sscanf(p + 1,
                   " %c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d"
                   " %" SCNu64 " %*u %*d %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*d"
                   " %d",
                   &out->state, &out->flags, &out->start, &out->processor)
          : 0;
    free(text);
    return n == 4 ? 0 : -ESRCH;
}

int proc_call_read(pid_t pid, pid_t tid, proc_call_t *out) {
    *out = (proc_call_t){.number = -1};
    char *text = proc_read_text("/proc/%d/task/%d/syscall", (int)pid, (int)tid);
    if (!text) return -errno;
    uint64_t *a = out->args;
    out->running = strncmp(text, "running", 7) == 0;
    int n = sscanf(text,
                   "%ld %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64
                   " %" SCNx64 " %" SCNx64,
                   &out->number, &a[0], &a[1], &a[2], &a[3], &a[4], &a[5], &out->sp, &out->pc);
    if (n == 3) { /* "-1 sp pc" */
        out->sp = a[0];
        out->pc = a[1];
    }
    free(text);
    return out->running || n == 9 || n == 3 ? 0 : -ESRCH;
}

static double sched_exec_start_ms(const char *sched) {
    const char *line = sched ? strstr(sched, "se.exec_start") : NULL;
    const char *value = line ? strchr(line, ':') : NULL;
    return value ? strtod(value + 1, NULL) : -1;
}

int64_t proc_asleep_ms(pid_t pid, pid_t tid) {
    proc_stat_t stat;
    cpu_set_t before, one;
    if (proc_stat_read(pid, tid, &stat) || stat.state != 'S' || stat.processor < 0 ||
        stat.processor >= CPU_SETSIZE || sched_getaffinity(0, sizeof before, &before))
        return -1;
    CPU_ZERO(&one);
    CPU_SET((unsigned)stat.processor, &one);
    if (sched_setaffinity(0, sizeof one, &one)) return -1;
    sched_yield(); /* brings our own reading up to date */
    char *theirs = proc_read_text("/proc/%d/task/%d/sched", (int)pid, (int)tid);
    char *ours = proc_read_text("/proc/thread-self/sched");
    double then = sched_exec_start_ms(theirs), now = sched_exec_start_ms(ours);
    free(theirs);
    free(ours);
    sched_setaffinity(0, sizeof before, &before);
    return then < 0 || now < then ? -1 : (int64_t)(now - then);
}

long proc_switches(pid_t pid, pid_t tid) {
    char *status = proc_read_text("/proc/%d/task/%d/status", (int)pid, (int)tid);
    if (!status) return -1;
    long n = proc_status_number(status, "voluntary_ctxt_switches", -1);
    free(status);
    return n;
}

pid_t proc_thread_by_inner(pid_t pid, pid_t inner) {
    pid_vec_t threads = {0};
    pid_t found = 0;
    if (proc_threads(pid, &threads) == 0) {
        for (size_t i = 0; i < threads.count && !found; i++) {
            char *status = proc_read_text("/proc/%d/task/%d/status", (int)pid, (int)threads.at[i]);
            const char *value = status ? proc_status_value(status, "NSpid") : NULL;
            long last = value ? 0 : status ? threads.at[i] : 0;
            while (value && *value && *value != '\n') {
                last = strtol(value, (char **)&value, 10);
                value += strspn(value, " \t");
            }
            if (last == inner) found = threads.at[i];
            free(status);
        }
    }
    pid_vec_free(&threads);
    return found;
}
