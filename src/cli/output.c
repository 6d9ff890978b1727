#define _GNU_SOURCE
#include "cli/output.h"

#include "cli/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Read by a signal handler: set before the half file exists, emptied after it is gone. */
static char pending[4096];

void output_interrupted(void) {
    if (pending[0]) unlink(pending);
}

/* In a container a killed lowtide and the next one have the same PID. Who lives holds a lock. */
static bool remove_left(const char *part) {
    int fd = open(part, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    bool left = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && unlink(part) == 0;
    if (fd >= 0) close(fd);
    return left;
}

int output_open(output_t *o, const char *path, err_t *e) {
    *o = (output_t){.fd = STDOUT_FILENO};
    if (!path || strcmp(path, "-") == 0) return 0;
    struct stat st;
    bool direct = stat(path, &st) == 0 && !S_ISREG(st.st_mode);
    if (direct && S_ISDIR(st.st_mode))
        return err_set(e, -EISDIR, "%s is a directory; name a file in it", path);
    int n = snprintf(o->path, sizeof o->path, "%s", path);
    if (n < 0 || (size_t)n + 32 > sizeof o->path)
        return err_set(e, -ENAMETOOLONG, "the name after -o is too long; name a shorter one");
    if (!direct) snprintf(o->part, sizeof o->part, "%.4000s.%d.part", path, (int)getpid());
    memcpy(pending, o->part, sizeof pending);
    int flags = direct ? O_WRONLY | O_CLOEXEC : O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
    const char *name = direct ? o->path : o->part;
    o->fd = open(name, flags, 0666);
    if (o->fd < 0 && errno == EEXIST && remove_left(name)) o->fd = open(name, flags, 0666);
    if (o->fd >= 0 && !direct) flock(o->fd, LOCK_EX | LOCK_NB);
    if (o->fd >= 0) return 0;
    int code = -errno;
    pending[0] = 0;
    o->part[0] = 0;
    return err_sys(e, code, "cannot write %s", path);
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

static void output_close(output_t *o) {
    if (o->file) fclose(o->file);
    o->file = NULL;
    if (o->fd >= 0 && o->fd != STDOUT_FILENO && close(o->fd) != 0 && !o->error) o->error = errno;
    o->fd = -1;
}

int output_commit(output_t *o, err_t *e) {
    const char *name = o->path[0] ? o->path : "standard output";
    output_close(o);
    int code = -o->error;
    if (!code && o->part[0] && rename(o->part, o->path) != 0) code = -errno;
    if (code && o->part[0]) unlink(o->part);
    pending[0] = 0;
    o->part[0] = 0;
    if (!code) return 0;
    return err_sys(e, code, "cannot write %s", name);
}

void output_abandon(output_t *o) {
    output_close(o);
    if (o->part[0]) unlink(o->part);
    o->part[0] = 0;
    pending[0] = 0;
}

int output_finish(output_t *o) {
    err_t e;
    int code = output_commit(o, &e);
    if (code == 0 || code == -EPIPE) return EXIT_DONE;
    return command_fail("%s", e.text);
}
