#define _GNU_SOURCE
#include "agent/trace/trace.h"

#include "agent/trace/trace_blocks.h"
#include "agent/trace/trace_hooks.h"
#include "agent/trace/trace_interpose.h"
#include "agent/trace/trace_sites.h"
#include "agent/trace/trace_tracks.h"
#include "base/mem.h"

#include <errno.h>

static struct {
    const rt_t *rt;
    uint32_t frames_max;
    uint32_t holders; /* with the lock */
} trace = {.frames_max = 1};

static bool on(void) {
    return atomic_load_explicit(&hooks_sums.on, memory_order_relaxed);
}

/* All but the hooks. Sites stay readable where somebody holds them. */
static void clear_locked(void) {
    blocks_clear();
    tracks_clear();
    sites_clear(trace.holders != 0);
    hooks_sums.alone_bytes = hooks_sums.shared_bytes = 0;
    hooks_sums.alone_peak = hooks_sums.shared_peak = 0;
    hooks_sums.missed = 0;
}

/* ── On and off ── */

int trace_start(const rt_t *rt, uint32_t frames_max, trace_traceback_fn *traceback, err_t *e) {
    if (on()) return 0;
    trace.rt = rt;
    sites_lock();
    bool opened = blocks_open() && sites_open(rt, frames_max, trace.holders != 0);
    sites_unlock();
    if (!opened) return err_set(e, -ENOMEM, "no memory for the tables of tracemalloc");
    int status = hooks_in(rt, e);
    if (status) return status;
    trace.frames_max = frames_max;
    hooks_sums.on = true;
    interpose_in(traceback);
    return 0;
}

void trace_stop(void) {
    if (!on()) return;
    interpose_out();
    sites_lock();
    hooks_sums.on = false;
    clear_locked();
    sites_unlock();
    hooks_out(trace.rt);
}

bool trace_is_on(void) {
    return on();
}

uint32_t trace_limit(void) {
    return trace.frames_max;
}

/* ── Sums ── */

void trace_memory(uint64_t *bytes, uint64_t *peak_bytes) {
    sites_lock();
    int64_t now = hooks_sums.alone_bytes + hooks_sums.shared_bytes;
    int64_t alone = hooks_sums.alone_peak, shared = hooks_sums.shared_peak;
    sites_unlock();
    int64_t peak = alone > shared ? alone : shared;
    *bytes = now > 0 ? (uint64_t)now : 0;
    *peak_bytes = peak > now ? (uint64_t)peak : *bytes;
}

void trace_reset_peak(void) {
    sites_lock();
    int64_t now = hooks_sums.alone_bytes + hooks_sums.shared_bytes;
    hooks_sums.alone_peak = hooks_sums.shared_peak = now;
    sites_unlock();
}

void trace_clear(void) {
    sites_lock();
    if (on()) {
        clear_locked();
        sites_make_locked(0);
    }
    sites_unlock();
}

size_t trace_own_bytes(void) {
    sites_lock();
    size_t bytes = on() ? blocks_own_bytes() + sites_own_bytes() + tracks_own_bytes() : 0;
    sites_unlock();
    return bytes;
}

uint64_t trace_missed(void) {
    return hooks_sums.missed;
}

/* ── Memory that is not Python's ── */

int trace_track(uint32_t domain, uintptr_t at, size_t bytes) {
    if (!on()) return -ENOENT;
    rt_addr_t thread = (rt_addr_t)trace.rt->PyGILState_GetThisThreadState();
    int status = -ENOENT;
    sites_lock();
    if (on()) {
        uint32_t site = sites_make_locked(thread);
        track_t *t = site == SITES_NONE ? NULL : tracks_put(domain, at);
        if (t) {
            hooks_add_locked(-(int64_t)t->bytes);
            t->bytes = bytes;
            t->site = site + 1;
            hooks_add_locked((int64_t)bytes);
        }
        status = t ? 0 : -ENOMEM;
    }
    sites_unlock();
    return status;
}

int trace_untrack(uint32_t domain, uintptr_t at) {
    track_t taken;
    if (!on()) return -ENOENT;
    sites_lock();
    bool is_on = on();
    if (is_on && tracks_take(domain, at, &taken)) hooks_add_locked(-(int64_t)taken.bytes);
    sites_unlock();
    return is_on ? 0 : -ENOENT;
}

/* ── Looking up ── */

uintptr_t trace_block_of(const rt_t *rt, const void *object) {
    uint64_t flags = rt_type_flags(rt, rt_type(rt, (rt_addr_t)object));
    uint64_t pre = RT_TPFLAGS_MANAGED_DICT | (rt->minor >= 12 ? RT_TPFLAGS_MANAGED_WEAKREF : 0);
    return (uintptr_t)object -
           (flags & RT_TPFLAGS_HAVE_GC ? (uintptr_t)rt->layout->gc_head_size : 0) -
           (flags & pre ? 2 * sizeof(void *) : 0);
}

void trace_hold(void) {
    sites_lock();
    trace.holders++;
    sites_unlock();
}

void trace_release(void) {
    sites_lock();
    trace.holders--;
    sites_unlock();
}

const trace_site_t *trace_find(uint32_t domain, uintptr_t at) {
    const trace_site_t *site = NULL;
    sites_lock();
    if (on()) {
        const track_t *t = tracks_get(domain, at);
        const uint32_t *word = domain == 0 && at % 16 == 0 ? blocks_word(at) : NULL;
        if (t)
            site = sites_at_locked(t->site - 1);
        else if (word && blocks_is_traced(*word))
            site = sites_at_locked(blocks_site(*word));
    }
    sites_unlock();
    return site;
}

bool trace_mute(bool muted) {
    bool before = hooks_muted;
    hooks_muted = muted;
    return before;
}

/* ── All of it ── */

static void count_one(void *arg, uint32_t site, uint64_t bytes) {
    (void)site;
    (void)bytes;
    ++*(size_t *)arg;
}

static void copy_one(void *arg, uint32_t site, uint64_t bytes) {
    trace_copy_t *out = arg;
    const trace_site_t *at = sites_at_locked(site);
    if (at) out->blocks[out->count++] = (trace_block_t){at, bytes, 0};
}

static void copy_track(void *arg, const track_t *t) {
    trace_copy_t *out = arg;
    const trace_site_t *at = sites_at_locked(t->site - 1);
    if (at) out->blocks[out->count++] = (trace_block_t){at, t->bytes, t->domain};
}

int trace_copy(trace_copy_t *out) {
    size_t count = 0;
    *out = (trace_copy_t){0};
    sites_lock();
    if (on()) {
        blocks_each(count_one, &count);
        count += tracks_count();
    }
    out->room_bytes = (count + 1) * sizeof *out->blocks;
    out->blocks = mem_map(out->room_bytes);
    if (out->blocks) {
        if (on()) blocks_each(copy_one, out);
        tracks_each(copy_track, out);
        sites_count_locked(out);
        trace.holders++;
    }
    sites_unlock();
    return out->blocks ? 0 : -ENOMEM;
}

void trace_copy_free(trace_copy_t *copy) {
    if (copy->blocks) trace_release();
    mem_unmap(copy->blocks, copy->room_bytes);
    *copy = (trace_copy_t){0};
}
