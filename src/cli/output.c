#define _GNU_SOURCE
#include "cli/output.h"

#include "cli/command.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Read by a signal handler: set before the half file exists, emptied after it is gone. */
static char pending[4096];

void output_interrupted(void) {
    if (pending[0]) unlink(pending);
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
    o->fd = open(direct ? o->path : o->part, flags, 0666);
    if (o->fd >= 0) return 0;
    int code = -errno;
    pending[0] = 0;
    o->part[0] = 0;
    return err_sys(e, code, "cannot write %s", path);
}

FILE *output_file(output_t *o) {
    if (!o->file) o->file = o->fd == STDOUT_FILENO ? stdout : fdopen(o->fd, "w");
    return o->file;
}

int output_commit(output_t *o, err_t *e) {
    int code = 0;
    const char *name = o->path[0] ? o->path : "standard output";
    errno = 0;
    if (o->file && (fflush(o->file) != 0 || ferror(o->file))) code = errno ? -errno : -EIO;
    if (o->fd != STDOUT_FILENO) {
        if ((o->file ? fclose(o->file) : close(o->fd)) != 0 && !code) code = -errno;
        o->fd = -1;
        o->file = NULL;
    }
    if (!code && o->part[0] && rename(o->part, o->path) != 0) code = -errno;
    if (code && o->part[0]) unlink(o->part);
    pending[0] = 0;
    o->part[0] = 0;
    if (!code) return 0;
    return err_sys(e, code, "cannot write %s", name);
}

void output_abandon(output_t *o) {
    if (o->fd >= 0 && o->fd != STDOUT_FILENO) {
        if (o->file)
            fclose(o->file);
        else
            close(o->fd);
    }
    if (o->part[0]) unlink(o->part);
    pending[0] = 0;
    *o = (output_t){.fd = -1};
}

int output_finish(output_t *o) {
    err_t e;
    int code = output_commit(o, &e);
    if (code == 0 || code == -EPIPE) return EXIT_DONE;
    return command_fail("%s", e.text);
}
