#define _GNU_SOURCE
#include "agent/alloc/alloc_stack.h"

#include "agent/alloc/alloc_index.h"
#include "agent/alloc/alloc_store.h"
#include "agent/alloc/alloc_unwind.h"
#include "agent/heap/py_text.h"
#include "base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

enum { DEPTH_MAX = 512, WALKERS = 64, PLACES = 1 << 17 };
enum { TEXT_BYTES = 4096 }; /* of a name or path: what a region's texts take at most */
enum { STEPS = 2048, STEP_BITS = 11, SEARCH_MOST = 4 };

/* A place in code. The pointers to its names tell a code object from another that came to lie at its address. In C: the
 * return address, the state of what is loaded (alloc_unwind.h), and 0. */
typedef struct place {
    rt_addr_t instruction, filename, qualname;
    rt_addr_t code; /* not compared */
} place_t;

/* Room for one walk. On the caller's stack it could be too much: threads with 16 KiB allocate, too. */
typedef struct walker {
    _Atomic uint32_t taken;
    uint32_t depth;
    place_t places[DEPTH_MAX]; /* leaf first */
    char text[TEXT_BYTES];
} walker_t;

/* What a walk needs beside where frames of C are told, too. */
typedef struct native {
    /* Of a place: where on the C stack the interpreter has what belongs to the run of frames that ends with it; or 0. */
    uintptr_t anchors[DEPTH_MAX];
    place_t python[DEPTH_MAX];
    unwind_walk_t c;
} native_t;

typedef struct known_place {
    place_t place;
    uint32_t frame;
} known_place_t;

/* A frame as it was at the last walk of who held the only GIL. */
typedef struct last_frame {
    rt_addr_t frame, instruction;
    uint32_t stack; /* number + 1; of a shim its caller's, or 0 */
} last_frame_t;

/* With frames of C, or too deep for the above: the same of places, outermost first. */
typedef struct last_place {
    place_t place;
    uint32_t stack; /* number + 1 */
} last_place_t;

/* Which stack a place makes of another. For who holds the only GIL. */
typedef struct step {
    place_t place;
    uint32_t parent, stack;
} step_t;

static struct {
    const rt_t *rt;
    rt_addr_t interpreters, main_interpreter; /* of 3.11: where the list begins, and its last */
    walker_t *walkers;
    native_t *natives; /* one a walker, or NULL */
    known_place_t *known;
    _Atomic uint32_t known_count;
    alloc_index_t by_place;
    step_t *steps;
    last_frame_t *last; /* outermost first */
    last_place_t *last_places;
    uint32_t last_depth, last_place_depth;
} stack;

#define WALKERS_BYTES ((WALKERS + 1) * sizeof(walker_t))
#define NATIVES_BYTES ((WALKERS + 1) * sizeof(native_t))
#define KNOWN_BYTES   (PLACES * sizeof(known_place_t))
#define STEPS_BYTES   (STEPS * sizeof(step_t))
#define LAST_BYTES    (DEPTH_MAX * (sizeof(last_frame_t) + sizeof(last_place_t)))

bool stack_open(const rt_t *rt, bool native) {
    memset(&stack, 0, sizeof stack);
    stack.rt = rt;
    if (rt->minor == 11 && rt->_PyThreadState_UncheckedGet) {
        stack.interpreters = rt->runtime + (rt_addr_t)rt->layout->runtime_interpreters_head;
        stack.main_interpreter = rt_ptr(rt->runtime, rt->layout->runtime_interpreters_main);
    }
    stack.walkers = mem_map(WALKERS_BYTES);
    if (native) stack.natives = mem_map(NATIVES_BYTES);
    stack.known = mem_map(KNOWN_BYTES);
    stack.steps = mem_map(STEPS_BYTES);
    stack.last = mem_map(LAST_BYTES);
    if (stack.walkers && (stack.natives || !native) && stack.known && stack.steps && stack.last &&
        index_open(&stack.by_place, INDEX_LEVELS)) {
        stack.last_places = (last_place_t *)(stack.last + DEPTH_MAX);
        return true;
    }
    stack_close();
    return false;
}

void stack_close(void) {
    mem_unmap(stack.walkers, WALKERS_BYTES);
    mem_unmap(stack.natives, NATIVES_BYTES);
    mem_unmap(stack.known, KNOWN_BYTES);
    mem_unmap(stack.steps, STEPS_BYTES);
    mem_unmap(stack.last, LAST_BYTES);
    if (stack.by_place.slots) index_close(&stack.by_place);
    memset(&stack, 0, sizeof stack);
}

/* ── Walking ── */

/* The state that runs where there are several interpreters; in 3.11 a thread is only known by the first that it had. Whether what runs is
 * this thread must be asked without a fault: that of another thread may go at any moment. */
static __attribute__((noinline)) rt_addr_t thread_entered(const rt_t *rt, rt_addr_t own) {
    const int error = errno;
    uint64_t ident = 0;
    rt_addr_t now = (rt_addr_t)rt->_PyThreadState_UncheckedGet();
    if (!now || now == own ||
        rt_peek(now + (rt_addr_t)rt->layout->thread_ident, &ident, sizeof ident) ||
        ident != (uint64_t)pthread_self() || now != (rt_addr_t)rt->_PyThreadState_UncheckedGet())
        now = own;
    errno = error;
    return now;
}

static inline rt_addr_t thread_here(const rt_t *rt) {
    rt_addr_t own = (rt_addr_t)rt->PyGILState_GetThisThreadState();
    return own && stack.interpreters && rt_ptr(stack.interpreters, 0) != stack.main_interpreter
               ? thread_entered(rt, own)
               : own;
}

static rt_addr_t frame_first(const rt_t *rt) {
    const layout_t *l = rt->layout;
    rt_addr_t thread = thread_here(rt);
    if (!thread) return 0;
    if (rt_has(l->thread_current_frame)) return rt_ptr(thread, l->thread_current_frame);
    rt_addr_t cframe = rt_ptr(thread, l->thread_cframe);
    return cframe ? rt_ptr(cframe, l->cframe_current_frame) : 0;
}

/* false: a shim between C and Python, or a frame that is still being set up. */
static inline bool frame_place(const rt_t *rt, rt_addr_t frame, place_t *out) {
    const layout_t *l = rt->layout;
    uint8_t owner = rt_u8(frame, l->iframe_owner);
    if (rt_has(l->frame_owned_by_c) && owner >= l->frame_owned_by_c) return false;
    out->code = rt_ptr(frame, l->iframe_code) & ~(rt_addr_t)3;
    if (!out->code || rt_type(rt, out->code) != rt->types.code) return false;
    out->instruction = rt_ptr(frame, l->iframe_instruction);
    int64_t unit =
        (int64_t)(out->instruction - out->code - (rt_addr_t)(int64_t)l->code_adaptive) / 2;
    if (owner != l->frame_owned_by_generator && unit < rt_i32(out->code, l->code_first_traceable))
        return false;
    out->filename = rt_ptr(out->code, l->code_filename);
    out->qualname = rt_ptr(out->code, l->code_qualname);
    return true;
}

static void walk_python(const rt_t *rt, walker_t *w) {
    w->depth = 0;
    for (rt_addr_t f = frame_first(rt); f && w->depth < DEPTH_MAX;
         f = rt_ptr(f, rt->layout->iframe_previous))
        w->depth += frame_place(rt, f, &w->places[w->depth]);
}

/* ── With frames of C ──
 *
 * One call of the interpreter's loop runs Python functions that call each other: a run of frames. In that call's C frame lies
 * the shim that ends the run (3.11: its _PyCFrame). So the C frame that holds this address stands for the run, whatever the
 * interpreter's functions are called. */

static void run_ends(const walker_t *w, native_t *n, uintptr_t anchor) {
    if (w->depth && !n->anchors[w->depth - 1]) n->anchors[w->depth - 1] = anchor;
}

static void walk_runs(const rt_t *rt, walker_t *w, native_t *n) {
    const layout_t *l = rt->layout;
    const bool shims = rt_has(l->frame_owned_by_c);
    rt_addr_t thread = thread_here(rt);
    rt_addr_t cframe = thread && !shims ? rt_ptr(thread, l->thread_cframe) : 0;
    w->depth = 0;
    for (rt_addr_t f = frame_first(rt); f && w->depth < DEPTH_MAX;
         f = rt_ptr(f, l->iframe_previous)) {
        rt_addr_t outer = cframe ? rt_ptr(cframe, l->cframe_previous) : 0;
        if (outer && rt_ptr(outer, l->cframe_current_frame) == f) {
            run_ends(w, n, cframe);
            cframe = outer;
        }
        if (shims && rt_u8(f, l->iframe_owner) >= l->frame_owned_by_c) run_ends(w, n, f);
        n->anchors[w->depth] = 0;
        w->depth += frame_place(rt, f, &w->places[w->depth]);
    }
    if (cframe) run_ends(w, n, cframe);
}

/* Leaf first, runs of Python frames in the place of the interpreter's. What called the outermost Python frame is the same for all,
 * and left out. */
static void merge(walker_t *w, native_t *n) {
    const uint32_t python = w->depth;
    uint32_t next = 0, end = 0, depth = 0;
    memcpy(n->python, w->places, python * sizeof *n->python);
    for (size_t i = 0; i < n->c.count && depth < DEPTH_MAX && (next < python || !python); i++) {
        const unwind_frame_t *f = &n->c.frames[i];
        while (end < python && !n->anchors[end]) end++;
        if (end < python && n->anchors[end] - f->sp < f->cfa - f->sp) {
            for (end++; next < end && depth < DEPTH_MAX; next++)
                w->places[depth++] = n->python[next];
            next = end;
        } else {
            w->places[depth++] = (place_t){.instruction = f->pc, .filename = unwind_generation()};
        }
    }
    for (; next < python && depth < DEPTH_MAX; next++) w->places[depth++] = n->python[next];
    w->depth = depth;
}

static void walk(const rt_t *rt, walker_t *w) {
    if (!stack.natives) {
        walk_python(rt, w);
        return;
    }
    const int error = errno;
    native_t *n = &stack.natives[w - stack.walkers];
    walk_runs(rt, w, n);
    unwind_here(&n->c);
    merge(w, n);
    errno = error;
}

/* ── Naming ── */

/* A place to be named, first, and room for its names. */
typedef struct unnamed {
    place_t place;
    char *text;
} unnamed_t;

static uint32_t text_of(const rt_t *rt, rt_addr_t str, char *room) {
    return py_is_str(rt, str) ? store_text(room, py_str_utf8(rt, str, room, TEXT_BYTES)) : 0;
}

static bool place_equal(const place_t *a, const place_t *b) {
    return a->instruction == b->instruction && a->filename == b->filename &&
           a->qualname == b->qualname;
}

static bool place_same(uint32_t number, const void *key) {
    return place_equal(&stack.known[number].place, key);
}

/* The address is that of the call, whose line it is, and not of what follows it. */
static uint32_t native_name(uintptr_t pc) {
    static const char digits[] = "0123456789abcdef";
    region_frame_t frame = {.kind = REGION_FRAME_NATIVE, .offset = pc - 1};
    unwind_library_t library;
    if (unwind_library(pc - 1, &library)) {
        char id[2 * sizeof library.build_id];
        for (size_t i = 0; i < library.build_id_bytes; i++) {
            id[2 * i] = digits[library.build_id[i] >> 4];
            id[2 * i + 1] = digits[library.build_id[i] & 15];
        }
        frame.file = store_text(library.path, strlen(library.path));
        frame.build_id = store_text(id, 2 * library.build_id_bytes);
        frame.offset -= library.base;
    }
    return store_frame(&frame);
}

static uint32_t frame_name(const unnamed_t *u) {
    const place_t *p = &u->place;
    if (!p->qualname) return native_name(p->instruction);
    const rt_t *rt = stack.rt;
    const layout_t *l = rt->layout;
    int64_t unit = (int64_t)(p->instruction - p->code - (rt_addr_t)(int64_t)l->code_adaptive) / 2;
    region_frame_t frame = {.kind = REGION_FRAME_PYTHON,
                            .function = text_of(rt, p->qualname, u->text),
                            .file = text_of(rt, p->filename, u->text),
                            .line = (uint32_t)rt_code_line(rt, p->code, unit),
                            .first_line = (uint32_t)rt_i32(p->code, l->code_firstlineno)};
    return store_frame(&frame);
}

static uint32_t place_make(const void *key) {
    uint32_t at = atomic_fetch_add(&stack.known_count, 1);
    if (at >= PLACES) {
        atomic_store(&stack.known_count, PLACES);
        return INDEX_NONE;
    }
    stack.known[at].place = ((const unnamed_t *)key)->place;
    stack.known[at].frame = frame_name(key);
    return at;
}

static uint32_t frame_of(const place_t *p, walker_t *w) {
    const unnamed_t u = {.place = *p, .text = w->text};
    uint64_t h = index_mix(index_mix(p->instruction, p->filename), p->qualname);
    uint32_t known = index_find(&stack.by_place, h, place_same, place_make, &u);
    return known == INDEX_NONE ? frame_name(&u) : stack.known[known].frame;
}

static uint32_t stack_outside(void) {
    static const char outside[] = "(outside Python)";
    region_frame_t frame = {.kind = REGION_FRAME_OTHER,
                            .function = store_text(outside, sizeof outside - 1)};
    return store_stack(0, store_frame(&frame));
}

/* ── Asking ── */

uint32_t stack_here(void) {
    for (int i = 0; i < WALKERS; i++) {
        walker_t *w = &stack.walkers[i];
        uint32_t free_now = 0;
        if (!atomic_compare_exchange_strong(&w->taken, &free_now, 1)) continue;
        walk(stack.rt, w);
        uint32_t parent = 0;
        for (uint32_t n = w->depth; n-- > 0;)
            parent = store_stack(parent, frame_of(&w->places[n], w)) + 1;
        atomic_store_explicit(&w->taken, 0, memory_order_release);
        return parent ? parent - 1 : stack_outside();
    }
    return 0;
}

/* ── Asking often ──
 *
 * From one allocation to the next little changes: the instruction of the innermost frame, or some frames at the inner end. So the
 * frames are only compared with those of the last walk, by their address and that of the instruction, and named where they differ.
 * The same instruction is the same code: the making of another one at its address was an allocation, at which the old code was
 * in no frame any more. */

static uint32_t step(uint32_t parent, const place_t *p) {
    uint64_t h = (p->instruction ^ (uint64_t)parent << 20) * 0x9e3779b97f4a7c15ull;
    step_t *s = &stack.steps[h >> (64 - STEP_BITS)];
    if (s->parent != parent || !place_equal(&s->place, p)) {
        s->stack = store_stack(parent, frame_of(p, &stack.walkers[WALKERS])) + 1;
        s->place = *p;
        s->parent = parent;
    }
    return s->stack;
}

static void last_set(uint32_t n, rt_addr_t frame) {
    const layout_t *at = stack.rt->layout;
    last_frame_t *l = &stack.last[n];
    place_t place;
    *l = (last_frame_t){.frame = frame,
                        .instruction = rt_ptr(frame, at->iframe_instruction),
                        .stack = n ? stack.last[n - 1].stack : 0};
    if (frame_place(stack.rt, frame, &place)) l->stack = step(l->stack, &place);
}

/* How many of the last frames, from the outermost, end with `frame`; 0: it is not among the innermost of them. */
static inline uint32_t last_find(rt_addr_t frame) {
    uint32_t depth = stack.last_depth, search = depth < SEARCH_MOST ? depth : SEARCH_MOST;
    for (uint32_t i = 0; i < search; i++)
        if (stack.last[depth - 1 - i].frame == frame) return depth - i;
    return 0;
}

/* Are the first `depth` of the last frames still the callers of the last of them? *same: as many have not moved. */
static inline bool last_holds(uint32_t depth, uint32_t *same) {
    const int32_t instruction = stack.rt->layout->iframe_instruction;
    const int32_t previous = stack.rt->layout->iframe_previous;
    const last_frame_t *l = &stack.last[depth - 1];
    uint32_t moved = 0; /* the outermost that has, + 1 */
    for (uint32_t n = depth; n > 1; n--, l--) {
        if (rt_ptr(l->frame, instruction) != l->instruction) moved = n;
        if (rt_ptr(l->frame, previous) != l[-1].frame) return false;
    }
    if (rt_ptr(l->frame, instruction) != l->instruction) moved = 1;
    *same = moved ? moved - 1 : depth;
    return rt_ptr(l->frame, previous) == 0;
}

/* false: it is too deep for that. */
static bool last_follow(rt_addr_t first) {
    const layout_t *at = stack.rt->layout;
    rt_addr_t fresh[DEPTH_MAX];
    uint32_t count = 0, depth = 0, same = 0;
    for (rt_addr_t f = first; f; f = rt_ptr(f, at->iframe_previous)) {
        if ((depth = last_find(f)) && last_holds(depth, &same)) break;
        stack.last_depth = depth ? 0 : stack.last_depth; /* it is found, but came by another way */
        depth = 0;
        if (count == DEPTH_MAX) return false;
        fresh[count++] = f;
    }
    if (depth + count > DEPTH_MAX) return false;
    for (; same < depth; same++) last_set(same, stack.last[same].frame);
    while (count > 0) last_set(depth++, fresh[--count]);
    stack.last_depth = depth;
    return true;
}

/* Number + 1, or 0. */
static uint32_t walk_whole(void) {
    walker_t *w = &stack.walkers[WALKERS];
    last_place_t *last = stack.last_places;
    walk(stack.rt, w);
    uint32_t same = 0, depth = w->depth;
    while (same < depth && same < stack.last_place_depth &&
           place_equal(&last[same].place, &w->places[depth - 1 - same]))
        same++;
    for (; same < depth; same++) {
        last[same].place = w->places[depth - 1 - same];
        last[same].stack = step(same ? last[same - 1].stack : 0, &last[same].place);
    }
    stack.last_place_depth = depth;
    return depth ? last[depth - 1].stack : 0;
}

/* Only read where somebody is alone: then nobody is here. */
void stack_forget(void) {
    __atomic_store_n(&stack.last_depth, 0, __ATOMIC_RELAXED);
}

uint32_t stack_here_alone(void) {
    uint32_t found;
    if (!stack.natives && last_follow(frame_first(stack.rt))) {
        found = stack.last_depth ? stack.last[stack.last_depth - 1].stack : 0;
    } else {
        stack.last_depth = 0;
        found = walk_whole();
    }
    return found ? found - 1 : stack_outside();
}
