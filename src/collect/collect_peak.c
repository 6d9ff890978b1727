#define _GNU_SOURCE
#include "collect/collect_peak.h"

#include "base/mem.h"
#include "base/proc.h"
#include "collect/collect_write.h"
#include "format/rec_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* What a snapshot costs its process. A fork takes 25 ms a GiB with pages of 4 KiB; a thread that comes for the GIL, some milliseconds
 * however small the heap; and each page that is written to before the snapshot is done, a fault. */
enum {
    PEAK_BYTES_MIN = 32 << 20,
    START_US = 3000,
    FORK_NS_A_PAGE = 100,
    PAGE_BITS = 12,
    WRITTEN_ALL = 256,
    WRITTEN_UNKNOWN = WRITTEN_ALL / 8, /* hopeful: one that costs more is given up in time */
    PART_OF_TIME = 100,
    CLEARLY = 4, /* above the last by a quarter */
    SEE_FAULTS_US = 100000,
    SETTLED_US = 1000000, /* pages that were shared fault once more, and most of them soon */
    TRY_PAGES = 128,
    TRIES = 4
};

void peak_free(collect_peak_t *p) {
    if (p->fd > 0) close(p->fd);
    collect_samples_free(&p->samples);
    *p = (collect_peak_t){0};
}

/* ── Cost ── */

static uint64_t processor_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* From 500 ns to 3 us, by the machine, and by what it runs on: the least of some tries. */
static uint64_t measure_fault_ns(void) {
    const size_t page = (size_t)1 << PAGE_BITS, bytes = TRY_PAGES * page;
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < TRIES; i++) {
        volatile char *at =
            mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) break;
        uint64_t begin = processor_ns();
        for (size_t n = 0; n < bytes; n += page) at[n] = 1;
        uint64_t took = (processor_ns() - begin) / TRY_PAGES;
        if (took < least) least = took;
        munmap((void *)at, bytes);
    }
    return least == UINT64_MAX || !least ? 1000 : least;
}

static uint64_t faults_of(pid_t pid) {
    char stat[512];
    unsigned long faults = 0;
    proc_read(stat, sizeof stat, pid, "stat");
    const char *at = strrchr(stat, ')'); /* the name in parentheses may hold anything */
    if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %lu", &faults) != 1) return 0;
    return faults;
}

/* Beside those for memory that was added. */
static uint64_t faults_between(uint64_t before, uint64_t now, uint64_t rss_before, uint64_t rss) {
    uint64_t grown = rss > rss_before ? (rss - rss_before) >> PAGE_BITS : 0;
    return now > before + grown ? now - before - grown : 0;
}

/* What it does without a snapshot. */
static void see_faults(collect_process_t *p, uint64_t now_us) {
    collect_peak_cost_t *seen = &p->peak_cost;
    if (now_us < seen->seen_us + SEE_FAULTS_US) return;
    uint64_t faults = faults_of(p->pid);
    if (seen->seen_us)
        seen->faults_second =
            faults_between(seen->seen_faults, faults, seen->seen_rss, p->rss_bytes) * 1000000 /
            (now_us - seen->seen_us);
    seen->seen_us = now_us;
    seen->seen_faults = faults;
    seen->seen_rss = p->rss_bytes;
}

static uint64_t cost_us(const collect_t *c, uint64_t rss_bytes, uint64_t copied) {
    return START_US + ((rss_bytes >> PAGE_BITS) * FORK_NS_A_PAGE + copied * c->fault_ns) / 1000;
}

static uint64_t likely_cost_us(const collect_t *c, const collect_process_t *p, uint64_t bytes) {
    uint32_t written = p->peak_cost.written ? p->peak_cost.written : WRITTEN_UNKNOWN;
    return cost_us(c, bytes, (bytes >> PAGE_BITS) * written / WRITTEN_ALL);
}

/* Of the last one, so far. */
static void account(collect_t *c, collect_process_t *p, uint64_t now_us) {
    collect_peak_cost_t *last = &p->peak_cost;
    uint64_t pages = last->begin_rss >> PAGE_BITS;
    uint64_t anyway = last->faults_second * (now_us - last->begin_us) / 1000000;
    uint64_t copied =
        faults_between(last->begin_faults, faults_of(p->pid), last->begin_rss, p->rss_bytes);
    copied = copied > anyway ? copied - anyway : 0;
    if (copied > pages) copied = pages;
    uint64_t cost = cost_us(c, last->begin_rss, copied);
    if (cost <= last->cost_us) return;
    c->peaks_us += cost - last->cost_us;
    last->cost_us = cost;
    last->written = pages ? 1 + (uint32_t)(copied * (WRITTEN_ALL - 1) / pages) : 1;
    if (c->peaks_us > now_us / PART_OF_TIME) p->next_peak.dear = true;
}

bool peak_dear(const collect_t *c, pid_t pid) {
    const collect_process_t *p = collect_find(c, pid);
    return p && p->next_peak.fd && p->next_peak.dear;
}

/* ── Aiming ── */

/* By a quarter at least, and by the more the larger a part of all that may be spent the next one is: so what is spent early, on a
 * heap that still grows, leaves enough for when it is at its highest. */
static uint64_t clearly_above(uint64_t bytes, uint64_t cost, uint64_t budget) {
    uint64_t parts = budget ? cost * 4 * CLEARLY / budget : 0;
    return bytes + bytes / CLEARLY * (parts > 1 ? parts : 1);
}

static uint64_t smaller(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* Of the heap that has been touched: what was only reserved is no peak. A heap of the past had no more than was resident. */
static void aim(collect_t *c, collect_process_t *p, uint64_t now_us) {
    const collect_peak_t *of = p->next_peak.fd ? &p->next_peak : &p->peak;
    uint64_t last = smaller(of->heap_bytes, of->rss_bytes);
    uint64_t size = p->rss_bytes > PEAK_BYTES_MIN ? p->rss_bytes : PEAK_BYTES_MIN;
    uint64_t budget = now_us / PART_OF_TIME, cost = likely_cost_us(c, p, size);
    uint64_t above = clearly_above(last, cost, budget);
    uint64_t highest = smaller(observed_heap_peak_bytes(&p->observed), p->rss_peak_bytes);
    uint64_t near_highest = highest / CLEARLY * (CLEARLY - 1);
    uint64_t untouched = smaller(p->untouched_bytes, observed_heap_bytes(&p->observed));
    if (above < near_highest) above = near_highest;
    if (above < PEAK_BYTES_MIN) above = PEAK_BYTES_MIN;
    bool known = !p->next_peak.fd && now_us >= p->peak_cost.until_us;
    bool may = c->peaks && !p->frozen && known && c->peaks_us + cost <= budget;
    observed_snapshot_above(&p->observed, may ? above + untouched : UINT64_MAX);
}

bool peaks_aim(collect_t *c) {
    uint64_t now_us = collect_now_us(c);
    bool busy = false;
    if (!c->fault_ns) c->fault_ns = measure_fault_ns();
    for (size_t i = 0; i < c->processes.count; i++) {
        collect_process_t *p = c->processes.at[i];
        if (p->ended) continue;
        if (p->next_peak.fd || now_us < p->peak_cost.until_us)
            account(c, p, now_us);
        else if (p->rss_bytes > PEAK_BYTES_MIN)
            see_faults(p, now_us);
        busy |= p->next_peak.fd != 0;
        aim(c, p, now_us);
    }
    return busy;
}

bool peak_begin(collect_t *c, pid_t pid, int fd) {
    collect_process_t *p = collect_find(c, pid);
    if (!c->peaks || !p || p->frozen || fd <= 0) return false;
    collect_peak_t *next = &p->next_peak;
    peak_free(next);
    *next = (collect_peak_t){.fd = fd,
                             .t_us = collect_now_us(c),
                             .rss_bytes = collect_rss(p),
                             .heap_bytes = observed_heap_bytes(&p->observed)};
    collect_peak_cost_t *cost = &p->peak_cost;
    cost->cost_us = cost->until_us = cost->seen_us = 0;
    cost->begin_us = next->t_us;
    cost->begin_faults = faults_of(pid);
    cost->begin_rss = next->rss_bytes;
    collect_samples_of(c, p, &next->samples);
    return true;
}

void peak_done(collect_t *c, pid_t pid, const ctl_result_t *result) {
    for (size_t i = c->processes.count; i-- > 0;) {
        collect_process_t *p = c->processes.at[i];
        if (p->pid != pid || !p->next_peak.fd) continue;
        uint64_t now_us = collect_now_us(c);
        if (!p->ended) account(c, p, now_us);
        p->peak_cost.until_us = now_us + SETTLED_US;
        if (result && !result->status) {
            peak_free(&p->peak);
            p->peak = p->next_peak;
        } else {
            peak_free(&p->next_peak);
        }
        p->next_peak = (collect_peak_t){0};
        return;
    }
}

/* ── Writing ── */

static void meta(rec_writer_t *w, const char *key, uint64_t v) {
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, v);
    rec_meta(w, key, text);
}

/* What the capture could not know goes behind its END. */
static int complete(const collect_peak_t *p, uint32_t process) {
    rec_writer_t *w;
    err_t e;
    int status = rec_append(&w, p->fd, &e);
    if (status) return status;
    meta(w, "process", process);
    meta(w, "t_us", p->t_us);
    meta(w, "rss_bytes", p->rss_bytes);
    meta(w, "heap_bytes", p->heap_bytes);
    write_samples(&p->samples, w);
    return rec_close(w, 0, 0, &e);
}

/* Is it among the largest, and does it tell what nothing else does? */
static bool worth_writing(const collect_t *c, size_t number, bool heap) {
    const collect_peak_t *p = &c->processes.at[number]->peak;
    size_t larger = 0;
    if (!p->fd) return false;
    if (number == 0 && heap &&
        clearly_above(c->processes.at[0]->end_heap_bytes, 0, 0) > p->heap_bytes)
        return false;
    for (size_t i = 0; i < c->processes.count; i++) {
        const collect_peak_t *other = &c->processes.at[i]->peak;
        larger += other->fd && (other->rss_bytes > p->rss_bytes ||
                                (other->rss_bytes == p->rss_bytes && i < number));
    }
    return larger < PEAKS_MOST;
}

void peaks_write(const collect_t *c, rec_writer_t *w, bool heap) {
    for (size_t i = 0; i < c->processes.count; i++)
        if (worth_writing(c, i, heap) && complete(&c->processes.at[i]->peak, (uint32_t)i) == 0)
            rec_nested_file(w, "peak", c->processes.at[i]->peak.fd);
}
