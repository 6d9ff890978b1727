#define _GNU_SOURCE
#include "collect/collect_peak.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/proc.h"
#include "collect/collect_write.h"
#include "format/rec_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What a snapshot costs its process. A fork takes 25 ms a GiB with pages of 4 KiB; a thread that comes for the GIL, some milliseconds
 * however small the heap; and each page that is written to afterwards, a fault: it is copied while the capture has it as well, and
 * a third of that once it has not. */
enum {
    PEAK_BYTES_MIN = 32 << 20,
    START_US = 3000,
    FORK_NS_A_PAGE = 100,
    PAGE_BITS = 12,
    ALONE = 3, /* so much cheaper */
    ALL = 256,
    /* Where nothing is known yet. Pages of objects are all written to sooner or later (references are counted, what is freed is
     * linked), three in ten of them before the heap has been walked; large blocks are rather read. */
    SHARE_OBJECTS = ALL * 9 / 16,
    SHARE_LARGE = ALL / 8,
    PART_OF_TIME = 100,
    CLEARLY = 4, /* above the last by a quarter */
    SEE_FAULTS_US = 100000,
    SETTLED_US = 1000000, /* most of what will be written to has been */
    COPY_NS = 2000,       /* where it cannot be measured */
    TRY_PAGES = 128,
    TRIES = 4
};

void peak_free(collect_peak_t *p) {
    if (p->fd > 0) close(p->fd);
    collect_samples_free(&p->samples);
    *p = (collect_peak_t){0};
}

/* ── Cost ── */

/* From 1 to 4 us, by the machine, and by what it runs on: the least of some tries, of pages that somebody else has, too. */
static uint64_t measure_copy_ns(void) {
    const size_t page = (size_t)1 << PAGE_BITS, bytes = TRY_PAGES * page;
    uint64_t least = UINT64_MAX;
    int fd = memfd_create("lowtide", MFD_CLOEXEC);
    for (int i = 0; i < TRIES && fd >= 0 && ftruncate(fd, (off_t)bytes) == 0; i++) {
        volatile char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        char sum = 0;
        if (at == MAP_FAILED) break;
        for (size_t n = 0; n < bytes; n += page) sum |= at[n];
        uint64_t begin = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        for (size_t n = 0; n < bytes; n += page) at[n] = (char)(sum + 1);
        uint64_t took = (clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin) / TRY_PAGES;
        if (took < least) least = took;
        munmap((void *)at, bytes);
    }
    if (fd >= 0) close(fd);
    return least == UINT64_MAX || !least ? COPY_NS : least;
}

static uint64_t faults_of(pid_t pid) {
    char stat[512];
    unsigned long faults = 0;
    proc_read(stat, sizeof stat, pid, "stat");
    const char *at = strrchr(stat, ')'); /* the name in parentheses may hold anything */
    if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %lu", &faults) != 1) return 0;
    return faults;
}

/* For a processor: of its first thread (the kernel's Documentation/scheduler/sched-stats.rst). */
static uint64_t waited_us(pid_t pid) {
    char schedstat[128];
    uint64_t ns = 0;
    proc_read(schedstat, sizeof schedstat, pid, "schedstat");
    if (sscanf(schedstat, "%*u %" SCNu64, &ns) != 1) return 0;
    return ns / 1000;
}

static void see_waiting(collect_process_t *p) {
    uint64_t waited = waited_us(p->pid);
    if (!p->waited_past_us) p->waited_past_us = waited + 1;
    p->waited_us = waited >= p->waited_past_us ? waited - p->waited_past_us + 1 : 0;
}

static collect_moment_t moment(const collect_t *c, collect_process_t *p) {
    uint64_t now_us = collect_now_us(c);
    see_waiting(p);
    return (collect_moment_t){.own_us = now_us > p->waited_us ? now_us - p->waited_us : 0,
                              .faults = faults_of(p->pid),
                              .rss_bytes = collect_rss(p)};
}

/* Beside those for memory that was added. */
static uint64_t faults_between(const collect_moment_t *a, const collect_moment_t *b) {
    uint64_t grown = b->rss_bytes > a->rss_bytes ? (b->rss_bytes - a->rss_bytes) >> PAGE_BITS : 0;
    return b->faults > a->faults + grown ? b->faults - a->faults - grown : 0;
}

static void see_faults(const collect_t *c, collect_process_t *p, uint64_t now_us) {
    collect_peak_cost_t *cost = &p->peak_cost;
    if (now_us < cost->seen_us + SEE_FAULTS_US) return;
    collect_moment_t now = moment(c, p);
    uint64_t own_us = now.own_us > cost->seen.own_us ? now.own_us - cost->seen.own_us : 0;
    if (cost->seen_us && own_us < SEE_FAULTS_US / 2) return; /* it hardly had a turn */
    if (cost->seen_us) cost->faults_second = faults_between(&cost->seen, &now) * 1000000 / own_us;
    cost->seen_us = now_us;
    cost->seen = now;
}

/* Of pages that are copied, and of such that are alone when they are written to. */
static uint64_t cost_us(const collect_t *c, uint64_t pages, uint64_t copied, uint64_t alone) {
    return START_US + (pages * FORK_NS_A_PAGE + (copied + alone / ALONE) * c->copy_ns) / 1000;
}

static uint64_t smaller(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* Of a heap of so many bytes, or what it has by now. */
static uint64_t likely_cost_us(const collect_t *c, const collect_process_t *p, uint64_t bytes) {
    uint64_t pages = (bytes > p->private_bytes ? bytes : p->private_bytes) >> PAGE_BITS;
    uint64_t large = smaller(p->large_bytes >> PAGE_BITS, pages);
    uint64_t copied = p->peak_cost.share ? pages * p->peak_cost.share
                                         : (pages - large) * SHARE_OBJECTS + large * SHARE_LARGE;
    return cost_us(c, pages, copied / ALL, 0);
}

/* A part of the time that it ran or slept, on a busy machine, too. */
static uint64_t budget_us(const collect_process_t *p, uint64_t now_us) {
    return (now_us > p->waited_us ? now_us - p->waited_us : 0) / PART_OF_TIME;
}

static bool affordable(const collect_t *c, const collect_process_t *p, uint64_t bytes,
                       uint64_t now_us) {
    return c->peaks_us + likely_cost_us(c, p, bytes) <= budget_us(p, now_us);
}

/* Of the last one, so far. It is dear when the rest, though it were given up now, is more than there is to spend. */
static void account(collect_t *c, collect_process_t *p, uint64_t now_us) {
    collect_peak_cost_t *last = &p->peak_cost;
    collect_moment_t now = moment(c, p);
    uint64_t own_us = now.own_us > last->begin.own_us ? now.own_us - last->begin.own_us : 0;
    uint64_t anyway = last->faults_second * own_us / 1000000;
    uint64_t written = faults_between(&last->begin, &now);
    written = smaller(written > anyway ? written - anyway : 0, last->pages);
    if (p->next_peak.fd && written > last->copied) last->copied = written;
    uint64_t alone = written > last->copied ? written - last->copied : 0;
    uint64_t cost = cost_us(c, last->pages, last->copied, alone);
    if (cost > last->cost_us) {
        c->peaks_us += cost - last->cost_us;
        last->cost_us = cost;
    }
    if (last->share < ALL && last->pages)
        last->share = 1 + (uint32_t)((last->copied + alone / ALONE) * (ALL - 1) / last->pages);
    uint64_t left = last->object_pages > written ? last->object_pages - written : 0;
    uint64_t all_us = c->peaks_us + left / ALONE * c->copy_ns / 1000;
    if (p->next_peak.fd && all_us > budget_us(p, now_us)) {
        p->next_peak.dear = true;
        last->share = ALL; /* it would have cost more */
    }
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

/* Of the heap that has been touched: what was only reserved is no peak. A heap of the past had no more than was resident. */
static void aim(collect_t *c, collect_process_t *p, uint64_t now_us) {
    const collect_peak_t *of = p->next_peak.fd ? &p->next_peak : &p->peak;
    uint64_t last = smaller(of->heap_bytes, of->rss_bytes);
    uint64_t budget = budget_us(p, now_us), cost = likely_cost_us(c, p, PEAK_BYTES_MIN);
    uint64_t above = clearly_above(last, cost, budget);
    uint64_t highest = smaller(observed_heap_peak_bytes(&p->observed), p->rss_peak_bytes);
    uint64_t near_highest = highest / CLEARLY * (CLEARLY - 1);
    uint64_t untouched = smaller(p->untouched_bytes, observed_heap_bytes(&p->observed));
    if (above < near_highest) above = near_highest;
    if (above < PEAK_BYTES_MIN) above = PEAK_BYTES_MIN;
    bool known = !p->next_peak.fd && now_us >= p->peak_cost.until_us;
    bool may = c->peaks && !p->frozen && known && affordable(c, p, above, now_us);
    observed_snapshot_above(&p->observed, may ? above + untouched : UINT64_MAX);
}

bool peaks_aim(collect_t *c) {
    uint64_t now_us = collect_now_us(c);
    bool busy = false;
    if (!c->copy_ns) c->copy_ns = measure_copy_ns();
    for (size_t i = 0; i < c->processes.count; i++) {
        collect_process_t *p = c->processes.at[i];
        if (p->ended) continue;
        if (!p->waited_past_us) see_waiting(p);
        if (p->next_peak.fd || now_us < p->peak_cost.until_us)
            account(c, p, now_us);
        else if (p->rss_bytes > PEAK_BYTES_MIN)
            see_faults(c, p, now_us);
        busy |= p->next_peak.fd != 0;
        aim(c, p, now_us);
    }
    return busy;
}

bool peak_begin(collect_t *c, pid_t pid, int fd) {
    collect_process_t *p = collect_find(c, pid);
    if (!c->peaks || !p || p->frozen || fd <= 0) return false;
    collect_peak_t *next = &p->next_peak;
    uint64_t now_us = collect_now_us(c);
    collect_moment_t now = moment(c, p);
    if (!affordable(c, p, 0, now_us)) return false; /* it has grown since */
    peak_free(next);
    *next = (collect_peak_t){.fd = fd,
                             .t_us = now_us,
                             .rss_bytes = now.rss_bytes,
                             .heap_bytes = observed_heap_bytes(&p->observed)};
    uint64_t large = smaller(p->large_bytes, p->private_bytes);
    p->peak_cost = (collect_peak_cost_t){
        .begin = now,
        .pages = p->private_bytes >> PAGE_BITS,
        .object_pages = (p->private_bytes - large) >> PAGE_BITS,
        .faults_second = p->peak_cost.faults_second,
    };
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
            if (!p->next_peak.dear) p->peak_cost.share = 0, p->peak_cost.pages = 0;
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

static uint64_t less(uint64_t a, uint64_t b) {
    return a > b ? a - b : 0;
}

/* Of a heap that is written for its end, too: whether a fifth of the peak was held then, and is gone or garbage at the end. Who held
 * that the end does not tell. */
static bool tells_more(const collect_t *c, const collect_process_t *p) {
    uint64_t held = less(p->peak.heap_bytes, p->peak.garbage_bytes);
    uint64_t end = less(p->end_heap_bytes, c->heap_garbage_bytes);
    return less(held, end) > p->peak.heap_bytes / (CLEARLY + 1);
}

collect_peak_t *peak_in_doubt(const collect_t *c) {
    collect_process_t *p = c->processes.count ? c->processes.at[0] : NULL;
    return p && p->peak.fd && !tells_more(c, p) ? &p->peak : NULL;
}

/* Is it among the largest, and does it tell what nothing else does? */
static bool worth_writing(const collect_t *c, size_t number, bool heap) {
    const collect_peak_t *p = &c->processes.at[number]->peak;
    size_t larger = 0;
    if (!p->fd) return false;
    if (number == 0 && heap && !tells_more(c, c->processes.at[0])) return false;
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
