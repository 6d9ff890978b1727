#define _GNU_SOURCE
#include "agent/trace/trace_sites.h"

#include "agent/heap/py_text.h"
#include "agent/trace/trace_blocks.h"
#include "base/arena.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/vec.h"

#include <pthread.h>

#define NOBODY UINT32_MAX

/* A place's instruction, by address. Those of one code object are linked, and so are those that are free. */
typedef struct instruction {
    rt_addr_t address; /* 0: forgotten */
    uint32_t place, next;
} instruction_t;

VEC_DEFINE(instruction_vec, instruction_t);
VEC_DEFINE(file_vec, const trace_file_t *);
VEC_DEFINE(place_vec, const trace_place_t *);
VEC_DEFINE(site_vec, const trace_site_t *);

sites_quick_t sites_quick;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct {
    const rt_t *rt;
    rt_addr_t code_before; /* bytes of a code object's block in front of it */
    const trace_place_t **stack;
    size_t stack_bytes;
    arena_t arena;
    file_vec_t files;
    place_vec_t places;
    site_vec_t sites; /* the first: outside Python */
    instruction_vec_t instructions;
    uint32_t instructions_free;
    map_t by_name, by_place, by_stack; /* hashes; of places file and line */
    map_t by_instruction, by_code;
} sites;

static void lock_before_fork(void) {
    pthread_mutex_lock(&lock);
}

void sites_lock(void) {
    pthread_mutex_lock(&lock);
}

void sites_unlock(void) {
    pthread_mutex_unlock(&lock);
}

/* ── In and out ── */

static void quick_open(const rt_t *rt, uint32_t frames_max) {
    const layout_t *l = rt->layout;
    sites_quick_t *q = &sites_quick;
    const bool direct = rt_has(l->thread_current_frame);
    q->thread_frame = direct ? l->thread_current_frame : l->thread_cframe;
    q->cframe_frame = direct ? LAYOUT_ABSENT : l->cframe_current_frame;
    q->frame_code = l->iframe_code;
    q->frame_previous = l->iframe_previous;
    q->frame_instruction = l->iframe_instruction;
    q->frame_owner = l->iframe_owner;
    q->code_first_traceable = l->code_first_traceable;
    q->code_adaptive = l->code_adaptive;
    q->depth_limit = l->thread_recursion_limit;
    q->depth_remaining = l->thread_recursion_remaining;
    q->owned_by_c = rt_has(l->frame_owned_by_c) ? l->frame_owned_by_c : UINT8_MAX + 1;
    q->owned_by_generator = l->frame_owned_by_generator;
    q->frames_max = frames_max;
    q->thread_now = rt->PyThreadState_GetUnchecked ? rt->PyThreadState_GetUnchecked
                                                   : rt->_PyThreadState_UncheckedGet;
    if (!q->thread_now) q->thread_now = rt->PyGILState_GetThisThreadState;
    q->epoch++;
}

bool sites_open(const rt_t *rt, uint32_t frames_max, bool keep) {
    static bool forks;
    if (!forks) forks = pthread_atfork(lock_before_fork, sites_unlock, sites_unlock) == 0;
    sites.rt = rt;
    sites.code_before = rt_type_flags(rt, rt->types.code) & RT_TPFLAGS_HAVE_GC
                            ? (rt_addr_t)rt->layout->gc_head_size
                            : 0;
    mem_unmap((void *)sites.stack, sites.stack_bytes);
    sites.stack_bytes = frames_max * sizeof *sites.stack;
    sites.stack = mem_map(sites.stack_bytes);
    quick_open(rt, frames_max);
    sites_clear(keep);
    return forks && sites.stack && sites_make_locked(0) == 0;
}

void sites_clear(bool keep) {
    if (!keep) arena_free(&sites.arena);
    file_vec_free(&sites.files);
    place_vec_free(&sites.places);
    site_vec_free(&sites.sites);
    instruction_vec_free(&sites.instructions);
    sites.instructions_free = NOBODY;
    map_t *maps[] = {&sites.by_name, &sites.by_place, &sites.by_stack, &sites.by_instruction,
                     &sites.by_code};
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) map_free(maps[i]);
    sites_quick.epoch++;
}

size_t sites_own_bytes(void) {
    return sites.arena.bytes + sites.stack_bytes + map_bytes(&sites.by_name) +
           map_bytes(&sites.by_place) + map_bytes(&sites.by_stack) +
           map_bytes(&sites.by_instruction) + map_bytes(&sites.by_code) +
           sites.instructions.count * sizeof *sites.instructions.at +
           (sites.files.count + sites.places.count + sites.sites.count) * sizeof(void *);
}

const trace_site_t *sites_at_locked(uint32_t site) {
    return site < sites.sites.count ? sites.sites.at[site] : NULL;
}

void sites_count_locked(trace_copy_t *out) {
    out->sites = (uint32_t)sites.sites.count;
    out->places = (uint32_t)sites.places.count;
    out->files = (uint32_t)sites.files.count;
}

/* ── Making what is not known yet. All: NOBODY or NULL where there is no memory ── */

static uint64_t mix(uint64_t h, uint64_t v) {
    h = (h ^ v) * SITES_MIX;
    return h ^ h >> 29;
}

/* The slot of whoever has this hash and is the same; a fresh one (*fresh) is the caller's to fill. */
static uint32_t *find(map_t *map, uint64_t hash, bool (*same)(uint32_t number, const void *key),
                      const void *key, int *fresh) {
    for (hash &= ~(UINT64_C(1) << 63);; hash++) {
        uint32_t *slot = map_put(map, hash, fresh);
        if (!slot || *fresh || *slot == NOBODY || same(*slot, key)) {
            if (slot && *slot == NOBODY) *fresh = 1;
            return slot;
        }
    }
}

typedef struct name {
    const unsigned char *text;
    uint32_t length, width;
} name_t;

static bool name_same(uint32_t number, const void *key) {
    const trace_file_t *f = sites.files.at[number];
    const name_t *n = key;
    return f->length == n->length && f->width == n->width &&
           memcmp(f->name, n->text, (size_t)n->length * n->width) == 0;
}

static uint32_t file_named(name_t name) {
    const size_t bytes = (size_t)name.length * name.width;
    uint64_t hash = mix(name.length, name.width);
    int fresh;
    for (size_t i = 0; i < bytes; i++) hash = mix(hash, name.text[i]);
    uint32_t *slot = find(&sites.by_name, hash, name_same, &name, &fresh);
    if (!slot) return NOBODY;
    if (!fresh) return *slot;
    *slot = NOBODY;
    trace_file_t *f = arena_alloc(&sites.arena, sizeof *f + bytes);
    if (!f || file_vec_reserve(&sites.files, 1)) return NOBODY;
    f->number = (uint32_t)sites.files.count;
    f->length = name.length;
    f->width = name.width;
    memcpy(f->name, name.text, bytes);
    file_vec_push(&sites.files, f);
    return *slot = f->number;
}

static uint32_t file_unknown(void) {
    static const char unknown[] = "<unknown>";
    return file_named((name_t){(const unsigned char *)unknown, sizeof unknown - 1, 1});
}

static uint32_t file_of(rt_addr_t code) {
    const rt_t *rt = sites.rt;
    rt_addr_t str = rt_ptr(code, rt->layout->code_filename);
    const unsigned char *text = py_is_str(rt, str) ? py_str_data(rt, str) : NULL;
    if (!text) return file_unknown();
    return file_named(
        (name_t){text, (uint32_t)rt_i64(str, rt->layout->str_length), py_str_width(rt, str)});
}

static uint32_t place_at(uint32_t file, uint32_t line) {
    int fresh;
    if (file == NOBODY) return NOBODY;
    uint32_t *slot = map_put(&sites.by_place, (uint64_t)file << 32 | line, &fresh);
    if (!slot) return NOBODY;
    if (!fresh && *slot != NOBODY) return *slot;
    *slot = NOBODY;
    trace_place_t *p = arena_alloc(&sites.arena, sizeof *p);
    if (!p || place_vec_reserve(&sites.places, 1)) return NOBODY;
    *p = (trace_place_t){sites.files.at[file], line, (uint32_t)sites.places.count};
    place_vec_push(&sites.places, p);
    return *slot = p->number;
}

/* ── Instructions ── */

static bool watch(rt_addr_t code) {
    uintptr_t block = code - sites.code_before;
    uint32_t *word = blocks_word(block);
    if (!word) word = blocks_make(block);
    if (word) __atomic_fetch_or(word, BLOCKS_WATCHED, __ATOMIC_RELAXED);
    return word != NULL;
}

/* Where it fails, the instruction will be looked at again next time. */
static void remember(rt_addr_t code, rt_addr_t instruction, uint32_t place) {
    int fresh_code, fresh;
    uint32_t *first = map_put(&sites.by_code, code, &fresh_code), at = sites.instructions_free;
    if (!first) return;
    if (fresh_code) *first = NOBODY;
    uint32_t next = *first;
    if (!watch(code)) return;
    if (at == NOBODY && instruction_vec_reserve(&sites.instructions, 1)) return;
    uint32_t *slot = map_put(&sites.by_instruction, instruction, &fresh);
    if (!slot) return;
    if (at == NOBODY) {
        at = (uint32_t)sites.instructions.count;
        instruction_vec_push(&sites.instructions, (instruction_t){0});
    } else {
        sites.instructions_free = sites.instructions.at[at].next;
    }
    sites.instructions.at[at] = (instruction_t){instruction, place, next};
    *slot = at;
    *first = at;
}

static uint32_t place_of(rt_addr_t frame, rt_addr_t instruction) {
    const layout_t *l = sites.rt->layout;
    const uint32_t *known = map_get(&sites.by_instruction, instruction);
    if (known && sites.instructions.at[*known].address == instruction)
        return sites.instructions.at[*known].place;
    rt_addr_t code = rt_ptr(frame, l->iframe_code) & ~(rt_addr_t)3;
    if (!code || rt_type(sites.rt, code) != sites.rt->types.code)
        return place_at(file_unknown(), 0);
    int64_t unit = (int64_t)(instruction - code - (rt_addr_t)(int64_t)l->code_adaptive) / 2;
    int32_t line = rt_code_line_or(sites.rt, code, unit, 0);
    uint32_t place = place_at(file_of(code), line < 0 ? 0 : (uint32_t)line);
    if (place != NOBODY) remember(code, instruction, place);
    return place;
}

void sites_code_died(uintptr_t block) {
    sites_lock();
    uint32_t *first = map_get(&sites.by_code, block + sites.code_before);
    if (first && *first != NOBODY) {
        uint32_t at = *first, next;
        for (*first = NOBODY; at != NOBODY; at = next) {
            instruction_t *i = &sites.instructions.at[at];
            next = i->next;
            *i = (instruction_t){.next = sites.instructions_free};
            sites.instructions_free = at;
        }
        sites_quick.epoch++;
    }
    sites_unlock();
}

/* ── Stacks ── */

typedef struct stack_key {
    uint32_t count, total;
} stack_key_t;

static bool stack_same(uint32_t number, const void *key) {
    const trace_site_t *s = sites.sites.at[number];
    const stack_key_t *k = key;
    return s->count == k->count && s->total == k->total &&
           memcmp(s->places, sites.stack, k->count * sizeof *s->places) == 0;
}

static uint32_t site_of_stack(stack_key_t key) {
    uint64_t hash = mix(key.count, key.total);
    int fresh;
    for (uint32_t i = 0; i < key.count; i++) hash = mix(hash, sites.stack[i]->number);
    uint32_t *slot = find(&sites.by_stack, hash, stack_same, &key, &fresh);
    if (!slot) return SITES_NONE;
    if (!fresh) return *slot;
    *slot = NOBODY;
    const size_t places_bytes = key.count * sizeof sites.stack[0];
    trace_site_t *s = arena_alloc(&sites.arena, sizeof *s + places_bytes);
    if (!s || sites.sites.count >= BLOCKS_SITES_MAX || site_vec_reserve(&sites.sites, 1))
        return SITES_NONE;
    s->number = (uint32_t)sites.sites.count;
    s->count = key.count;
    s->total = key.total;
    memcpy(s->places, sites.stack, places_bytes);
    site_vec_push(&sites.sites, s);
    return *slot = s->number;
}

static uint32_t site_outside(void) {
    uint32_t place = place_at(file_unknown(), 0);
    if (place == NOBODY) return SITES_NONE;
    sites.stack[0] = sites.places.at[place];
    return site_of_stack((stack_key_t){1, 1});
}

uint32_t sites_make_locked(rt_addr_t thread) {
    const int32_t previous = sites_quick.frame_previous;
    stack_key_t key = {0, 0};
    rt_addr_t instruction, frame = thread ? sites_complete(sites_frame(thread), &instruction) : 0;
    /* Number 0, by which sites_here knows it. */
    if (!sites.sites.count && site_outside() != 0) return SITES_NONE;
    for (; frame; frame = sites_complete(rt_ptr(frame, previous), &instruction)) {
        if (key.total < TRACE_FRAMES_MAX) key.total++;
        if (key.count == sites_quick.frames_max) continue;
        uint32_t place = place_of(frame, instruction);
        if (place == NOBODY) return SITES_NONE;
        sites.stack[key.count++] = sites.places.at[place];
    }
    return key.count ? site_of_stack(key) : 0;
}

uint32_t sites_here_slow(rt_addr_t thread, uint64_t key) {
    sites_quick_t *q = &sites_quick;
    sites_lock();
    uint32_t site = sites_make_locked(thread);
    sites_unlock();
    if (site != SITES_NONE)
        q->cache[(key * SITES_MIX) >> (64 - SITES_CACHE_BITS)] =
            (sites_known_t){key, site, q->epoch};
    return site;
}
