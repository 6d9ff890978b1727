#define _GNU_SOURCE
#include "agent/alloc/alloc_python.h"

#include "agent/alloc/alloc_count.h"
#include "agent/alloc/alloc_libc.h"
#include "agent/runtime/allocators.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

enum { PYMALLOC_BYTES_MAX = 512 };

/* Read by hooks without the GIL (raw), so never changed while they are in. */
static allocator_t real[DOMAINS];
static arena_allocator_t real_arena;
static bool hooked[DOMAINS];
/* Up to here the real allocator asks nobody else for the block itself. */
static size_t small_bytes;
/* Do small blocks that are sampled lie outside of pymalloc's arenas? ASK: the first who has one finds out. */
static _Atomic enum { ASIDE_NO, ASIDE_YES, ASIDE_ASK } lays_aside;
static const rt_t *python;

static const uint32_t domain_of[DOMAINS] = {REGION_RAW, REGION_MEM, REGION_OBJECT};

static rt_addr_t interpreters,
    main_interpreter; /* where the list of all begins; what it holds while there is one */

/* Does the caller hold the only GIL, and so stand still all that do as it does? Interpreters may have one each (3.12 and later). A new
 * one comes to the list's head while its maker still holds the GIL there was, so no holders of two see "one" at once; and
 * none is let go in a hook. */
static inline bool alone(int d) {
    return d != RAW && __builtin_expect(rt_ptr(interpreters, 0) == main_interpreter, 1);
}

/* Who takes the hooks out holds a GIL: of those who are alone nobody is in a hook then, and they need not be counted. */
static inline void enter(bool is_alone) {
    if (!is_alone) libc_enter();
}
static inline void leave(bool is_alone) {
    if (!is_alone) libc_leave();
}

/* The context goes on to the real allocator unchanged, for a thread may read an allocator while it is being exchanged. */

/* ── Sampled ──
 *
 * What is seldom stands in functions of its own, with the arguments where they are: so the others need no frame, and are ten
 * instructions before the jump to the real allocator: these few nobody counts, as in the hooks of libc's functions (alloc.c says
 * why that will do). */

static __attribute__((noinline)) void *sampled_big(void *ctx, size_t bytes, int d) {
    const bool is_alone = alone(d);
    enter(is_alone);
    int64_t left = count_mute();
    void *p = real[d].malloc(ctx, bytes);
    count_unmute(left);
    if (!count_absurd(bytes) && count_reaches(bytes)) count_sample(p, bytes, domain_of[d]);
    leave(is_alone);
    return p;
}

/* A small block that is to be sampled lies outside of pymalloc's arenas, where one of more than small_bytes lies, so that libc's free
 * sees its end: then pymalloc's own needs no hook. It is asked for as such a block, for pymalloc counts those, and then made
 * smaller. Its caller has muted what lies below. */
static void *aside(int d, void *ctx, void *old, size_t bytes) {
    void *p = real[d].realloc(ctx, old, small_bytes + 1);
    void *less = p ? real[d].realloc(ctx, p, bytes) : NULL;
    return less ? less : p;
}

static bool is_ours(const allocator_t *a, int d);
static void aside_try(void);

static inline bool goes_aside(bool is_alone) {
    if (__builtin_expect(lays_aside == ASIDE_ASK, 0)) {
        lays_aside = ASIDE_NO;
        if (is_alone) aside_try();
    }
    return lays_aside == ASIDE_YES;
}

static __attribute__((noinline)) void *sampled_small(void *ctx, size_t bytes, int d) {
    const bool is_alone = alone(d);
    enter(is_alone);
    const bool is_aside = goes_aside(is_alone);
    int64_t left = count_mute();
    void *p = is_aside ? aside(d, ctx, NULL, bytes) : real[d].malloc(ctx, bytes);
    count_unmute(left);
    if (count_me.left < 0) count_sample(p, bytes, domain_of[d]);
    leave(is_alone);
    return p;
}

static inline void *sampled_malloc(int d, void *ctx, size_t bytes) {
    if (bytes > small_bytes) return sampled_big(ctx, bytes, d);
    if (count_reaches(bytes)) return sampled_small(ctx, bytes, d);
    return real[d].malloc(ctx, bytes);
}

static __attribute__((noinline)) void *sampled_calloc_seldom(void *ctx, size_t n, size_t each,
                                                             int d) {
    const bool is_alone = alone(d);
    const size_t bytes = n * each;
    enter(is_alone);
    const bool reaches = !count_absurd(bytes) && count_reaches(bytes);
    const bool is_aside = reaches && bytes <= small_bytes && goes_aside(is_alone);
    int64_t left = count_mute();
    void *p = is_aside ? aside(d, ctx, NULL, bytes) : real[d].calloc(ctx, n, each);
    count_unmute(left);
    if (is_aside && p) memset(p, 0, bytes);
    if (reaches) count_sample(p, bytes, domain_of[d]);
    leave(is_alone);
    return p;
}

/* Of a small one nothing that the real allocator asks for could count. */
static inline void *sampled_calloc(int d, void *ctx, size_t n, size_t each) {
    size_t bytes;
    if (__builtin_mul_overflow(n, each, &bytes)) return real[d].calloc(ctx, n, each);
    if (bytes > small_bytes || count_would_reach(bytes))
        return sampled_calloc_seldom(ctx, n, each, d);
    count_reaches(bytes);
    return real[d].calloc(ctx, n, each);
}

static __attribute__((noinline)) void *sampled_realloc_seldom(void *ctx, void *old, size_t bytes,
                                                              int d) {
    const bool is_alone = alone(d);
    count_taken_t taken = {0};
    enter(is_alone);
    if (count_may_have(old)) taken = count_take(old);
    const bool reaches = !count_absurd(bytes) && count_reaches(bytes);
    const bool is_aside = reaches && bytes <= small_bytes && goes_aside(is_alone);
    int64_t left = count_mute();
    void *p = is_aside ? aside(d, ctx, old, bytes) : real[d].realloc(ctx, old, bytes);
    count_unmute(left);
    if (!p) count_put_back(old, &taken, is_alone);
    if (reaches) count_sample(p, bytes, domain_of[d]);
    leave(is_alone);
    return p;
}

/* A block of libc's that shrinks to a small one counts there once more: seldom, and of its few bytes. */
static inline void *sampled_realloc(int d, void *ctx, void *old, size_t bytes) {
    if (bytes > small_bytes || count_may_have(old) || count_would_reach(bytes))
        return sampled_realloc_seldom(ctx, old, bytes, d);
    count_reaches(bytes);
    return real[d].realloc(ctx, old, bytes);
}

static __attribute__((noinline)) void sampled_free_known(void *ctx, void *p, int d) {
    const bool is_alone = alone(d);
    enter(is_alone);
    count_take(p);
    leave(is_alone);
    real[d].free(ctx, p);
}

static inline void sampled_free(int d, void *ctx, void *p) {
    if (count_may_have(p))
        sampled_free_known(ctx, p, d);
    else
        real[d].free(ctx, p);
}

/* ── Exact ── */

static inline void *exact_malloc(int d, void *ctx, size_t bytes) {
    if (count_muted()) return real[d].malloc(ctx, bytes);
    const bool is_alone = alone(d);
    enter(is_alone);
    int64_t left = count_mute();
    void *p = real[d].malloc(ctx, bytes);
    count_unmute(left);
    count_born(p, bytes, domain_of[d], is_alone);
    leave(is_alone);
    return p;
}

static inline void *exact_calloc(int d, void *ctx, size_t n, size_t each) {
    if (count_muted()) return real[d].calloc(ctx, n, each);
    const bool is_alone = alone(d);
    enter(is_alone);
    int64_t left = count_mute();
    void *p = real[d].calloc(ctx, n, each);
    count_unmute(left);
    count_born(p, n * each, domain_of[d], is_alone);
    leave(is_alone);
    return p;
}

static inline void *exact_realloc(int d, void *ctx, void *old, size_t bytes) {
    if (count_muted()) return real[d].realloc(ctx, old, bytes);
    const bool is_alone = alone(d);
    enter(is_alone);
    count_taken_t taken = count_died(old, is_alone);
    int64_t left = count_mute();
    void *p = real[d].realloc(ctx, old, bytes);
    count_unmute(left);
    if (p)
        count_born(p, bytes, domain_of[d], is_alone);
    else
        count_put_back(old, &taken, is_alone);
    leave(is_alone);
    return p;
}

static inline void exact_free(int d, void *ctx, void *p) {
    const bool is_alone = alone(d);
    enter(is_alone);
    count_died(p, is_alone);
    leave(is_alone);
    real[d].free(ctx, p);
}

/* One function a domain, so that none has to look up which it is. */
#define HOOKS(kind, name, d)                                                                       \
    static void *kind##_malloc_##name(void *ctx, size_t bytes) {                                   \
        return kind##_malloc(d, ctx, bytes);                                                       \
    }                                                                                              \
    static void *kind##_calloc_##name(void *ctx, size_t n, size_t each) {                          \
        return kind##_calloc(d, ctx, n, each);                                                     \
    }                                                                                              \
    static void *kind##_realloc_##name(void *ctx, void *old, size_t bytes) {                       \
        return kind##_realloc(d, ctx, old, bytes);                                                 \
    }                                                                                              \
    static void kind##_free_##name(void *ctx, void *p) {                                           \
        kind##_free(d, ctx, p);                                                                    \
    }
#define HOOKS_OF(kind, name)                                                                       \
    { NULL, kind##_malloc_##name, kind##_calloc_##name, kind##_realloc_##name, kind##_free_##name }

HOOKS(sampled, mem, MEM)
HOOKS(sampled, object, OBJECT)
HOOKS(exact, raw, RAW)
HOOKS(exact, mem, MEM)
HOOKS(exact, object, OBJECT)

/* In sampled mode raw's blocks count in malloc. */
static const allocator_t sampled_hooks[DOMAINS] = {
    [MEM] = HOOKS_OF(sampled, mem), [OBJECT] = HOOKS_OF(sampled, object)};
static const allocator_t exact_hooks[DOMAINS] = {
    [RAW] = HOOKS_OF(exact, raw), [MEM] = HOOKS_OF(exact, mem), [OBJECT] = HOOKS_OF(exact, object)};

/* ── Arenas ──
 *
 * Where small blocks lie. They count one by one, so their arenas do not. Seldom asked for, and by holders of any GIL or, where an
 * interpreter ends, of none: so whoever is here is counted. */

static void *arena_alloc(void *ctx, size_t bytes) {
    libc_enter();
    int64_t left = count_mute();
    void *p = real_arena.alloc(ctx, bytes);
    count_unmute(left);
    libc_leave();
    return p;
}

static void arena_free(void *ctx, void *p, size_t bytes) {
    libc_enter();
    int64_t left = count_mute();
    real_arena.free(ctx, p, bytes);
    count_unmute(left);
    libc_leave();
}

/* ── In and out ── */

int python_hook(const rt_t *rt, enum region_mode mode, err_t *e) {
    if (!rt->PyMem_SetAllocator || !rt->PyMem_GetAllocator || !rt->PyObject_SetArenaAllocator ||
        !rt->PyObject_GetArenaAllocator || !rt->_PyMem_GetCurrentAllocatorName)
        return err_set(e, -ENOSYS, "this Python hides its allocators (no PyMem_SetAllocator)");
    interpreters = rt->runtime + (rt_addr_t)rt->layout->runtime_interpreters_head;
    main_interpreter = rt_ptr(rt->runtime, rt->layout->runtime_interpreters_main);
    const char *name = rt->_PyMem_GetCurrentAllocatorName();
    bool is_malloc = name && strcmp(name, "malloc") == 0;
    small_bytes = name && strcmp(name, "pymalloc") == 0 ? PYMALLOC_BYTES_MAX : 0;
    lays_aside = ASIDE_NO;
    python = rt;
    const allocator_t *hooks = mode == REGION_EXACT ? exact_hooks : sampled_hooks;
    for (int d = 0; d < DOMAINS; d++) {
        hooked[d] = hooks[d].malloc && (mode == REGION_EXACT || !is_malloc);
        rt->PyMem_GetAllocator(d, &real[d]);
    }
    for (int d = 0; d < DOMAINS; d++) {
        allocator_t ours = hooks[d];
        ours.ctx = real[d].ctx;
        if (hooked[d]) rt->PyMem_SetAllocator(d, &ours);
    }
    rt->PyObject_GetArenaAllocator(&real_arena);
    rt->PyObject_SetArenaAllocator(&(arena_allocator_t){real_arena.ctx, arena_alloc, arena_free});
    return 0;
}

static bool libc_sees_end(int d) {
    int64_t left = count_mute();
    void *p = real[d].malloc(real[d].ctx, small_bytes + 1);
    if (p) count_await(p);
    if (p) real[d].free(real[d].ctx, p);
    count_unmute(left);
    return p && !count_awaits();
}

static bool is_ours(const allocator_t *a, int d) {
    return a->malloc == sampled_hooks[d].malloc || a->malloc == exact_hooks[d].malloc;
}

/* The caller has a thread state, and is alone. */
static void aside_try(void) {
    allocator_t now[DOMAINS];
    for (int d = 0; d < DOMAINS; d++) {
        python->PyMem_GetAllocator(d, &now[d]);
        if (hooked[d] && (!is_ours(&now[d], d) || !libc_sees_end(d))) return;
    }
    for (int d = 0; d < DOMAINS; d++) {
        now[d].free = real[d].free;
        if (hooked[d]) python->PyMem_SetAllocator(d, &now[d]);
    }
    lays_aside = ASIDE_YES;
}

void python_trust_libc(void) {
    if (!small_bytes || !alone(MEM)) return;
    /* From 3.12 on pymalloc finds its arenas by the calling thread's state. */
    if (python->no_thread)
        lays_aside = ASIDE_ASK;
    else
        aside_try();
}

bool python_unhookable(const rt_t *rt) {
    arena_allocator_t arena;
    rt->PyObject_GetArenaAllocator(&arena);
    for (int d = 0; d < DOMAINS; d++) {
        allocator_t now;
        rt->PyMem_GetAllocator(d, &now);
        if (hooked[d] && !is_ours(&now, d)) return false;
    }
    return arena.alloc == arena_alloc;
}

void python_unhook(const rt_t *rt) {
    for (int d = 0; d < DOMAINS; d++)
        if (hooked[d]) rt->PyMem_SetAllocator(d, &real[d]);
    rt->PyObject_SetArenaAllocator(&real_arena);
}
