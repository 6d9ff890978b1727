#include "collect/collect_tree.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NEAR_PERCENT = 70, SHARED_PERCENT = 85, PSS_SHARE = 20 };
enum { LOOK_US_NEAR = 20000, LOOK_US = 100000, PSS_US_MIN = 200000 };

static bool is_ours(const collect_process_t *p) {
    return !p->ended && p->observed.region;
}

static bool counts(const collect_process_t *p) {
    return is_ours(p) && !p->tree_gone;
}

/* What has ended has neither RSS nor PSS, and nothing of what it had counts: its memory is freed, or others have it. */
static uint64_t read_own(collect_process_t *p) {
    uint64_t rss = collect_rss(p);
    p->tree_gone = !rss;
    return rss;
}

/* 0: not to be had. */
static uint64_t read_pss(pid_t pid) {
    char path[64], text[2048];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *at = strstr(text, "\nPss:");
    return at ? strtoull(at + 5, NULL, 10) << 10 : 0;
}

static uint64_t own_bytes(const collect_process_t *p) {
    return p->rss_bytes > p->tree_shared ? p->rss_bytes - p->tree_shared : 0;
}

static void read_shared(collect_t *c, bool all) {
    uint64_t began = collect_now_us(c);
    for (size_t i = 0; i < c->processes.count; i++) {
        collect_process_t *p = c->processes.at[i];
        if (!counts(p) || (p->tree_read && !all)) continue;
        uint64_t pss = read_pss(p->pid), rss = read_own(p);
        p->tree_shared = pss && pss < rss ? rss - pss : 0;
        p->tree_read = true;
    }
    uint64_t now = collect_now_us(c), wait = (now - began) * PSS_SHARE;
    if (all) c->tree_due_us = now + (wait > PSS_US_MIN ? wait : PSS_US_MIN);
}

static void tell(const collect_t *c, uint64_t sum) {
    const uint64_t now_ns = c->begin_ns + collect_now_us(c) * 1000;
    const collect_process_t *largest = NULL;
    for (size_t i = 0; i < c->processes.count; i++) {
        const collect_process_t *p = c->processes.at[i];
        if (counts(p) && (!largest || own_bytes(p) > own_bytes(largest))) largest = p;
    }
    for (size_t i = 0; i < c->processes.count; i++) {
        collect_process_t *p = c->processes.at[i];
        if (!counts(p)) continue;
        double share = sum ? (double)own_bytes(p) / (double)sum : 1;
        observed_tree(&p->observed, (int64_t)sum - (int64_t)p->rss_bytes,
                      (uint32_t)(share * REGION_SHARE_ALL), p == largest, now_ns);
    }
}

/* The least that one of them has; UINT64_MAX: none has any. */
static uint64_t limit_of(const collect_t *c) {
    uint64_t limit = UINT64_MAX;
    for (size_t i = 0; i < c->processes.count; i++) {
        const collect_process_t *p = c->processes.at[i];
        uint64_t own = is_ours(p) ? observed_limit(&p->observed) : 0;
        if (own && own < limit) limit = own;
    }
    return limit;
}

uint64_t tree_look(collect_t *c) {
    uint64_t limit = limit_of(c), plain = 0, sum = 0, rss, now = collect_now_us(c);
    size_t count = 0;
    bool fresh = false;
    if (limit == UINT64_MAX) return UINT64_MAX;
    for (size_t i = 0; i < c->processes.count; i++) {
        collect_process_t *p = c->processes.at[i];
        if (!is_ours(p) || !(rss = read_own(p))) continue;
        plain += rss;
        fresh |= !p->tree_read;
        count++;
    }
    bool due = now >= c->tree_due_us;
    if (count > 1 && plain >= limit / 100 * SHARED_PERCENT && (fresh || due)) read_shared(c, due);
    for (size_t i = 0; i < c->processes.count; i++)
        if (counts(c->processes.at[i])) sum += own_bytes(c->processes.at[i]);
    tell(c, sum);
    return plain >= limit / 100 * NEAR_PERCENT ? LOOK_US_NEAR : LOOK_US;
}
