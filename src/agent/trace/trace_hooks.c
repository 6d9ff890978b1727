#define _GNU_SOURCE
#include "agent/trace/trace_hooks.h"

#include "agent/runtime/allocators.h"
#include "agent/trace/trace_blocks.h"
#include "agent/trace/trace_sites.h"

#include <errno.h>

hooks_sums_t hooks_sums;
__thread bool hooks_muted __attribute__((tls_model("initial-exec")));

/* Read by hooks without the GIL (raw): never changed while they are in. */
static allocator_t real[DOMAINS];
static bool hooked[DOMAINS];

static const rt_t *hooks_rt;
static rt_addr_t interpreters,
    main_interpreter; /* where the list of all begins; what it holds while there is one */

/* This thread has come by a hook of ours that counted nothing. */
static __thread bool passed __attribute__((tls_model("initial-exec")));

/* Just made, and not yet told of by CPython as a new object. */
static uintptr_t newborn;

#define LOAD(sum)         atomic_load_explicit(&hooks_sums.sum, memory_order_relaxed)
#define STORE(sum, value) atomic_store_explicit(&hooks_sums.sum, value, memory_order_relaxed)

static inline bool alone(int d) {
    return d != RAW && __builtin_expect(rt_ptr(interpreters, 0) == main_interpreter, 1);
}

/* ── The sums ── */

static inline void alone_add(int64_t bytes) {
    int64_t mine = LOAD(alone_bytes) + bytes, both = mine + LOAD(shared_bytes);
    STORE(alone_bytes, mine);
    if (both > LOAD(alone_peak)) STORE(alone_peak, both);
}

void hooks_add_locked(int64_t bytes) {
    int64_t mine = LOAD(shared_bytes) + bytes, both = mine + LOAD(alone_bytes);
    STORE(shared_bytes, mine);
    if (both > LOAD(shared_peak)) STORE(shared_peak, both);
}

static void miss(void) {
    atomic_fetch_add_explicit(&hooks_sums.missed, 1, memory_order_relaxed);
}

/* ── A block's end ── */

static __attribute__((noinline)) uint64_t end_shared(uint32_t *word) {
    sites_lock();
    uint64_t bytes = 0;
    if (LOAD(on) && *word) {
        bytes = blocks_take(word);
        hooks_add_locked(-(int64_t)bytes);
    }
    sites_unlock();
    return bytes;
}

/* What was known, for a realloc that fails. */
typedef struct ended {
    uint32_t *word; /* NULL: nothing */
    uint64_t bytes;
    uint32_t site;
} ended_t;

static inline ended_t end(int d, void *block) {
    uint32_t *word = blocks_word((uintptr_t)block), seen = word ? *word : 0;
    ended_t e = {NULL, 0, 0};
    if (!seen) return e;
    if (blocks_is_traced(seen)) e = (ended_t){word, 0, blocks_site(seen)};
    if (alone(d)) {
        e.bytes = blocks_take(word);
        STORE(alone_bytes, LOAD(alone_bytes) - (int64_t)e.bytes);
    } else {
        e.bytes = end_shared(word);
    }
    if (__builtin_expect(seen & BLOCKS_WATCHED, 0)) sites_code_died((uintptr_t)block);
    return e;
}

/* ── A block's begin ── */

static void put(uint32_t *word, uint64_t bytes, uint32_t site, bool is_alone) {
    blocks_put(word, bytes, site);
    if (is_alone)
        alone_add((int64_t)bytes);
    else
        hooks_add_locked((int64_t)bytes);
}

static __attribute__((noinline)) void begin_shared(int d, void *block, size_t bytes) {
    bool watched = false;
    sites_lock();
    if (LOAD(on)) {
        rt_addr_t thread = (rt_addr_t)(d == RAW ? hooks_rt->PyGILState_GetThisThreadState()
                                                : sites_quick.thread_now());
        uint32_t *word = blocks_word((uintptr_t)block), site = sites_make_locked(thread);
        if (!word) word = blocks_make((uintptr_t)block);
        if (word && *word) { /* its end was missed */
            watched = *word & BLOCKS_WATCHED;
            hooks_add_locked(-(int64_t)blocks_take(word));
        }
        if (word && site != SITES_NONE)
            put(word, bytes, site, false);
        else
            miss();
    }
    sites_unlock();
    if (watched) sites_code_died((uintptr_t)block);
}

static inline void begin(int d, void *block, size_t bytes) {
    if (!alone(d)) {
        begin_shared(d, block, bytes);
        return;
    }
    uint32_t site = sites_here((rt_addr_t)sites_quick.thread_now());
    uint32_t *word = blocks_word((uintptr_t)block);
    if (__builtin_expect(!word, 0)) word = blocks_make((uintptr_t)block);
    if (__builtin_expect(!word || site == SITES_NONE, 0)) {
        miss();
        return;
    }
    if (__builtin_expect(*word != 0, 0)) end(d, block); /* its end was missed */
    put(word, bytes, site, true);
    newborn = (uintptr_t)block;
}

static void begin_again(int d, const ended_t *e) {
    if (!e->word) return;
    bool is_alone = alone(d);
    if (!is_alone) sites_lock();
    if (LOAD(on)) put(e->word, e->bytes, e->site, is_alone);
    if (!is_alone) sites_unlock();
}

/* ── The hooks ──
 *
 * The context goes on to the real allocator unchanged, for a thread may read an allocator while it is being exchanged. */

static inline void *traced_malloc(int d, void *ctx, size_t bytes) {
    if (hooks_muted || !LOAD(on)) {
        passed = true;
        return real[d].malloc(ctx, bytes);
    }
    hooks_muted = true;
    void *p = real[d].malloc(ctx, bytes);
    if (p) begin(d, p, bytes);
    hooks_muted = false;
    return p;
}

static inline void *traced_calloc(int d, void *ctx, size_t n, size_t each) {
    if (hooks_muted || !LOAD(on)) return real[d].calloc(ctx, n, each);
    hooks_muted = true;
    void *p = real[d].calloc(ctx, n, each);
    if (p) begin(d, p, n * each);
    hooks_muted = false;
    return p;
}

/* The old block's record goes first: once it is free, another thread may have its place. */
static inline void *traced_realloc(int d, void *ctx, void *old, size_t bytes) {
    if (!LOAD(on)) return real[d].realloc(ctx, old, bytes);
    const bool muted = hooks_muted;
    ended_t ended = {NULL, 0, 0};
    if (old) ended = end(d, old);
    hooks_muted = true;
    void *p = real[d].realloc(ctx, old, bytes);
    if (!p)
        begin_again(d, &ended);
    else if (!muted)
        begin(d, p, bytes);
    hooks_muted = muted;
    return p;
}

static inline void traced_free(int d, void *ctx, void *p) {
    if (p && LOAD(on)) end(d, p);
    real[d].free(ctx, p);
}

/* One function a domain, so that none has to look up which it is. */
#define HOOKS(name, d)                                                                             \
    static void *name##_malloc(void *ctx, size_t bytes) {                                          \
        return traced_malloc(d, ctx, bytes);                                                       \
    }                                                                                              \
    static void *name##_calloc(void *ctx, size_t n, size_t each) {                                 \
        return traced_calloc(d, ctx, n, each);                                                     \
    }                                                                                              \
    static void *name##_realloc(void *ctx, void *old, size_t bytes) {                              \
        return traced_realloc(d, ctx, old, bytes);                                                 \
    }                                                                                              \
    static void name##_free(void *ctx, void *p) {                                                  \
        traced_free(d, ctx, p);                                                                    \
    }
#define HOOKS_OF(name)                                                                             \
    { NULL, name##_malloc, name##_calloc, name##_realloc, name##_free }

HOOKS(raw, RAW)
HOOKS(mem, MEM)
HOOKS(object, OBJECT)

static const allocator_t hooks[DOMAINS] = {HOOKS_OF(raw), HOOKS_OF(mem), HOOKS_OF(object)};

/* ── Objects from free lists ──
 *
 * CPython tells of each new object (3.13 and later): one whose block was not made just now has come from a free list, and is
 * this line's from here on. */

static int object_is_new(void *object, int event, void *unused) {
    (void)unused;
    if (event != 0 || hooks_muted || !LOAD(on)) return 0;
    uintptr_t block = trace_block_of(hooks_rt, object);
    bool just_made = block == newborn;
    newborn = 0;
    uint32_t *word = just_made ? NULL : blocks_word(block);
    if (!word || !blocks_is_traced(*word)) return 0;
    if (alone(OBJECT)) {
        uint32_t site = sites_here((rt_addr_t)sites_quick.thread_now());
        if (site != SITES_NONE) blocks_set_site(word, site);
        return 0;
    }
    sites_lock();
    uint32_t site = sites_make_locked((rt_addr_t)sites_quick.thread_now());
    if (LOAD(on) && blocks_is_traced(*word) && site != SITES_NONE) blocks_set_site(word, site);
    sites_unlock();
    return 0;
}

/* Who was there first keeps the place: there is one. */
static void objects_in(const rt_t *rt) {
    void *data;
    if (rt->PyRefTracer_SetTracer && rt->PyRefTracer_GetTracer && !rt->PyRefTracer_GetTracer(&data))
        rt->PyRefTracer_SetTracer(object_is_new, NULL);
}

static void objects_out(const rt_t *rt) {
    void *data, *now = rt->PyRefTracer_GetTracer ? rt->PyRefTracer_GetTracer(&data) : NULL;
    int (*ours)(void *, int, void *) = object_is_new;
    if (now && memcmp(&now, &ours, sizeof now) == 0) rt->PyRefTracer_SetTracer(NULL, NULL);
}

/* ── In and out ── */

/* Others may have put hooks over ours, or have put back what was there before us: an allocation shows whether it comes by. */
static bool is_in(const allocator_t *now) {
    const bool muted = trace_mute(true);
    passed = false;
    now->free(now->ctx, now->malloc(now->ctx, 1));
    trace_mute(muted);
    return passed;
}

int hooks_in(const rt_t *rt, err_t *e) {
    if (!rt->PyMem_SetAllocator || !rt->PyMem_GetAllocator)
        return err_set(e, -ENOSYS, "this Python hides its allocators (no PyMem_SetAllocator)");
    hooks_rt = rt;
    interpreters = rt->runtime + (rt_addr_t)rt->layout->runtime_interpreters_head;
    main_interpreter = rt_ptr(rt->runtime, rt->layout->runtime_interpreters_main);
    for (int d = 0; d < DOMAINS; d++) {
        allocator_t now, ours = hooks[d];
        rt->PyMem_GetAllocator(d, &now);
        if (hooked[d] && is_in(&now)) continue;
        real[d] = now;
        ours.ctx = real[d].ctx;
        rt->PyMem_SetAllocator(d, &ours);
        hooked[d] = true;
    }
    objects_in(rt);
    return 0;
}

void hooks_out(const rt_t *rt) {
    objects_out(rt);
    for (int d = 0; d < DOMAINS; d++) {
        allocator_t now;
        rt->PyMem_GetAllocator(d, &now);
        if (!hooked[d] || now.malloc != hooks[d].malloc) continue;
        rt->PyMem_SetAllocator(d, &real[d]);
        hooked[d] = false;
    }
}
