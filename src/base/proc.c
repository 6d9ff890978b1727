#include "base/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

size_t proc_read(char *out, size_t room, pid_t pid, const char *name) {
    char path[300];
    size_t n = 0;
    if (pid)
        snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    else
        snprintf(path, sizeof path, "/proc/self/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC), code = fd < 0 ? errno : ENODATA;
    while (fd >= 0 && n < room - 1) {
        ssize_t got = read(fd, out + n, room - 1 - n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) code = errno;
        if (got <= 0) break;
        n += (size_t)got;
    }
    if (fd >= 0) close(fd);
    out[n] = '\0';
    if (!n) errno = code;
    return n;
}

bool proc_gone(int code) {
    return code == ENOENT || code == ESRCH;
}

uint64_t proc_status_bytes(pid_t pid, const char *key) {
    char status[4096], line[64];
    int n = snprintf(line, sizeof line, "\n%s:", key);
    proc_read(status, sizeof status, pid, "status");
    const char *at = strstr(status, line);
    return at ? strtoull(at + n, NULL, 10) * 1024 : 0;
}
