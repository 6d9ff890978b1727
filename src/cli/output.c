#define _GNU_SOURCE
#include "cli/output.h"

#include "cli/command.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* With ".4194304.100.part" behind it a stem fits wherever a name of 143 bytes does (eCryptfs). */
enum { NAMES_MOST = 100, FRESH_MOST = 100000, STEM_MOST = 100 };

/* Read by a signal handler: the half file's name, as long as that is ours. It changes with signals held. */
static char pending[4096];

static void hold_signals(sigset_t *before) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, before);
}

static void let_signals(const sigset_t *before) {
    int was = errno;
    sigprocmask(SIG_SETMASK, before, NULL);
    errno = was;
}

void output_interrupted(void) {
    if (pending[0]) unlink(pending);
}

/* ── Half files that have a name ── */

static bool lock(int fd, int how) {
    int got;
    do got = flock(fd, LOCK_EX | how);
    while (got && errno == EINTR);
    return got == 0;
}

static bool has_name(int fd, const char *name) {
    struct stat here, there;
    return fstat(fd, &here) == 0 && lstat(name, &there) == 0 && here.st_ino == there.st_ino &&
           here.st_dev == there.st_dev;
}

/* Who lives holds a lock on it. */
static bool remove_empty(const char *name) {
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    bool gone = fd >= 0 && lock(fd, LOCK_NB) && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
                st.st_size == 0 && has_name(fd, name) && unlink(name) == 0;
    if (fd >= 0) close(fd);
    return gone;
}

static int place_bytes(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (int)(slash - path) + 1 : 0;
}

/* The file's own name, or ours in the place of one that would be too long with what is put behind it. */
static const char *stem(const char *path) {
    const char *own = path + place_bytes(path);
    return strlen(own) > STEM_MOST ? "lowtide" : own;
}

/* "app.tide.4711.part", "app.tide.4711.2.part" */
static bool is_half(const char *name, const char *of) {
    size_t n = strlen(of);
    if (strncmp(name, of, n) != 0 || name[n] != '.') return false;
    size_t digits = strspn(name + n, ".0123456789");
    return digits > 2 && strcmp(name + n + digits, "part") == 0;
}

static void remove_left(const char *path) {
    char place[sizeof pending], name[sizeof pending + 256];
    int n = place_bytes(path);
    snprintf(place, sizeof place, "%.*s", n ? n : 1, n ? path : ".");
    DIR *files = opendir(place);
    for (struct dirent *f; files && (f = readdir(files));) {
        if (!is_half(f->d_name, stem(path))) continue;
        snprintf(name, sizeof name, "%.*s%s", n, path, f->d_name);
        if (remove_empty(name))
            command_fail("%s was left empty by a lowtide that was killed; it is removed", name);
    }
    if (files) closedir(files);
}

/* output_open has left room for it. */
static void name_half(output_t *o, int i) {
    char again[16] = "";
    if (i > 1) snprintf(again, sizeof again, ".%d", i);
    snprintf(o->part, sizeof o->part, "%.*s%s.%d%s.part", place_bytes(o->path), o->path,
             stem(o->path), (int)getpid(), again);
}

static int unname_half(output_t *o, int status) {
    pending[0] = 0;
    o->part[0] = 0;
    return status;
}

static bool open_half(output_t *o) {
    sigset_t before;
    hold_signals(&before);
    o->fd = open(o->part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (o->fd >= 0) memcpy(pending, o->part, sizeof pending);
    let_signals(&before);
    return o->fd >= 0;
}

static bool link_half(output_t *o) {
    char self[40];
    sigset_t before;
    snprintf(self, sizeof self, "/proc/self/fd/%d", o->fd);
    hold_signals(&before);
    bool ours = linkat(AT_FDCWD, self, AT_FDCWD, o->part, AT_SYMLINK_FOLLOW) == 0;
    if (ours) memcpy(pending, o->part, sizeof pending);
    let_signals(&before);
    return ours;
}

/* Between two of these steps another one may take it for what was left: then the next name's. */
static int open_named(output_t *o) {
    remove_left(o->path);
    for (int i = 1; i <= NAMES_MOST; i++) {
        name_half(o, i);
        bool made = open_half(o);
        if (!made && errno != EEXIST) return unname_half(o, -errno);
        if (!made) continue;
        lock(o->fd, 0);
        if (has_name(o->fd, o->part)) return 0;
        pending[0] = 0;
        close(o->fd);
        o->fd = -1;
    }
    return unname_half(o, -EEXIST);
}

/* In a container a killed lowtide and the next one have the same PID. */
static int give_name(output_t *o) {
    for (int i = 1; i <= NAMES_MOST; i++) {
        name_half(o, i);
        if (link_half(o)) return 0;
        if (errno != EEXIST) return unname_half(o, -errno);
    }
    return unname_half(o, -EEXIST);
}

/* ── In and out ── */

static int open_beside(output_t *o) {
    char place[sizeof o->path];
    int n = place_bytes(o->path);
    snprintf(place, sizeof place, "%.*s", n ? n : 1, n ? o->path : ".");
    o->fd = open(place, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
    if (o->fd >= 0) return 0;
    bool unknown = errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL;
    return unknown ? open_named(o) : -errno;
}

int output_open(output_t *o, const char *path, err_t *e) {
    *o = (output_t){.fd = STDOUT_FILENO};
    if (!path || strcmp(path, "-") == 0) return 0;
    struct stat st;
    bool there = stat(path, &st) == 0, too_long = !there && errno == ENAMETOOLONG;
    bool direct = there && !S_ISREG(st.st_mode);
    if (direct && S_ISDIR(st.st_mode))
        return err_set(e, -EISDIR, "%s is a directory; name a file in it", path);
    int n = snprintf(o->path, sizeof o->path, "%s", path);
    if (too_long || n < 0 || (size_t)n + 32 > sizeof o->path)
        return err_set(e, -ENAMETOOLONG, "the name after -o is too long; name a shorter one");
    int status = 0;
    if (direct)
        o->fd = open(o->path, O_WRONLY | O_CLOEXEC);
    else
        status = open_beside(o);
    if (direct && o->fd < 0) status = -errno;
    o->beside = !direct && !status;
    return status ? err_sys(e, status, "cannot write %s", path) : 0;
}

int output_again(const output_t *o) {
    char self[40];
    snprintf(self, sizeof self, "/proc/self/fd/%d", o->fd);
    return o->beside ? open(self, O_RDWR | O_CLOEXEC) : -1;
}

/* stdio forgets which error it was by the time that anybody asks. */
static ssize_t output_write(void *cookie, const char *bytes, size_t n) {
    output_t *o = cookie;
    size_t done = 0;
    while (done < n && !o->error) {
        ssize_t got = write(o->fd, bytes + done, n - done);
        if (got > 0) done += (size_t)got;
        if (got >= 0 || errno == EINTR) continue;
        /* Somebody who shares the pipe may have made it non-blocking. */
        if (errno != EAGAIN || poll(&(struct pollfd){o->fd, POLLOUT, 0}, 1, -1) < 0)
            o->error = errno;
    }
    return o->error ? 0 : (ssize_t)n;
}

FILE *output_file(output_t *o, err_t *e) {
    if (!o->file) o->file = fopencookie(o, "w", (cookie_io_functions_t){.write = output_write});
    if (o->file) return o->file;
    output_abandon(o);
    err_set(e, -ENOMEM, "no memory to write a file; free some and try again");
    return NULL;
}

static void output_close(output_t *o, bool keep) {
    if (o->file) fclose(o->file);
    o->file = NULL;
    if (keep && o->beside && !o->part[0] && !o->error) o->error = -give_name(o);
    if (o->fd >= 0 && o->fd != STDOUT_FILENO && close(o->fd) != 0 && !o->error) o->error = errno;
    o->fd = -1;
}

static void output_end(output_t *o) {
    sigset_t before;
    hold_signals(&before);
    if (o->part[0]) unlink(o->part);
    unname_half(o, 0);
    let_signals(&before);
    o->beside = false;
}

static void fresh_name(pid_t pid, unsigned i, char *name, size_t room) {
    if (i < 2)
        snprintf(name, room, "lowtide-%d.tide", (int)pid);
    else
        snprintf(name, room, "lowtide-%d-%u.tide", (int)pid, i);
}

const char *output_fresh_name(pid_t pid, char *name, size_t room) {
    struct stat st;
    unsigned i = 1;
    do fresh_name(pid, i, name, room);
    while (lstat(name, &st) == 0 && ++i < FRESH_MOST);
    return name;
}

/* Only where there is none of that name: two that end at once have two. */
static int name_fresh(output_t *o) {
    for (unsigned i = 1; i < FRESH_MOST; i++) {
        fresh_name(o->fresh, i, o->path, sizeof o->path);
        if (renameat2(AT_FDCWD, o->part, AT_FDCWD, o->path, RENAME_NOREPLACE) == 0) return 0;
        if (errno == EINVAL || errno == ENOSYS) { /* not on this file system */
            int claim = open(o->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
            if (claim >= 0) {
                close(claim);
                return rename(o->part, o->path) ? -errno : 0;
            }
        }
        if (errno != EEXIST) return -errno;
    }
    return -EEXIST;
}

int output_commit(output_t *o, err_t *e) {
    const char *name = o->path[0] ? o->path : "standard output";
    sigset_t before;
    output_close(o, true);
    int code = -o->error;
    hold_signals(&before);
    if (!code && o->part[0] && o->fresh)
        code = name_fresh(o);
    else if (!code && o->part[0] && rename(o->part, o->path) != 0)
        code = -errno;
    if (!code) unname_half(o, 0);
    let_signals(&before);
    output_end(o);
    if (!code) return 0;
    return err_sys(e, code, "cannot write %s", name);
}

void output_abandon(output_t *o) {
    output_close(o, false);
    output_end(o);
}

int output_finish(output_t *o) {
    err_t e;
    int code = output_commit(o, &e);
    if (code == 0 || code == -EPIPE) return EXIT_DONE;
    return command_fail("%s", e.text);
}
