/* Who allocates: from the frames of a thread to the number of a site.
 *
 *     frames ─▶ their instructions ─▶ one 64-bit key ─▶ cache ─▶ site          each allocation, no lock, only with the one GIL
 *                                                │ not there
 *                                                ▼
 *               instruction ─▶ place (file, line) … ─▶ places and depth ─▶ site       under the lock
 *
 * An instruction's address tells its code object only while that lives. So the block of each code object that we know
 * is watched (trace_blocks.h), and its end makes us forget its instructions and empties the cache.
 *
 * A stack's depth (Traceback.total_nframe) is part of the site. From 3.12 on the interpreter counts Python's frames, and that count
 * stands for the depth in the key; before, all frames are walked.
 *
 * Files, places and sites are made once and stay until sites_clear.
 */
#ifndef LOWTIDE_TRACE_SITES_H
#define LOWTIDE_TRACE_SITES_H

#include "agent/runtime/runtime.h"
#include "agent/trace/trace.h"

#include <stdbool.h>
#include <stdint.h>

enum { SITES_CACHE_BITS = 12, SITES_DEPTH_BITS = 18 };
#define SITES_NONE UINT32_MAX /* no memory */

typedef struct sites_known {
    uint64_t key;
    uint32_t site, epoch;
} sites_known_t;

/* What the quick way needs, in one place: offsets from the layout, and the cache. */
typedef struct sites_quick {
    int32_t thread_frame,
        cframe_frame; /* cframe_frame: ABSENT where a thread has its frame itself */
    int32_t frame_code, frame_previous, frame_instruction, frame_owner;
    int32_t code_first_traceable, code_adaptive;
    int32_t depth_limit, depth_remaining; /* ABSENT before 3.12 */
    int owned_by_c, owned_by_generator;
    uint32_t frames_max;
    uint32_t epoch; /* of the cache: what is older has been forgotten */
    void *(*thread_now)(void);
    sites_known_t cache[1 << SITES_CACHE_BITS];
} sites_quick_t;

extern sites_quick_t sites_quick;

/* The caller holds the lock. keep: somebody may still read the sites there were; their memory goes with the next clearing. */
bool sites_open(const rt_t *rt, uint32_t frames_max, bool keep);
/* Forgets all. */
void sites_clear(bool keep);
size_t sites_own_bytes(void);

/* The site of a thread whose frames stand still. The caller holds the lock (below). */
uint32_t sites_make_locked(rt_addr_t thread);
/* The same for who holds the one GIL; takes the lock. */
uint32_t sites_here_slow(rt_addr_t thread, uint64_t key);
const trace_site_t *sites_at_locked(uint32_t site);
void sites_count_locked(trace_copy_t *out);
/* The block of a code object has ended. Takes the lock. */
void sites_code_died(uintptr_t block);

/* Of all tables that have no owner: held for moments, never while Python or malloc is called. */
void sites_lock(void);
void sites_unlock(void);

static inline rt_addr_t sites_frame(rt_addr_t thread) {
    const sites_quick_t *q = &sites_quick;
    rt_addr_t at = rt_ptr(thread, q->thread_frame);
    return rt_has(q->cframe_frame) && at ? rt_ptr(at, q->cframe_frame) : at;
}

/* This frame, or the nearest below it that is neither a shim between C and Python nor still being set up. */
static inline rt_addr_t sites_complete(rt_addr_t frame, rt_addr_t *instruction) {
    const sites_quick_t *q = &sites_quick;
    for (; frame; frame = rt_ptr(frame, q->frame_previous)) {
        int owner = rt_u8(frame, q->frame_owner);
        if (owner >= q->owned_by_c) continue;
        *instruction = rt_ptr(frame, q->frame_instruction);
        if (owner == q->owned_by_generator) break;
        rt_addr_t code = rt_ptr(frame, q->frame_code) & ~(rt_addr_t)3;
        if (*instruction >= code + (rt_addr_t)q->code_adaptive +
                                2 * (rt_addr_t)rt_i32(code, q->code_first_traceable))
            break;
    }
    return frame;
}

#define SITES_MIX UINT64_C(0x9e3779b97f4a7c15)

/* With one frame and a depth below 2^18 the key is the stack itself; else a fingerprint of 64 bits. */
static inline uint64_t sites_key(rt_addr_t thread, rt_addr_t frame, rt_addr_t instruction) {
    const sites_quick_t *q = &sites_quick;
    const bool counted = rt_has(q->depth_remaining);
    uint64_t key = instruction >> 1, depth;
    uint32_t n = 1, walk = counted ? q->frames_max : UINT32_MAX;
    while (n < walk) {
        frame = sites_complete(rt_ptr(frame, q->frame_previous), &instruction);
        if (!frame) break;
        if (n++ < q->frames_max) key = (key ^ key >> 32) * SITES_MIX + instruction;
    }
    depth = counted
                ? (uint32_t)(rt_i32(thread, q->depth_limit) - rt_i32(thread, q->depth_remaining))
                : n;
    return q->frames_max == 1 && depth < 1u << SITES_DEPTH_BITS
               ? key | depth << (64 - SITES_DEPTH_BITS)
               : (key ^ key >> 32) * SITES_MIX + depth;
}

/* The caller holds the one GIL. thread may be 0. */
static inline uint32_t sites_here(rt_addr_t thread) {
    sites_quick_t *q = &sites_quick;
    rt_addr_t instruction, frame = thread ? sites_complete(sites_frame(thread), &instruction) : 0;
    if (!frame) return 0;
    uint64_t key = sites_key(thread, frame, instruction);
    const sites_known_t *known = &q->cache[(key * SITES_MIX) >> (64 - SITES_CACHE_BITS)];
    if (__builtin_expect(known->key == key && known->epoch == q->epoch, 1)) return known->site;
    return sites_here_slow(thread, key);
}

#endif
