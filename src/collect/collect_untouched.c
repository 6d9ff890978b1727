#include "collect/collect_untouched.h"

#include "collect/touched.h"

static void add_untouched(void *arg, uint32_t cell, uint64_t bytes) {
    collect_process_t *p = arg;
    if (cell >= p->seen.cells.count) return;
    p->seen.cells.at[cell].untouched += bytes;
    p->seen.cells.at[cell].changed = true;
}

void untouched_read(collect_t *c, uint32_t number, bool peak, uint64_t heap) {
    collect_process_t *p = c->processes.at[number];
    uint64_t begin = collect_cost_us();
    if (!p->observed.region || p->ended || p->frozen) return;
    sites_read(&c->sites, p->pid, &p->observed, &p->seen);
    for (size_t i = 0; i < p->seen.cells.count; i++) {
        collect_cell_t *cell = p->seen.cells.at + i;
        if (cell->untouched) cell->changed = true;
        cell->untouched = 0;
    }
    p->untouched_bytes = touched_not(&p->observed, p->pid, add_untouched, p, &p->large_bytes);
    p->untouched_heap = observed_heap_bytes(&p->observed);
    /* What went meanwhile is told by the look before this, and by how high the RSS rose since; also where as much came in its place,
     * of which less is touched. */
    if (peak && p->untouched_heap >= heap - heap / 64) {
        const uint64_t rss = p->rss_bytes, private = p->private_bytes;
        peak = collect_rss(p) >= rss - rss / 64;
        p->rss_bytes = rss;
        p->private_bytes = private;
    } else {
        peak = false;
    }
    /* Where the RSS is higher than at the heap's highest, with much of that gone, it tells of other pages. */
    const uint64_t heap_peak = observed_heap_peak_bytes(&p->observed);
    const bool heap_high = p->untouched_heap >= heap_peak - heap_peak / 4;
    for (size_t i = 0; peak && i < p->seen.cells.count; i++) {
        collect_cell_t *cell = &p->seen.cells.at[i];
        if (heap_high && cell_lives_as(cell, &cell->figures.peak))
            cell->peak_untouched = cell->untouched;
        if (cell_lives_as(cell, &cell->figures.rss_peak))
            cell->rss_peak_untouched = cell->untouched;
    }
    p->untouched_rss = p->rss_bytes;
    if (peak) p->peak_stale = false;
    if (peak && p->rss_bytes >= p->high_rss) {
        p->high_rss = p->rss_bytes;
        p->high_heap = p->untouched_heap;
    }
    uint64_t wait = COLLECT_LOOK_PART * (collect_cost_us() - begin);
    p->untouched_due_us = collect_now_us(c) + (wait > COLLECT_LOOK_US ? wait : COLLECT_LOOK_US);
}

bool untouched_is_stale(const collect_process_t *p) {
    enum { PART = 8, LEAST = 1 << 20 };
    int64_t lives = (int64_t)(observed_heap_bytes(&p->observed) - p->untouched_heap);
    int64_t apart = (int64_t)(p->rss_bytes - p->untouched_rss) - lives;
    return p->untouched_bytes > LEAST &&
           (uint64_t)(apart < 0 ? -apart : apart) > p->untouched_bytes / PART + LEAST;
}

void untouched_correct(collect_process_t *p, uint64_t highest) {
    uint64_t heap = observed_heap_peak_bytes(&p->observed), may = 0;
    uint64_t added = heap > p->high_heap ? heap - p->high_heap : 0;
    uint64_t more = highest > p->high_rss + added ? highest - p->high_rss - added : 0;
    for (size_t i = 0; i < p->seen.cells.count; i++) {
        const collect_cell_t *cell = &p->seen.cells.at[i];
        if (!cell_lives_as(cell, &cell->figures.peak)) may += cell->peak_untouched;
    }
    uint64_t left = more > may ? more - may : 0; /* what still lives: asked for when it goes */
    more -= left;
    for (size_t i = 0; more && i < p->seen.cells.count; i++) {
        collect_cell_t *cell = &p->seen.cells.at[i];
        if (!cell->peak_untouched || cell_lives_as(cell, &cell->figures.peak)) continue;
        double part = (double)more / (double)may;
        cell->peak_untouched -= (uint64_t)((double)cell->peak_untouched * part);
        cell->rss_peak_untouched -= (uint64_t)((double)cell->rss_peak_untouched * part);
        cell->changed = true;
    }
    p->high_rss = highest - left;
    p->high_heap += added;
}
