#define _GNU_SOURCE
#include "collect/observed.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

/* Several times what an agent makes: the recorder's own memory is bounded by it. */
#define REGION_BYTES_MOST (UINT64_C(1) << 32)
enum { TEXT_BYTES_MOST = 256 << 20, ELEMENTS_MOST = 4 << 20 };

static bool part_open(const observed_t *o, const region_part_t *part, uint64_t size,
                      observed_part_t *out) {
    uint64_t offset = part->offset, room = part->room;
    if (offset < sizeof(region_t) || offset > o->bytes || offset % 8 != 0) return false;
    if (room > (size == 1 ? TEXT_BYTES_MOST : ELEMENTS_MOST) || room > (o->bytes - offset) / size)
        return false;
    *out = (observed_part_t){
        .at = (const char *)o->region + offset, .room = room, .used = &part->used};
    return true;
}

static bool parts_open(observed_t *o) {
    const region_t *r = o->region;
    return part_open(o, &r->texts, 1, &o->texts) &&
           part_open(o, &r->frames, sizeof(region_frame_t), &o->frames) &&
           part_open(o, &r->stacks, sizeof(region_stack_t), &o->stacks) &&
           part_open(o, &r->cells, sizeof(region_cell_t), &o->cells) &&
           part_open(o, &r->blocks, sizeof(region_block_t), &o->blocks) &&
           part_open(o, &r->events, sizeof(region_event_t), &o->events);
}

int observed_open(observed_t *o, int fd, err_t *e) {
    struct stat st;
    struct statfs fs;
    *o = (observed_t){0};
    /* A region that could shrink would end us by SIGBUS. */
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals >= 0 && !(seals & F_SEAL_SHRINK) && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0)
        seals |= F_SEAL_SHRINK;
    /* Huge pages may be missing when they are looked at: SIGBUS again. */
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) != 0 || fstatfs(fd, &fs) != 0 ||
        fs.f_type == HUGETLBFS_MAGIC || st.st_size < (off_t)sizeof(region_t) ||
        (uint64_t)st.st_size > REGION_BYTES_MOST)
        return err_set(e, -EBADMSG, "the program sent something that is not a profile");
    o->bytes = (uint64_t)st.st_size;
    void *at = mmap(NULL, o->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED) return err_sys(e, -errno, "cannot map a profile");
    o->region = at;
    const region_t *r = o->region;
    o->mode = r->mode;
    o->interval_bytes = r->interval_bytes;
    o->begin_ns = r->begin_ns;
    o->gc_collecting = r->gc_collecting;
    o->gc_stats = r->gc_stats;
    if (r->magic == REGION_MAGIC && r->version == REGION_VERSION &&
        (o->mode == REGION_SAMPLED || o->mode == REGION_EXACT) && parts_open(o))
        return 0;
    observed_close(o);
    return err_set(e, -EBADMSG,
                   "the program's profile is not of this version of lowtide; use the agent and the "
                   "command line of one installation");
}

void observed_close(observed_t *o) {
    if (o->region) munmap(o->region, o->bytes);
    *o = (observed_t){0};
}

uint64_t observed_used(const observed_part_t *part) {
    if (!part->used) return 0;
    uint64_t used = atomic_load_explicit(part->used, memory_order_acquire);
    return used < part->room ? used : part->room;
}

static bool element(const observed_part_t *part, uint64_t i, void *out, size_t size) {
    if (i >= observed_used(part)) return false;
    memcpy(out, (const char *)part->at + i * size, size);
    return true;
}

bool observed_frame(const observed_t *o, uint64_t i, region_frame_t *out) {
    return element(&o->frames, i, out, sizeof *out);
}

bool observed_stack(const observed_t *o, uint64_t i, region_stack_t *out) {
    return element(&o->stacks, i, out, sizeof *out);
}

bool observed_event(const observed_t *o, uint64_t i, region_event_t *out) {
    return element(&o->events, i, out, sizeof *out);
}

static observed_counts_t counts(const region_counts_t *c) {
    int64_t bytes = atomic_load_explicit(&c->bytes, memory_order_relaxed);
    int64_t blocks = atomic_load_explicit(&c->blocks, memory_order_relaxed);
    return (observed_counts_t){.bytes = bytes > 0 ? bytes : 0,
                               .blocks = blocks > 0 ? blocks : 0,
                               .variance =
                                   atomic_load_explicit(&c->variance, memory_order_relaxed)};
}

bool observed_cell(const observed_t *o, uint64_t i, observed_cell_t *out) {
    if (i >= observed_used(&o->cells)) return false;
    const region_cell_t *cell = (const region_cell_t *)o->cells.at + i;
    const region_t *r = o->region;
    /* Written last of all: what is not 0 here is whole. */
    uint32_t domain = __atomic_load_n(&cell->domain, __ATOMIC_ACQUIRE);
    *out = (observed_cell_t){.stack = cell->stack, .domain = domain};
    out->live = counts(&cell->live);
    out->total = counts(&cell->total);
    bool saved = atomic_load_explicit(&cell->heap_epoch, memory_order_acquire) ==
                 atomic_load_explicit(&r->heap_epoch, memory_order_acquire);
    out->peak = saved ? counts(&cell->peak) : out->live;
    saved = atomic_load_explicit(&cell->rss_epoch, memory_order_acquire) ==
            atomic_load_explicit(&r->rss_epoch, memory_order_acquire);
    out->rss_peak = saved ? counts(&cell->rss_peak) : out->live;
    return domain >= REGION_RAW && domain < REGION_DOMAINS;
}

bool observed_cell_now(const observed_t *o, uint64_t i, uint64_t *live, uint64_t *total) {
    if (i >= observed_used(&o->cells)) return false;
    const region_cell_t *cell = (const region_cell_t *)o->cells.at + i;
    uint32_t domain = __atomic_load_n(&cell->domain, __ATOMIC_ACQUIRE);
    int64_t lives = atomic_load_explicit(&cell->live.bytes, memory_order_relaxed);
    int64_t made = atomic_load_explicit(&cell->total.bytes, memory_order_relaxed);
    *live = lives > 0 ? (uint64_t)lives : 0;
    *total = made > 0 ? (uint64_t)made : 0;
    return domain >= REGION_RAW && domain < REGION_DOMAINS;
}

/* The table is hashed: its slots are filled all over, up to `used`. */
bool observed_block(const observed_t *o, uint64_t i, region_block_t *out) {
    if (i >= o->blocks.room) return false;
    const region_block_t *block = (const region_block_t *)o->blocks.at + i;
    uint64_t address = atomic_load_explicit(&block->address, memory_order_acquire);
    if (address <= 1) return false;
    *out = (region_block_t){.bytes = block->bytes, .cell = block->cell};
    atomic_init(&out->address, address);
    return observed_block_is(o, i, address);
}

bool observed_block_is(const observed_t *o, uint64_t i, uint64_t address) {
    const region_block_t *block = (const region_block_t *)o->blocks.at + i;
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&block->address, memory_order_relaxed) == address;
}

observed_text_t observed_text(const observed_t *o, uint32_t offset) {
    uint64_t used = observed_used(&o->texts);
    uint32_t bytes;
    if (offset > used || used - offset < sizeof bytes) return (observed_text_t){"", 0};
    const char *at = (const char *)o->texts.at + offset;
    memcpy(&bytes, at, sizeof bytes);
    if (bytes > used - offset - sizeof bytes) return (observed_text_t){"", 0};
    return (observed_text_t){at + sizeof bytes,
                             bytes < OBSERVED_TEXT_MOST ? bytes : OBSERVED_TEXT_MOST};
}

static uint64_t at_least_0(_Atomic int64_t *of) {
    int64_t v = atomic_load_explicit(of, memory_order_relaxed);
    return v > 0 ? (uint64_t)v : 0;
}

uint64_t observed_heap_bytes(const observed_t *o) {
    return o->region ? at_least_0(&o->region->heap_bytes) : 0;
}

uint64_t observed_heap_peak_bytes(const observed_t *o) {
    return o->region ? at_least_0(&o->region->heap_peak_bytes) : 0;
}

uint64_t observed_heap_recent_bytes(const observed_t *o) {
    if (!o->region) return 0;
    int64_t now = atomic_load_explicit(&o->region->heap_bytes, memory_order_relaxed);
    int64_t high =
        atomic_exchange_explicit(&o->region->heap_recent_bytes, now, memory_order_relaxed);
    high = high > now ? high : now;
    return high > 0 ? (uint64_t)high : 0;
}

void observed_lost(const observed_t *o, uint64_t *stacks, uint64_t *blocks) {
    if (!o->region) return;
    *stacks = atomic_load_explicit(&o->region->lost_stacks, memory_order_relaxed);
    *blocks = atomic_load_explicit(&o->region->lost_blocks, memory_order_relaxed);
}

void observed_mute(const observed_t *o, uint64_t *children, uint32_t *children_code,
                   uint32_t *end_code) {
    if (!o->region) return;
    *children = atomic_load_explicit(&o->region->lost_children, memory_order_relaxed);
    *children_code = atomic_load_explicit(&o->region->lost_children_code, memory_order_relaxed);
    *end_code = atomic_load_explicit(&o->region->end_code, memory_order_relaxed);
}

uint64_t observed_silent(const observed_t *o, uint32_t names[REGION_SILENT_NAMES]) {
    if (!o->region) return 0;
    for (int i = 0; i < REGION_SILENT_NAMES; i++)
        names[i] = atomic_load_explicit(&o->region->silent_names[i], memory_order_relaxed);
    return at_least_0(&o->region->silent_programs);
}

void observed_snapshot_above(observed_t *o, uint64_t bytes) {
    int64_t above = bytes < INT64_MAX ? (int64_t)bytes : INT64_MAX;
    if (o->region) atomic_store_explicit(&o->region->snapshot_above, above, memory_order_relaxed);
}

void observed_dismiss(observed_t *o) {
    if (o->region) atomic_store_explicit(&o->region->dismissed, 1, memory_order_relaxed);
}

void observed_rss_peak(observed_t *o) {
    if (o->region) atomic_fetch_add_explicit(&o->region->rss_epoch, 1, memory_order_acq_rel);
}

uint64_t observed_limit(const observed_t *o) {
    return o->region ? o->region->limit_bytes : 0;
}

void observed_tree(observed_t *o, int64_t beside, uint32_t share, bool largest, uint64_t now_ns) {
    if (!o->region) return;
    o->region->tree_beside = beside;
    o->region->tree_share = share;
    o->region->tree_largest = largest;
    o->region->tree_ns = now_ns;
}
