#define _GNU_SOURCE
#include "agent/free/free_steps.h"

#include "agent/free/arena_tops.h"
#include "agent/free/libc_trim.h"
#include "agent/free/pool_trim.h"
#include "agent/ledger/heaps.h"
#include "agent/ledger/pymalloc.h"
#include "agent/ledger/resident.h"
#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void measure(free_step_t *out, uint64_t before, int64_t began_us) {
    uint64_t after = res_rss();
    out->returned_bytes = before > after ? before - after : 0;
    out->us = (uint64_t)(now_us() - began_us);
}

static void note_pools(const pym_t *p, const pool_trim_t *t, free_step_t *out) {
    int n = 0;
    if (t->pinned)
        n = snprintf(out->note, sizeof out->note,
                     "%" PRIu32 " of %" PRIu32
                     " arenas are less than a quarter full: what lives in them "
                     "keeps the pages it lies in",
                     t->pinned, t->arenas);
    if (t->stopped)
        n += snprintf(out->note + n, sizeof out->note - (size_t)n,
                      "%sstopped before all arenas were done: time was up, or the memory is locked",
                      n ? "; " : "");
    if (p->own_books && (size_t)n < sizeof out->note)
        snprintf(out->note + n, sizeof out->note - (size_t)n,
                 "%sinterpreters with a GIL of their own are left alone", n ? "; " : "");
}

void free_pools(rt_t *rt, bool dry, int64_t deadline_us, free_step_t *out) {
    int64_t began_us = now_us();
    uint64_t before = res_rss();
    pym_t p;
    pool_trim_t t;
    res_t r;
    err_t e;
    memset(out, 0, sizeof *out);
    out->name = "pymalloc";
    if (rt_arenas_huge(rt)) {
        snprintf(out->note, sizeof out->note,
                 "arenas are huge pages, which go whole or not at all");
        return;
    }
    if (pym_find(&p, rt, &e)) {
        snprintf(out->note, sizeof out->note, "%.300s", e.text);
        return;
    }
    res_open(&r);
    pool_trim(&p, &r, !dry, deadline_us, &t);
    res_close(&r);
    measure(out, before, began_us);
    if (dry) out->returned_bytes = t.pool_bytes + t.block_bytes;
    note_pools(&p, &t, out);
}

/* As malloc_trim finds them: by walking the heaps. */
static void predict_glibc(free_step_t *out) {
    maps_t maps;
    res_t resident;
    heap_sum_t sum = {0};
    err_t e;
    if (maps_read(&maps, 0, &e)) {
        snprintf(out->note, sizeof out->note, "%.300s", e.text);
        return;
    }
    res_open(&resident);
    heaps_walk_all(&maps, &resident, &sum);
    res_close(&resident);
    maps_free(&maps);
    out->returned_bytes = sum.returnable_bytes;
    if (sum.broken)
        snprintf(out->note, sizeof out->note, "at least: some heaps changed while they were read");
}

void free_libc(bool dry, free_step_t *out) {
    int64_t began_us = now_us();
    uint64_t before = res_rss();
    libc_found_t found;
    memset(out, 0, sizeof *out);
    libc_find(&found);
    out->name = "malloc";
    if (found.kind == LIBC_OTHER) {
        snprintf(out->note, sizeof out->note,
                 "malloc is from %.200s, which lowtide does not know: left alone",
                 found.library[0] ? found.library : "an unknown place");
        return;
    }
    libc_books_t books;
    bool told = dry && libc_read_books(&found, &books);
    if (!dry) libc_trim(&found);
    if (!dry && found.kind == LIBC_GLIBC) arena_tops_trim();
    measure(out, before, began_us);
    if (found.kind == LIBC_MIMALLOC)
        snprintf(out->note, sizeof out->note,
                 "mimalloc gives back what this thread's heap has in whole segments; started with "
                 "MIMALLOC_PURGE_DELAY=0 (2.0: MIMALLOC_DECOMMIT_DELAY=0) it keeps less");
    if (!dry) return;
    out->returned_bytes = told ? books.returnable_bytes : 0;
    if (found.kind == LIBC_GLIBC)
        predict_glibc(out);
    else if (!told)
        snprintf(out->note, sizeof out->note, "%s does not tell beforehand", found.name);
}
