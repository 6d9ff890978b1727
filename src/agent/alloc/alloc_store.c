#define _GNU_SOURCE
#include "agent/alloc/alloc_store.h"

#include "agent/alloc/alloc_index.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* Room: generous, for pages that are never touched cost nothing, but where address space is limited. Where every allocation counts,
 * imports alone may have a million stacks. */
enum {
    TEXT_BYTES = 16 << 20,
    FRAMES = 1 << 18,
    STACKS = 1 << 19,
    STACKS_LARGE = 1 << 22,
    CELLS = 1 << 19,
    CELLS_LARGE = 1 << 21,
    FOLDED =
        1 << 16, /* stacks and cells of one frame that find room when there is none for others */
    EVENTS = 1 << 16,
    TEXT_BYTES_MAX = 4096
};

/* Blocks lie in levels as in alloc_index.h, for the same reason. */
enum { BLOCK_LEVELS = 3, BLOCK_FIRST_BITS = 12, BLOCK_LEVEL_BITS = 3, BLOCK_PROBES = 8 };
enum { BLOCKS = (1 << 12) + (1 << 15) + (1 << 18), BLOCK_BEING_WRITTEN = 2 };

static struct {
    region_t *region;
    region_frame_t *frames;
    region_stack_t *stacks;
    region_cell_t *cells;
    region_block_t *blocks;
    region_event_t *events;
    char *texts;
    alloc_index_t by_text, by_frame, by_stack, by_cell;
    /* The live total, in two sums: of those who hold the only GIL, and of everybody else. */
    _Atomic int64_t heap_alone, heap_shared;
} store;
static void (*on_peak)(void); /* outlives the store */

region_t *store_region(void) {
    return store.region;
}

/* ── Making ── */

static void *part_place(region_part_t *part, uint64_t room, size_t element, uint64_t *at) {
    part->offset = *at;
    part->room = room;
    *at += (room * element + 4095) & ~4095ull;
    /* The first layout is of no region yet: it tells how large it has to be. */
    return (void *)((uintptr_t)store.region + part->offset);
}

static uint64_t region_layout(region_t *r, bool large) {
    uint64_t at = 4096;
    store.texts = part_place(&r->texts, TEXT_BYTES, 1, &at);
    store.frames = part_place(&r->frames, FRAMES, sizeof(region_frame_t), &at);
    store.stacks =
        part_place(&r->stacks, large ? STACKS_LARGE : STACKS, sizeof(region_stack_t), &at);
    store.cells = part_place(&r->cells, large ? CELLS_LARGE : CELLS, sizeof(region_cell_t), &at);
    store.blocks = part_place(&r->blocks, BLOCKS, sizeof(region_block_t), &at);
    store.events = part_place(&r->events, EVENTS, sizeof(region_event_t), &at);
    return at;
}

/* Who makes a file that is too large is killed by SIGXFSZ, and memory counts as one. */
static int check_file_limit(uint64_t bytes, err_t *e) {
    struct rlimit most;
    if (getrlimit(RLIMIT_FSIZE, &most) || most.rlim_cur >= bytes) return 0;
    return err_set(e, -EFBIG,
                   "the profile's memory is larger than a file of this process may be; raise that "
                   "limit (ulimit -f)");
}

static int region_make(uint64_t bytes, int *fd, err_t *e) {
    if (check_file_limit(bytes, e)) return -EFBIG;
    *fd = memfd_create("lowtide-profile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd < 0) return err_sys(e, -errno, "cannot make the profile's memory");
    if (ftruncate(*fd, (off_t)bytes) ||
        fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        int status = err_sys(e, -errno, "cannot size the profile's memory");
        close(*fd);
        return status;
    }
    store.region = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (store.region != MAP_FAILED) return 0;
    int status = err_sys(e, -errno, "cannot map the profile's memory");
    store.region = NULL;
    close(*fd);
    return status;
}

static void region_begin(region_t *r, enum region_mode mode, uint64_t interval_bytes) {
    r->magic = REGION_MAGIC;
    r->version = REGION_VERSION;
    r->mode = mode;
    r->interval_bytes = mode == REGION_SAMPLED ? interval_bytes : REGION_SHOWN_BYTES;
    r->begin_ns = now_ns();
    r->pid = (uint32_t)getpid();
    r->heap_epoch = 2; /* even: at its highest; and no cell has noted it */
    r->rss_epoch = 1;
    r->snapshot_above = INT64_MAX;
    r->tree_share = REGION_SHARE_ALL;
    r->tree_largest = 1;
    r->texts.used = sizeof(uint32_t); /* text 0: empty */
    static const char beyond[] = "(stacks beyond the table)";
    region_frame_t none = {.kind = REGION_FRAME_OTHER,
                           .function = store_text(beyond, sizeof beyond - 1)};
    store_cell(store_stack(0, store_frame(&none)), REGION_LIBC);
}

static bool is_limited(int resource) {
    struct rlimit limit;
    return getrlimit(resource, &limit) || limit.rlim_cur != RLIM_INFINITY;
}

int store_open(enum region_mode mode, uint64_t interval_bytes, int *fd, err_t *e) {
    region_t parts;
    memset(&store, 0, sizeof store);
    const bool large = mode == REGION_EXACT && !is_limited(RLIMIT_AS) && !is_limited(RLIMIT_DATA);
    const int levels = large ? INDEX_LEVELS_LARGE : INDEX_LEVELS;
    uint64_t bytes = region_layout(&parts, large);
    int status = region_make(bytes, fd, e);
    if (status) return status;
    if (!index_open(&store.by_text, INDEX_LEVELS) || !index_open(&store.by_frame, INDEX_LEVELS) ||
        !index_open(&store.by_stack, levels) || !index_open(&store.by_cell, levels)) {
        store_close();
        close(*fd);
        return err_set(e, -ENOMEM, "no memory for the profile");
    }
    region_layout(store.region, large);
    store.region->bytes = bytes;
    region_begin(store.region, mode, interval_bytes);
    return 0;
}

void store_close(void) {
    alloc_index_t *const all[] = {&store.by_text, &store.by_frame, &store.by_stack, &store.by_cell};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i]->slots) index_close(all[i]);
    if (store.region) munmap(store.region, store.region->bytes);
    memset(&store, 0, sizeof store);
}

/* ── Interning ── */

/* INDEX_NONE: full. */
static uint32_t part_reserve(region_part_t *part, uint64_t n) {
    uint64_t at = atomic_load_explicit(&part->used, memory_order_relaxed);
    do {
        if (at + n > part->room) return INDEX_NONE;
    } while (!atomic_compare_exchange_weak(&part->used, &at, at + n));
    return (uint32_t)at;
}

static uint32_t or_lost(uint32_t number) {
    if (number != INDEX_NONE) return number;
    atomic_fetch_add_explicit(&store.region->lost_stacks, 1, memory_order_relaxed);
    return 0;
}

typedef struct text_key {
    const char *text;
    uint32_t bytes;
} text_key_t;

static bool text_same(uint32_t at, const void *key) {
    const text_key_t *k = key;
    uint32_t bytes;
    memcpy(&bytes, store.texts + at, sizeof bytes);
    return bytes == k->bytes && memcmp(store.texts + at + sizeof bytes, k->text, bytes) == 0;
}

static uint32_t text_make(const void *key) {
    const text_key_t *k = key;
    uint32_t at = part_reserve(&store.region->texts, (sizeof k->bytes + k->bytes + 3) & ~3ull);
    if (at == INDEX_NONE) return at;
    memcpy(store.texts + at, &k->bytes, sizeof k->bytes);
    memcpy(store.texts + at + sizeof k->bytes, k->text, k->bytes);
    return at;
}

uint32_t store_text(const char *text, size_t bytes) {
    if (bytes > TEXT_BYTES_MAX) bytes = TEXT_BYTES_MAX;
    if (!bytes) return 0;
    text_key_t key = {text, (uint32_t)bytes};
    uint64_t h = bytes;
    for (size_t i = 0; i < bytes; i++) h = (h ^ (unsigned char)text[i]) * 0x100000001b3ull;
    return or_lost(index_find(&store.by_text, index_mix(h, h >> 32), text_same, text_make, &key));
}

static bool frame_same(uint32_t number, const void *key) {
    return memcmp(&store.frames[number], key, sizeof(region_frame_t)) == 0;
}

static uint32_t frame_make(const void *key) {
    uint32_t at = part_reserve(&store.region->frames, 1);
    if (at != INDEX_NONE) memcpy(&store.frames[at], key, sizeof(region_frame_t));
    return at;
}

uint32_t store_frame(const region_frame_t *frame) {
    uint64_t h = index_mix(frame->kind, frame->function | (uint64_t)frame->file << 32);
    h = index_mix(h, frame->line | (uint64_t)frame->first_line << 32);
    return or_lost(
        index_find(&store.by_frame, index_mix(h, frame->offset), frame_same, frame_make, frame));
}

static bool stack_same(uint32_t number, const void *key) {
    return memcmp(&store.stacks[number], key, sizeof(region_stack_t)) == 0;
}

static bool has_room(const region_part_t *part, bool folded) {
    return folded || atomic_load_explicit(&part->used, memory_order_relaxed) + FOLDED < part->room;
}

static uint32_t stack_make(const void *key) {
    const region_stack_t *k = key;
    if (!has_room(&store.region->stacks, !k->parent)) return INDEX_NONE;
    uint32_t at = part_reserve(&store.region->stacks, 1);
    if (at != INDEX_NONE) memcpy(&store.stacks[at], key, sizeof(region_stack_t));
    return at;
}

static uint32_t stack_find(region_stack_t key) {
    return index_find(&store.by_stack, index_mix(index_mix(0, key.parent), key.frame), stack_same,
                      stack_make, &key);
}

static bool is_python(uint32_t frame) {
    return store.frames[frame].kind == REGION_FRAME_PYTHON;
}

/* Where there is no room for its callers its line is told, at least; where it is in C, that of Python which called it. */
uint32_t store_stack(uint32_t parent, uint32_t frame) {
    uint32_t found = stack_find((region_stack_t){parent, frame});
    if (found != INDEX_NONE || !parent) return or_lost(found);
    or_lost(found);
    if (!is_python(frame)) return parent - 1;
    found = stack_find((region_stack_t){0, frame});
    return found == INDEX_NONE ? 0 : found;
}

static bool cell_same(uint32_t number, const void *key) {
    const region_cell_t *c = &store.cells[number], *k = key;
    return c->stack == k->stack && c->domain == k->domain;
}

/* Born after the last peaks, it was empty at them. */
static uint32_t cell_make(const void *key) {
    const region_cell_t *k = key;
    region_t *r = store.region;
    if (!has_room(&r->cells, !store.stacks[k->stack].parent)) return INDEX_NONE;
    uint32_t at = part_reserve(&r->cells, 1);
    if (at == INDEX_NONE) return at;
    region_cell_t *c = &store.cells[at];
    uint64_t epoch = atomic_load(&r->heap_epoch);
    c->stack = k->stack;
    c->heap_epoch = epoch & 1 ? epoch : 0;
    c->rss_epoch = atomic_load(&r->rss_epoch);
    atomic_thread_fence(memory_order_release);
    *(volatile uint32_t *)&c->domain = k->domain;
    return at;
}

static uint32_t cell_find(uint32_t stack, uint32_t domain) {
    region_cell_t key = {.stack = stack, .domain = domain};
    return index_find(&store.by_cell, index_mix(index_mix(0, stack), domain), cell_same, cell_make,
                      &key);
}

uint32_t store_cell(uint32_t stack, uint32_t domain) {
    uint32_t found = cell_find(stack, domain);
    if (found != INDEX_NONE) return found;
    or_lost(found);
    while (!is_python(store.stacks[stack].frame) && store.stacks[stack].parent)
        stack = store.stacks[stack].parent - 1;
    stack = stack_find((region_stack_t){0, store.stacks[stack].frame});
    found = stack == INDEX_NONE ? stack : cell_find(stack, domain);
    return found == INDEX_NONE ? 0 : found;
}

uint32_t store_domain(uint32_t cell) {
    return store.cells[cell].domain;
}

uint32_t store_stack_of(uint32_t cell) {
    return store.cells[cell].stack;
}

/* ── Counting ── */

static inline int64_t add_signed(_Atomic int64_t *to, int64_t v, bool alone) {
    if (!alone) return atomic_fetch_add_explicit(to, v, memory_order_relaxed) + v;
    v += atomic_load_explicit(to, memory_order_relaxed);
    atomic_store_explicit(to, v, memory_order_relaxed);
    return v;
}

static inline void add_unsigned(_Atomic uint64_t *to, uint64_t v, bool alone) {
    if (alone)
        atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + v,
                              memory_order_relaxed);
    else
        atomic_fetch_add_explicit(to, v, memory_order_relaxed);
}

static void counts_copy(region_counts_t *to, const region_counts_t *from) {
    atomic_store_explicit(&to->bytes, atomic_load_explicit(&from->bytes, memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(&to->blocks, atomic_load_explicit(&from->blocks, memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(&to->variance,
                          atomic_load_explicit(&from->variance, memory_order_relaxed),
                          memory_order_relaxed);
}

/* Before its figures change: saves them, if a peak has ended since they last did. The epoch is noted last, so that a reader
 * who sees it sees what was saved. */
static inline void cell_save(region_cell_t *c) {
    uint64_t heap = atomic_load_explicit(&store.region->heap_epoch, memory_order_relaxed);
    uint64_t rss = atomic_load_explicit(&store.region->rss_epoch, memory_order_relaxed);
    if (heap & 1 && atomic_load_explicit(&c->heap_epoch, memory_order_relaxed) != heap) {
        counts_copy(&c->peak, &c->live);
        atomic_store_explicit(&c->heap_epoch, heap, memory_order_release);
    }
    if (atomic_load_explicit(&c->rss_epoch, memory_order_relaxed) != rss) {
        counts_copy(&c->rss_peak, &c->live);
        atomic_store_explicit(&c->rss_epoch, rss, memory_order_release);
    }
}

static inline int64_t heap_add(int64_t bytes, bool alone) {
    int64_t now = add_signed(alone ? &store.heap_alone : &store.heap_shared, bytes, alone);
    now +=
        atomic_load_explicit(alone ? &store.heap_shared : &store.heap_alone, memory_order_relaxed);
    atomic_store_explicit(&store.region->heap_bytes, now, memory_order_relaxed);
    return now;
}

static __attribute__((noinline)) void call_for_snapshot(void) {
    int64_t above = atomic_exchange(&store.region->snapshot_above, INT64_MAX);
    if (above != INT64_MAX && on_peak) on_peak();
}

void store_on_peak(void (*call)(void)) {
    on_peak = call;
}

void store_born(uint32_t cell, const store_change_t *c) {
    region_t *r = store.region;
    region_cell_t *to = &store.cells[cell];
    cell_save(to);
    add_signed(&to->live.bytes, c->bytes, c->alone);
    add_signed(&to->live.blocks, c->blocks, c->alone);
    add_signed(&to->total.bytes, c->bytes, c->alone);
    add_signed(&to->total.blocks, c->blocks, c->alone);
    if (c->variance) {
        add_unsigned(&to->live.variance, c->variance, c->alone);
        add_unsigned(&to->total.variance, c->variance, c->alone);
    }
    int64_t now = heap_add(c->bytes, c->alone);
    if (__builtin_expect(now > atomic_load_explicit(&r->snapshot_above, memory_order_relaxed), 0))
        call_for_snapshot();
    if (now > atomic_load_explicit(&r->heap_recent_bytes, memory_order_relaxed))
        atomic_store_explicit(&r->heap_recent_bytes, now, memory_order_relaxed);
    if (now <= atomic_load_explicit(&r->heap_peak_bytes, memory_order_relaxed)) return;
    atomic_store_explicit(&r->heap_peak_bytes, now, memory_order_relaxed);
    uint64_t epoch = atomic_load_explicit(&r->heap_epoch, memory_order_relaxed);
    if (epoch & 1) atomic_compare_exchange_strong(&r->heap_epoch, &epoch, epoch + 1);
}

void store_died(uint32_t cell, const store_change_t *c) {
    region_t *r = store.region;
    region_cell_t *to = &store.cells[cell];
    uint64_t epoch = atomic_load_explicit(&r->heap_epoch, memory_order_relaxed);
    if (!(epoch & 1)) atomic_compare_exchange_strong(&r->heap_epoch, &epoch, epoch + 1);
    cell_save(to);
    add_signed(&to->live.bytes, -c->bytes, c->alone);
    add_signed(&to->live.blocks, -c->blocks, c->alone);
    if (c->variance) add_unsigned(&to->live.variance, -c->variance, c->alone);
    heap_add(-c->bytes, c->alone);
}

/* ── Sampled blocks ── */

static inline uint64_t block_hash(uintptr_t address) {
    uint64_t h = (uint64_t)(address >> 4) * 0x9e3779b97f4a7c15ull;
    return h >> 40;
}

/* The slot that holds `address` (0: any free one), or NULL. Levels that nothing was ever put in are not searched: most who ask have
 * none here, and would touch a page of memory for each. */
static region_block_t *block_find(uintptr_t key, uintptr_t address) {
    region_block_t *level = store.blocks, *end = level + BLOCKS;
    uint64_t h = block_hash(key);
    if (address)
        end = level + atomic_load_explicit(&store.region->blocks.used, memory_order_relaxed);
    for (int i = 0, bits = BLOCK_FIRST_BITS; i < BLOCK_LEVELS && level < end;
         level += 1u << bits, bits += BLOCK_LEVEL_BITS, i++)
        for (uint32_t probe = 0; probe < BLOCK_PROBES; probe++) {
            region_block_t *b = &level[(h + probe) & ((1u << bits) - 1)];
            if (atomic_load_explicit(&b->address, memory_order_acquire) == address) return b;
        }
    return NULL;
}

bool store_block_take(uintptr_t address, region_block_t *taken) {
    region_block_t *b = block_find(address, address);
    if (!b) return false;
    taken->bytes = b->bytes;
    taken->cell = b->cell;
    uint64_t expected = address;
    return atomic_compare_exchange_strong(&b->address, &expected, 0);
}

bool store_block_put(uintptr_t address, uint64_t bytes, uint32_t cell, region_block_t *replaced) {
    replaced->address = store_block_take(address, replaced);
    for (region_block_t *b; (b = block_find(address, 0));) {
        uint64_t expected = 0;
        if (!atomic_compare_exchange_strong(&b->address, &expected, BLOCK_BEING_WRITTEN)) continue;
        b->bytes = bytes;
        b->cell = cell;
        atomic_store_explicit(&b->address, address, memory_order_release);
        uint64_t used = atomic_load_explicit(&store.region->blocks.used, memory_order_relaxed);
        uint64_t end = (uint64_t)(b - store.blocks) + 1;
        while (end > used &&
               !atomic_compare_exchange_weak(&store.region->blocks.used, &used, end)) {
        }
        return true;
    }
    atomic_fetch_add_explicit(&store.region->lost_blocks, 1, memory_order_relaxed);
    return false;
}

/* ── Events ── */

void store_event(uint32_t kind, uint32_t value, uint64_t duration_ns, const char *text) {
    uint32_t at = part_reserve(&store.region->events, 1);
    if (at == INDEX_NONE) {
        atomic_fetch_add_explicit(&store.region->lost_events, 1, memory_order_relaxed);
        return;
    }
    region_event_t *v = &store.events[at];
    v->value = value;
    v->duration_ns = duration_ns;
    v->text = text ? store_text(text, strlen(text)) : 0;
    v->kind = kind;
    atomic_thread_fence(memory_order_release);
    *(volatile uint64_t *)&v->t_ns = now_ns();
}
