#define _GNU_SOURCE
#include "agent/limit/limit_gauge.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { TEXT = 8192, STAT_SHARE = 80 };

/* Only in use from here on is worth the cost of memory.stat, which makes the kernel add up its counters. */
static bool is_worth_stat(uint64_t used, uint64_t hard) {
    return hard != UINT64_MAX && used / 100 >= hard / 10000 * STAT_SHARE;
}

static bool read_file(const char *directory, const char *name, char *text, size_t room) {
    char path[GAUGE_PATH + 64];
    size_t a = strlen(directory), b = strlen(name);
    text[0] = 0;
    if (a + b + 2 > sizeof path) return false;
    memcpy(path, directory, a);
    path[a] = '/';
    memcpy(path + a + 1, name, b + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t n = 0;
    ssize_t got;
    while (n + 1 < room && (got = read(fd, text + n, room - 1 - n)) > 0) n += (size_t)got;
    text[n] = 0;
    close(fd);
    return n > 0;
}

static uint64_t number_at(const char *p) {
    uint64_t n = 0;
    while (*p == ' ' || *p == '\t') p++;
    if (*p < '0' || *p > '9') return UINT64_MAX; /* "max" */
    for (; *p >= '0' && *p <= '9'; p++) n = n * 10 + (uint64_t)(*p - '0');
    return n;
}

/* The number behind `key` at a line's begin. */
static uint64_t number_of(const char *text, const char *key) {
    size_t n = strlen(key);
    for (const char *p = text; p; p = strchr(p, '\n')) {
        if (*p == '\n') p++;
        if (strncmp(p, key, n) == 0) return number_at(p + n);
    }
    return UINT64_MAX;
}

static uint64_t number_in(const char *directory, const char *name) {
    char text[64];
    return read_file(directory, name, text, sizeof text) ? number_at(text) : UINT64_MAX;
}

const char *gauge_name(enum gauge_kind kind) {
    static const char *const NAMES[GAUGES] = {"rss", "cgroup", "data", "space"};
    return NAMES[kind];
}

/* The group's path in a line of /proc/self/cgroup: "0::/a/b", or in version 1 "4:memory:/a/b". */
static bool find_path(const char *text, bool v1, char *path) {
    for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : p) {
        const char *kinds = strchr(p, ':'), *name = kinds ? strchr(kinds + 1, ':') : NULL;
        if (!name) return false;
        size_t n = (size_t)(name - kinds - 1);
        bool wanted = v1 ? memmem(kinds + 1, n, "memory", 6) != NULL : n == 0;
        if (!wanted) continue;
        const char *end = strchrnul(name + 1, '\n');
        size_t length = (size_t)(end - name - 1);
        if (length >= GAUGE_PATH / 2) return false;
        memcpy(path, name + 1, length);
        path[length] = 0;
        return true;
    }
    return false;
}

/* The group and those above it, as far as they are seen from here: in a container the path may lie outside. */
static void add_groups(gauge_places_t *places, const char *mount, char *path) {
    const char *file = places->v1 ? "memory.usage_in_bytes" : "memory.current";
    for (;;) {
        char *slash = strrchr(path, '/'), *place = places->groups[places->group_count];
        if (places->group_count == GAUGE_GROUPS) return;
        snprintf(place, GAUGE_PATH, "%s%s", mount, strcmp(path, "/") ? path : "");
        if (number_in(place, file) != UINT64_MAX) places->group_count++;
        if (!slash || !*path) return;
        *slash = 0;
    }
}

void gauge_find(gauge_places_t *places, const char *proc, const char *cgroups) {
    char text[TEXT], path[GAUGE_PATH], mount[GAUGE_PATH / 2];
    memset(places, 0, sizeof *places);
    snprintf(places->proc, sizeof places->proc, "%s", proc);
    if (!read_file(proc, "self/cgroup", text, sizeof text)) return;
    if (find_path(text, false, path)) add_groups(places, cgroups, path);
    if (places->group_count || !find_path(text, true, path)) return;
    places->v1 = true;
    snprintf(mount, sizeof mount, "%.200s/memory", cgroups);
    add_groups(places, mount, path);
}

static uint64_t group_hard(const gauge_places_t *places, const char *group) {
    if (places->v1) {
        uint64_t hard = number_in(group, "memory.limit_in_bytes");
        return hard > INT64_MAX / 2 ? UINT64_MAX : hard; /* "none", rounded to pages */
    }
    uint64_t high = number_in(group, "memory.high"), hard = number_in(group, "memory.max");
    return high < hard ? high : hard;
}

static void read_group(const gauge_places_t *places, const char *group, uint64_t hard, gauge_t *g) {
    char text[TEXT];
    g->used_bytes = number_in(group, places->v1 ? "memory.usage_in_bytes" : "memory.current");
    g->hard_bytes = hard;
    if (g->used_bytes == UINT64_MAX) g->hard_bytes = UINT64_MAX, g->used_bytes = 0;
    if (!is_worth_stat(g->used_bytes, g->hard_bytes)) return;
    /* Files that nobody maps are the first that the kernel takes back, before it kills. */
    if (!read_file(group, "memory.stat", text, sizeof text)) return;
    uint64_t spare = number_of(text, places->v1 ? "total_inactive_file " : "inactive_file ");
    if (spare <= g->used_bytes) g->used_bytes -= spare;
}

static void read_stalls(const gauge_places_t *places, gauges_t *out) {
    char text[512];
    bool found = places->group_count && !places->v1 &&
                 read_file(places->groups[0], "memory.pressure", text, sizeof text);
    if (!found) found = read_file(places->proc, "pressure/memory", text, sizeof text);
    const char *total = found && strncmp(text, "some ", 5) == 0 ? strstr(text, "total=") : NULL;
    uint64_t us = total ? number_at(total + 6) : UINT64_MAX;
    out->stalled_us = us == UINT64_MAX ? 0 : us;
    if (!places->group_count || places->v1 ||
        !read_file(places->groups[0], "memory.events", text, sizeof text))
        return;
    uint64_t high = number_of(text, "high "), max = number_of(text, "max ");
    out->throttled = (high == UINT64_MAX ? 0 : high) + (max == UINT64_MAX ? 0 : max);
}

static bool read_statm(const gauge_places_t *places, uint64_t pages[7]) {
    char text[256], *p = text;
    if (!read_file(places->proc, "self/statm", text, sizeof text)) return false;
    for (int i = 0; i < 7; i++) {
        pages[i] = number_at(p);
        if (pages[i] == UINT64_MAX) return false;
        p += strcspn(p, " ");
        p += strspn(p, " ");
    }
    return true;
}

static uint64_t own_limit(int which) {
    struct rlimit r;
    if (getrlimit((__rlimit_resource_t)which, &r) != 0 || r.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    return r.rlim_cur;
}

uint64_t gauge_rss(const gauge_places_t *places) {
    uint64_t pages[7];
    return read_statm(places, pages) ? pages[1] * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

/* By crossing rather than dividing: nearer to its limit. */
static bool is_fuller(const gauge_t *a, const gauge_t *b) {
    if (a->hard_bytes == UINT64_MAX) return false;
    if (b->hard_bytes == UINT64_MAX) return true;
    return (double)a->used_bytes * (double)b->hard_bytes >
           (double)b->used_bytes * (double)a->hard_bytes;
}

static void read_process(const gauge_places_t *places, gauges_t *out) {
    uint64_t pages[7], page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (!read_statm(places, pages)) return;
    out->of[GAUGE_RSS].used_bytes = pages[1] * page;
    out->of[GAUGE_DATA].used_bytes = pages[5] * page;
    out->of[GAUGE_SPACE].used_bytes = pages[0] * page;
    out->of[GAUGE_DATA].hard_bytes = own_limit(RLIMIT_DATA);
    out->of[GAUGE_SPACE].hard_bytes = own_limit(RLIMIT_AS);
}

void gauge_read_again(const gauge_places_t *places, gauges_t *out) {
    gauge_t fullest = {.hard_bytes = UINT64_MAX}, g;
    read_process(places, out);
    for (int i = 0; i < places->group_count; i++) {
        if (out->group_hard[i] == UINT64_MAX) continue;
        read_group(places, places->groups[i], out->group_hard[i], &g);
        if (is_fuller(&g, &fullest)) fullest = g;
    }
    out->of[GAUGE_CGROUP] = fullest;
}

void gauge_read(const gauge_places_t *places, gauges_t *out) {
    memset(out, 0, sizeof *out);
    for (int i = 0; i < GAUGES; i++) out->of[i].hard_bytes = UINT64_MAX;
    for (int i = 0; i < places->group_count; i++)
        out->group_hard[i] = group_hard(places, places->groups[i]);
    gauge_read_again(places, out);
    read_stalls(places, out);
}

uint64_t gauge_total(const gauge_places_t *places) {
    char text[TEXT];
    uint64_t total = UINT64_MAX;
    if (read_file(places->proc, "meminfo", text, sizeof text)) {
        total = number_of(text, "MemTotal:");
        if (total != UINT64_MAX) total *= 1024;
    }
    for (int i = 0; i < places->group_count; i++) {
        const char *name = places->v1 ? "memory.limit_in_bytes" : "memory.max";
        uint64_t most = number_in(places->groups[i], name);
        if (most < total) total = most;
    }
    return total;
}
