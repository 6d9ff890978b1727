#define _GNU_SOURCE
#include "base/machine.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MACHINE_TEXT = 8192, MACHINE_PATH = 4096 };

static int machine_read(const char *path, char *text) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, MACHINE_TEXT - 1);
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n > 0;
}

static uint64_t machine_number(const char *text, const char *key) {
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* UINT64_MAX: no limit, or no such group. Files that could be dropped count as free. */
static uint64_t group_free_bytes(const char *group) {
    char path[MACHINE_PATH + 32], text[MACHINE_TEXT];
    snprintf(path, sizeof path, "%s/memory.max", group);
    if (!machine_read(path, text) || text[0] < '0' || text[0] > '9') return UINT64_MAX;
    uint64_t most = strtoull(text, NULL, 10), used = 0;
    snprintf(path, sizeof path, "%s/memory.current", group);
    if (machine_read(path, text)) used = strtoull(text, NULL, 10);
    snprintf(path, sizeof path, "%s/memory.stat", group);
    if (machine_read(path, text)) {
        uint64_t files = machine_number(text, "inactive_file ");
        used = used > files ? used - files : 0;
    }
    return most > used ? most - used : 0;
}

static uint64_t groups_free_bytes(void) {
    static const char root[] = "/sys/fs/cgroup";
    char text[MACHINE_TEXT], path[MACHINE_PATH];
    uint64_t least = UINT64_MAX;
    const char *mine = machine_read("/proc/self/cgroup", text) ? strstr(text, "0::") : NULL;
    if (!mine) return least;
    snprintf(path, sizeof path, "%s%.*s", root, (int)strcspn(mine + 3, "\n"), mine + 3);
    for (char *slash; strlen(path) >= strlen(root); *slash = '\0') {
        uint64_t bytes = group_free_bytes(path);
        if (bytes < least) least = bytes;
        if (!(slash = strrchr(path, '/'))) break;
    }
    return least;
}

static uint64_t limit_bytes(void) {
    struct rlimit space = {RLIM_INFINITY, 0}, data = {RLIM_INFINITY, 0};
    getrlimit(RLIMIT_AS, &space);
    getrlimit(RLIMIT_DATA, &data);
    rlim_t least = space.rlim_cur < data.rlim_cur ? space.rlim_cur : data.rlim_cur;
    return least == RLIM_INFINITY ? UINT64_MAX : least;
}

uint64_t machine_free_bytes(void) {
    char text[MACHINE_TEXT];
    uint64_t least = groups_free_bytes(), limit = limit_bytes();
    if (limit < least) least = limit;
    if (!machine_read("/proc/meminfo", text)) return least;
    uint64_t free_kib = machine_number(text, "MemAvailable:") + machine_number(text, "SwapFree:");
    return free_kib && free_kib < least / 1024 ? free_kib * 1024 : least;
}
