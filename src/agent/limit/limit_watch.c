#define _GNU_SOURCE
#include "agent/limit/limit_watch.h"

#include "base/clock.h"

#include <string.h>
#include <time.h>

#define MS               1000000ll
#define FILL_BYTES_PER_S (4ll << 30)
enum {
    STALL_SHARE = 15,
    FREED_LITTLE = 100,
    GROWN_LITTLE = 200,
    CALM = 2000,
    CREDIT_MS_MAX = 1000,
    STALE_MS = 5000
};
enum {
    READ_ALL_MS = 500,
    READ_MS_MIN = 5,
    READ_MS_CALM = 20,
    READ_MS_MAX = 1000,
    IDLE_MS_MIN = 250,
    IDLE_MS_MAX = 60000
};

static uint64_t percent(uint64_t bytes, unsigned share) {
    return bytes / 100 * share;
}

void limit_watch_open(limit_watch_t *w, const gauge_places_t *places, uint64_t limit_bytes,
                      double max_time_share) {
    pthread_condattr_t monotonic;
    memset(w, 0, sizeof *w);
    w->places = *places;
    w->limit_bytes = limit_bytes;
    w->max_time_share = max_time_share;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    w->stalls_read_ns = w->credit_at_ns = now_ns();
    w->credit_ns = CREDIT_MS_MAX * MS;
    gauges_t g;
    gauge_read(&w->places, &g);
    w->stalled_us = g.stalled_us;
    w->throttled = g.throttled;
}

void limit_watch_stop(limit_watch_t *w) {
    pthread_mutex_lock(&w->lock);
    w->stopped = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

bool limit_watch_sleep(limit_watch_t *w, int64_t ns) {
    int64_t until = now_ns() + ns;
    struct timespec t = {until / (1000 * MS), until % (1000 * MS)};
    pthread_mutex_lock(&w->lock);
    int status = 0;
    while (!w->stopped && status == 0) status = pthread_cond_timedwait(&w->changed, &w->lock, &t);
    bool stopped = w->stopped;
    pthread_mutex_unlock(&w->lock);
    return !stopped;
}

/* What the recorder said last; NULL: there is none, or it has said nothing for so long that it is gone. */
static const region_t *tree_of(const limit_watch_t *w) {
    if (!w->tree || now_ns() - (int64_t)w->tree->tree_ns > STALE_MS * MS) return NULL;
    return w->tree;
}

static uint64_t of_tree(const region_t *tree, uint64_t rss) {
    int64_t beside = tree ? tree->tree_beside : 0;
    return beside < 0 && (uint64_t)-beside > rss ? 0 : rss + (uint64_t)beside;
}

static uint64_t our_share(const region_t *tree, uint64_t bytes) {
    uint32_t share = tree ? tree->tree_share : REGION_SHARE_ALL;
    return share < REGION_SHARE_ALL ? bytes / REGION_SHARE_ALL * share : bytes;
}

static bool is_largest(const region_t *tree) {
    return !tree || tree->tree_largest;
}

static void judge(const limit_watch_t *w, gauges_t *g, limit_state_t *s) {
    const region_t *tree = tree_of(w);
    double fullest = -1;
    g->of[GAUGE_RSS].hard_bytes = w->limit_bytes;
    g->of[GAUGE_RSS].used_bytes = of_tree(tree, g->of[GAUGE_RSS].used_bytes);
    memset(s, 0, sizeof *s);
    for (int i = 0; i < GAUGES; i++) {
        uint64_t used = g->of[i].used_bytes, hard = g->of[i].hard_bytes,
                 goal = percent(hard, LIMIT_GOAL);
        if (hard == UINT64_MAX) continue;
        if (used > goal && used - goal > s->wanted_bytes) s->wanted_bytes = used - goal;
        if ((double)used / (double)hard <= fullest) continue;
        fullest = (double)used / (double)hard;
        s->source = (enum gauge_kind)i;
        s->used_bytes = used;
        s->hard_bytes = hard;
    }
    s->shared = s->source == GAUGE_RSS && our_share(tree, REGION_SHARE_ALL) < REGION_SHARE_ALL;
    s->wanted_bytes = our_share(tree, s->wanted_bytes);
    uint64_t mark = percent(s->hard_bytes, LIMIT_MARK);
    if (s->used_bytes >= percent(s->hard_bytes, LIMIT_FULL_MARK)) return;
    if (s->used_bytes < mark) return;
    s->light_bytes = our_share(tree, s->used_bytes - percent(s->hard_bytes, LIMIT_LIGHT_GOAL));
    s->over_bytes = our_share(tree, s->used_bytes - mark);
}

static void read_state(const limit_watch_t *w, gauges_t *g, limit_state_t *s) {
    gauge_read(&w->places, g);
    judge(w, g, s);
}

/* Limits and counters change seldom, and are most of what there is to read. */
static void read_often(const limit_watch_t *w, gauges_t *g, int64_t *all_ns, limit_state_t *s) {
    int64_t now = now_ns();
    if (now - *all_ns >= READ_ALL_MS * MS) {
        gauge_read(&w->places, g);
        *all_ns = now;
    } else {
        gauge_read_again(&w->places, g);
    }
    judge(w, g, s);
}

void limit_watch_read(const limit_watch_t *w, limit_state_t *out) {
    gauges_t g;
    read_state(w, &g, out);
}

/* Once a second: did the kernel make us wait? */
static bool is_stalled(limit_watch_t *w, const gauges_t *g) {
    int64_t now = now_ns(), ns = now - w->stalls_read_ns;
    if (ns < 1000 * MS) return false;
    bool waits = g->stalled_us > w->stalled_us &&
                 (int64_t)(g->stalled_us - w->stalled_us) * 1000 > ns / 100 * STALL_SHARE;
    bool throttled = g->throttled > w->throttled;
    w->stalls_read_ns = now;
    w->stalled_us = g->stalled_us;
    w->throttled = g->throttled;
    return (waits || throttled) && g->of[GAUGE_RSS].used_bytes >= w->limit_bytes / 2;
}

static void save_up(limit_watch_t *w, int64_t now) {
    w->credit_ns += (int64_t)((double)(now - w->credit_at_ns) * w->max_time_share);
    if (w->credit_ns > CREDIT_MS_MAX * MS) w->credit_ns = CREDIT_MS_MAX * MS;
    w->credit_at_ns = now;
}

static bool may_act(limit_watch_t *w, const limit_state_t *s) {
    int64_t now = now_ns();
    save_up(w, now);
    if (w->credit_ns <= 0) return false;
    if (w->light && !s->stalled && s->used_bytes < percent(s->hard_bytes, LIMIT_FULL_MARK)) {
        if (s->used_bytes > w->settled_bytes + s->hard_bytes / GROWN_LITTLE) return true;
        if (s->used_bytes < w->settled_bytes) w->settled_bytes = s->used_bytes;
        return false;
    }
    return now >= w->retry_ns || s->used_bytes > w->settled_bytes + s->hard_bytes / FREED_LITTLE;
}

/* When so much could have come that something is to be done; beside the mark and beyond it, less often while next to nothing comes. */
static int64_t next_look_ns(const limit_state_t *s, unsigned mark, int64_t last_ns,
                            uint64_t last_bytes) {
    uint64_t at = percent(s->hard_bytes, mark);
    int64_t ns = 0, min = READ_MS_MIN * MS;
    if (last_ns && s->used_bytes < last_bytes + s->hard_bytes / CALM) {
        min = last_ns * 2 > min ? last_ns * 2 : min;
        if (min > READ_MS_CALM * MS) min = READ_MS_CALM * MS;
    }
    if (s->used_bytes < at)
        ns = (int64_t)((double)(at - s->used_bytes) / (double)FILL_BYTES_PER_S * 1e9);
    if (ns < min) return min;
    return ns > READ_MS_MAX * MS ? READ_MS_MAX * MS : ns;
}

enum limit_level limit_watch_wait(limit_watch_t *w, enum limit_level level, limit_state_t *out) {
    unsigned mark = level == LIMIT_NEAR ? LIMIT_NEAR_MARK : LIMIT_MARK;
    int64_t sleep_ns = 0, all_ns = INT64_MIN / 2;
    uint64_t last_bytes = 0;
    gauges_t g;
    while (limit_watch_sleep(w, sleep_ns)) {
        read_often(w, &g, &all_ns, out);
        bool full = out->used_bytes >= percent(out->hard_bytes, mark);
        if (level == LIMIT_NEAR) {
            if (full && is_largest(tree_of(w))) return LIMIT_NEAR;
        } else {
            out->stalled = !full && is_stalled(w, &g);
            if (w->light && out->used_bytes < percent(out->hard_bytes, LIMIT_SPARE_MARK)) {
                w->light = false;
                return LIMIT_SPARE;
            }
            if (out->stalled && !out->wanted_bytes)
                out->wanted_bytes = g.of[GAUGE_RSS].used_bytes / 20;
            if ((full || out->stalled || w->light) && may_act(w, out) && (full || out->stalled))
                return LIMIT_PRESSURE;
        }
        sleep_ns = next_look_ns(out, mark, sleep_ns, last_bytes);
        last_bytes = out->used_bytes;
    }
    return LIMIT_STOPPED;
}

uint64_t limit_watch_acted(limit_watch_t *w, const limit_state_t *before, int64_t took_ns,
                           bool light) {
    gauges_t g;
    limit_state_t after;
    read_state(w, &g, &after);
    uint64_t used = g.of[before->source].used_bytes;
    uint64_t freed = before->used_bytes > used ? before->used_bytes - used : 0;
    int64_t now = now_ns();
    save_up(w, now);
    w->credit_ns -= took_ns;
    w->settled_bytes = after.used_bytes;
    w->light = light;
    if (light) return freed;
    if (freed >= before->hard_bytes / FREED_LITTLE) {
        w->idle_ns = 0;
    } else {
        w->idle_ns = w->idle_ns ? w->idle_ns * 2 : IDLE_MS_MIN * MS;
        if (w->idle_ns > IDLE_MS_MAX * MS) w->idle_ns = IDLE_MS_MAX * MS;
    }
    w->retry_ns = now + w->idle_ns;
    return freed;
}
