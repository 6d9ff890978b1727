#define _GNU_SOURCE
#include "collect/collect_peak.h"

#include "base/mem.h"
#include "collect/collect_write.h"
#include "format/rec_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

/* A fork of a process stops it for 25 ms a GiB with pages of 4 KiB; copying what it then writes to costs it several times that, and
 * a thread that comes for the GIL some milliseconds however small the heap. Measured by bench/alloc.py, with and without. */
enum {
    PEAK_BYTES_MIN = 32 << 20,
    COST_US = 8000,
    COST_US_A_GIB = 150000,
    PART_OF_TIME = 50,
    CLEARLY = 4 /* above the last by a quarter */
};

void peak_free(collect_peak_t *p) {
    if (p->fd > 0) close(p->fd);
    collect_samples_free(&p->samples);
    *p = (collect_peak_t){0};
}

static uint64_t cost_us(uint64_t bytes) {
    return COST_US + (bytes >> 20) * COST_US_A_GIB / 1024;
}

/* By a quarter at least, and by the more the larger a part of all that may be spent the next one is: so what is spent early, on a
 * heap that still grows, leaves enough for when it is at its highest. */
static uint64_t clearly_above(uint64_t bytes, uint64_t cost, uint64_t budget) {
    uint64_t parts = budget ? cost * 4 * CLEARLY / budget : 0;
    return bytes + bytes / CLEARLY * (parts > 1 ? parts : 1);
}

static void aim(collect_t *c, collect_process_t *p, uint64_t now_us) {
    uint64_t last = p->next_peak.fd ? p->next_peak.heap_bytes : p->peak.heap_bytes;
    uint64_t size = p->rss_bytes > PEAK_BYTES_MIN ? p->rss_bytes : PEAK_BYTES_MIN;
    uint64_t budget = now_us / PART_OF_TIME, cost = cost_us(size);
    uint64_t above = clearly_above(last, cost, budget);
    if (above < PEAK_BYTES_MIN) above = PEAK_BYTES_MIN;
    bool may = c->peaks && !p->frozen && c->peaks_us + cost <= budget;
    observed_snapshot_above(&p->observed, may ? above : UINT64_MAX);
}

void peaks_aim(collect_t *c) {
    uint64_t now_us = collect_now_us(c);
    for (size_t i = 0; i < c->processes.count; i++)
        if (!c->processes.at[i]->ended) aim(c, c->processes.at[i], now_us);
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
    collect_samples_of(c, p, &next->samples);
    c->peaks_us += cost_us(next->rss_bytes);
    return true;
}

void peak_done(collect_t *c, pid_t pid, const ctl_result_t *result) {
    for (size_t i = c->processes.count; i-- > 0;) {
        collect_process_t *p = c->processes.at[i];
        if (p->pid != pid || !p->next_peak.fd) continue;
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
