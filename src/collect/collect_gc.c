#define _GNU_SOURCE
#include "collect/collect_gc.h"

#include <string.h>
#include <sys/uio.h>

enum { LOOK_US = 10000, LOOK_RUNNING_US = 1000, PROCESSES_A_LOOK = 8, COUNTS_A_GENERATION = 3 };

typedef struct state {
    int32_t collecting;
    uint64_t counts[COLLECT_GENERATIONS * COUNTS_A_GENERATION];
} state_t;

static bool read_state(const collect_process_t *p, state_t *s) {
    const collect_gc_t *gc = &p->gc;
    bool counts = gc->stats_at != 0;
    struct iovec from[] = {{(void *)gc->collecting_at, sizeof s->collecting},
                           {(void *)gc->stats_at, sizeof s->counts}};
    struct iovec to[] = {{&s->collecting, sizeof s->collecting}, {s->counts, sizeof s->counts}};
    unsigned long n = counts ? 2 : 1;
    ssize_t bytes = process_vm_readv(p->pid, to, n, from, n, 0);
    return bytes == (ssize_t)(sizeof s->collecting + (counts ? sizeof s->counts : 0));
}

static uint64_t count_of(const state_t *s, size_t generation) {
    return s->counts[generation * COUNTS_A_GENERATION];
}

/* The oldest generation that was collected since; where it is not known, the oldest there is: a young one is too short to be seen. */
static uint32_t generation_since(const collect_gc_t *gc, const state_t *s) {
    for (uint32_t i = COLLECT_GENERATIONS; gc->stats_at && i-- > 0;)
        if (count_of(s, i) != gc->counts[i]) return i;
    return COLLECT_GENERATIONS - 1;
}

static void note_end(collect_t *c, uint32_t number, const state_t *s, uint64_t now_us) {
    collect_gc_t *gc = &c->processes.at[number]->gc;
    uint64_t end_us = gc->seen_us + (now_us - gc->seen_us) / 2;
    collect_event_t event = {.process = number,
                             .kind = REGION_EVENT_GC,
                             .t_us = gc->begin_us,
                             .duration_us = end_us > gc->begin_us ? end_us - gc->begin_us : 0,
                             .value = generation_since(gc, s)};
    gc->running = false;
    if (gc->looks > 1) collect_note(c, &event);
}

static void look(collect_t *c, uint32_t number, uint64_t now_us) {
    collect_gc_t *gc = &c->processes.at[number]->gc;
    state_t s = {0};
    if (!read_state(c->processes.at[number], &s)) {
        gc->running = false;
        gc->collecting_at = gc->looked_us ? gc->collecting_at : 0; /* never to be had */
        return;
    }
    bool another = false;
    for (uint32_t i = 0; gc->stats_at && i < COLLECT_GENERATIONS; i++)
        another |= count_of(&s, i) != gc->counts[i];
    if (gc->running && (!s.collecting || another)) note_end(c, number, &s, now_us);
    if (s.collecting && !gc->running) {
        uint64_t before = gc->looked_us ? now_us - gc->looked_us : 0;
        gc->begin_us = now_us - before / 2;
        gc->running = true;
        gc->looks = 0;
    }
    if (gc->running) {
        gc->seen_us = now_us;
        gc->looks++;
    }
    for (uint32_t i = 0; i < COLLECT_GENERATIONS; i++) gc->counts[i] = count_of(&s, i);
    gc->looked_us = now_us;
}

uint64_t gc_look(collect_t *c) {
    uint64_t now_us = collect_now_us(c), next_us;
    size_t live = 0;
    bool running = false;
    for (uint32_t i = 0; i < c->processes.count; i++) {
        collect_process_t *p = c->processes.at[i];
        if (p->ended || p->frozen || !p->gc.collecting_at) continue;
        live++;
        if (p->gc.running || now_us >= p->gc.looked_us + c->gc_every_us) look(c, i, now_us);
        running |= p->gc.running;
    }
    c->gc_every_us = LOOK_US * (1 + live / PROCESSES_A_LOOK);
    next_us = running ? LOOK_RUNNING_US : c->gc_every_us;
    return live ? next_us : UINT64_MAX;
}
