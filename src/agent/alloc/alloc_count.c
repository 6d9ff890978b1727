#define _GNU_SOURCE
#include "agent/alloc/alloc_count.h"

#include "agent/alloc/alloc_sample.h"
#include "agent/alloc/alloc_stack.h"
#include "agent/alloc/alloc_store.h"
#include "base/mem.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ADDRESS_BITS = 47, SMALL_BYTES = 16, BIG = 31, CELL_SHIFT = 5, CELL_CACHE = 1024 };
enum { FILTER_FULL = 255, RANGES = 8192 };
/* The shadow is mapped where it is needed: one of the whole address space would be the end of all who walk a process's memory
 * page by page, the ledger among them. */
enum { CHUNK_BITS = 28, CHUNKS = 1 << (ADDRESS_BITS - CHUNK_BITS) };
#define CHUNK_BYTES (sizeof(uint32_t) << (CHUNK_BITS - 4))

__thread count_thread_t count_me __attribute__((tls_model("initial-exec")));
uint8_t count_filter[1 << COUNT_FILTER_BITS];

/* The cell of a range that is address space alone, until mprotect makes memory of it. */
#define RESERVED UINT32_MAX

typedef struct range {
    uintptr_t begin, end;
    uint32_t cell;
} range_t;

typedef struct cell_key {
    uint64_t key;
    uint32_t cell;
} cell_key_t;

static struct {
    enum region_mode mode;
    uint64_t interval_bytes;
    _Atomic bool on;
    /* Reads 0 in a child that was cloned without our knowing: it must not write into its parent's region. */
    uint8_t *mine;
    _Atomic(uint32_t *) *shadow;        /* of each 2^28 bytes of address space, or NULL */
    cell_key_t last, cells[CELL_CACHE]; /* for who is alone */
    range_t *ranges;
    uint32_t range_count;
    atomic_flag ranges_busy;
    _Atomic bool reserves; /* there was ever a reserved one */
    _Atomic uintptr_t awaited;
} count;

/* Between two words lie blocks of up to 8 bytes that some allocators made before the hooks were in; aligned allocations may. */
static inline bool has_no_word(const void *block) {
    return !block || (uintptr_t)block >> ADDRESS_BITS || (uintptr_t)block & 15;
}

static inline bool counting(void) {
    return atomic_load_explicit(&count.on, memory_order_relaxed) && *count.mine;
}

/* Where a sample or a new site is at hand: what nobody reads any more need not be counted. */
static inline bool counting_still(void) {
    if (!counting()) return false;
    if (atomic_load_explicit(&store_region()->dismissed, memory_order_relaxed)) count.on = false;
    return count.on;
}

/* ── Making ── */

static __attribute__((noinline)) uint32_t *chunk_make(_Atomic(uint32_t *) *at) {
    uint32_t *other = NULL;
    /* A word more: a block at the very end has its size there. */
    uint32_t *chunk = mmap(NULL, CHUNK_BYTES + 4096, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (chunk == MAP_FAILED) return NULL;
    madvise(chunk, CHUNK_BYTES, MADV_NOHUGEPAGE);
    madvise(chunk, CHUNK_BYTES, MADV_DONTDUMP);
    if (atomic_compare_exchange_strong(at, &other, chunk)) return chunk;
    munmap(chunk, CHUNK_BYTES + 4096);
    return other;
}

/* The word of a block; NULL where none has been made yet, or (make) there is no memory. */
static inline uint32_t *shadow_word(const void *block, bool make) {
    _Atomic(uint32_t *) *at = &count.shadow[(uintptr_t)block >> CHUNK_BITS];
    uint32_t *chunk = atomic_load_explicit(at, memory_order_acquire);
    if (!chunk && make) chunk = chunk_make(at);
    return chunk ? &chunk[((uintptr_t)block & ((1u << CHUNK_BITS) - 1)) >> 4] : NULL;
}

static void shadow_each(void (*what)(_Atomic(uint32_t *) *chunk)) {
    for (size_t i = 0; count.shadow && i < CHUNKS; i++)
        if (count.shadow[i]) what(&count.shadow[i]);
}

static void chunk_close(_Atomic(uint32_t *) *chunk) {
    munmap(*chunk, CHUNK_BYTES + 4096);
    *chunk = NULL;
}

static void chunk_clear(_Atomic(uint32_t *) *chunk) {
    madvise(*chunk, CHUNK_BYTES + 4096, MADV_DONTNEED);
}

int count_open(enum region_mode mode, uint64_t interval_bytes, err_t *e) {
    memset(&count, 0, sizeof count);
    memset(count_filter, 0, sizeof count_filter);
    count.mode = mode;
    count.interval_bytes = interval_bytes;
    count.mine = mem_map(1);
    count.ranges = mem_map(RANGES * sizeof(range_t));
    if (mode == REGION_EXACT) count.shadow = mem_map(CHUNKS * sizeof *count.shadow);
    if (!count.mine || !count.ranges || (mode == REGION_EXACT && !count.shadow)) {
        count_close();
        return err_set(e, -ENOMEM, "no memory for the profile's tables");
    }
    madvise(count.mine, 1, MADV_WIPEONFORK);
    *count.mine = 1;
    count.on = true;
    return 0;
}

void count_close(void) {
    count.on = false;
    mem_unmap(count.mine, 1);
    mem_unmap(count.ranges, RANGES * sizeof(range_t));
    shadow_each(chunk_close);
    mem_unmap((void *)count.shadow, CHUNKS * sizeof *count.shadow);
    memset(&count, 0, sizeof count);
}

/* What is reserved is so in a child, too; unless another thread was just changing the table. */
static void ranges_restart(void) {
    uint32_t kept = 0;
    bool whole = !atomic_flag_test_and_set(&count.ranges_busy);
    for (uint32_t i = 0; i < count.range_count && whole; i++)
        if (count.ranges[i].cell == RESERVED) count.ranges[kept++] = count.ranges[i];
    count.range_count = kept;
    atomic_flag_clear(&count.ranges_busy);
}

void count_restart(bool on) {
    memset(count_filter, 0, sizeof count_filter);
    memset(count.cells, 0, sizeof count.cells);
    count.last = (cell_key_t){0};
    ranges_restart();
    shadow_each(chunk_clear);
    count_me = (count_thread_t){0};
    *count.mine = on;
    count.on = on;
}

/* ── Sampled ── */

static void filter_add(const void *block) {
    uint8_t *at = &count_filter[count_filter_at(block)];
    uint8_t n = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (n != FILTER_FULL &&
           !__atomic_compare_exchange_n(at, &n, n + 1, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* One that was ever full stays so: it is not known any more how many there are. */
static void filter_remove(const void *block) {
    uint8_t *at = &count_filter[count_filter_at(block)];
    uint8_t n = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (n && n != FILTER_FULL &&
           !__atomic_compare_exchange_n(at, &n, n - 1, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

static void seed(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t x = (uint64_t)t.tv_nsec ^ (uint64_t)t.tv_sec << 32 ^ (uintptr_t)&count_me;
    count_me.random = (x * 0x9e3779b97f4a7c15ull) | 1;
    for (int i = 0; i < 4; i++) sample_random(&count_me.random);
}

static store_change_t weigh(const void *block, uint64_t bytes) {
    sample_weight_t w = sample_weigh((uintptr_t)block, bytes, count.interval_bytes);
    return (store_change_t){.bytes = w.bytes, .blocks = w.blocks, .variance = w.variance};
}

static void sampled_add(void *block, uint64_t bytes, uint32_t cell) {
    region_block_t replaced;
    store_change_t c = weigh(block, bytes);
    if (!store_block_put((uintptr_t)block, bytes, cell, &replaced)) return;
    if (replaced.address) {
        store_change_t old = weigh(block, replaced.bytes);
        store_died(replaced.cell, &old);
    } else {
        filter_add(block);
    }
    store_born(cell, &c);
}

void count_sample(void *block, size_t bytes, uint32_t domain) {
    if (!block) {
        count_me.left += (int64_t)bytes;
        return;
    }
    if (!count_me.random) { /* the thread's first */
        seed();
        count_me.left += sample_distance(&count_me.random, count.interval_bytes);
        if (count_me.left >= 0) return;
    }
    count_me.left = sample_distance(&count_me.random, count.interval_bytes);
    if (counting_still()) sampled_add(block, bytes, store_cell(stack_here(), domain));
}

void count_await(const void *block) {
    filter_add(block);
    atomic_store(&count.awaited, (uintptr_t)block);
}

bool count_awaits(void) {
    uintptr_t block = atomic_exchange(&count.awaited, 0);
    if (block) filter_remove((const void *)block);
    return block != 0;
}

static void awaited_came(const void *block) {
    uintptr_t expected = (uintptr_t)block;
    if (block && atomic_compare_exchange_strong(&count.awaited, &expected, 0)) filter_remove(block);
}

count_taken_t count_take(void *block) {
    region_block_t b;
    if (__builtin_expect(atomic_load_explicit(&count.awaited, memory_order_relaxed) != 0, 0))
        awaited_came(block);
    /* NULL stands in the table where nothing does, and realloc and free are called with it. */
    if (!block || !counting() || !store_block_take((uintptr_t)block, &b)) return (count_taken_t){0};
    store_change_t c = weigh(block, b.bytes);
    store_died(b.cell, &c);
    filter_remove(block);
    return (count_taken_t){true, b.cell, b.bytes};
}

/* ── Exact ── */

static inline bool is_python(uint32_t domain) {
    return domain == REGION_MEM || domain == REGION_OBJECT;
}

static store_change_t one_of(uint64_t bytes, bool alone) {
    return (store_change_t){.bytes = (int64_t)bytes, .blocks = 1, .alone = alone};
}

static void shadow_write(uint32_t *word, uint64_t bytes, uint32_t cell) {
    word[0] = (cell + 1) << CELL_SHIFT | (bytes <= SMALL_BYTES ? (uint32_t)bytes + 1 : BIG);
    if (bytes <= SMALL_BYTES) return;
    word[1] = bytes >> 32 ? 0 : (uint32_t)bytes;
    if (bytes >> 32) memcpy(&word[2], &bytes, sizeof bytes);
}

/* Some blocks are told to the recorder, which joins them with the heap's objects: one in 64 KiB, and so all that are large, of which it
 * asks the kernel for the pages that have been touched. */
static inline bool is_shown(const void *block, uint64_t bytes) {
    uint64_t h = ((uintptr_t)block >> 4) * 0x9e3779b97f4a7c15ull;
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93ull;
    /* p = 1 − e^(−x) is x within a percent. */
    if (bytes < REGION_SHOWN_BYTES / 64)
        return h >> 32 < bytes * (UINT64_MAX / REGION_SHOWN_BYTES >> 32);
    return sample_chosen((uintptr_t)block, bytes, REGION_SHOWN_BYTES);
}

static void block_show(void *block, uint64_t bytes, uint32_t cell) {
    region_block_t replaced;
    if (is_shown(block, bytes)) store_block_put((uintptr_t)block, bytes, cell, &replaced);
}

static uint32_t cell_of(uint32_t stack, uint32_t domain, bool alone) {
    if (!alone) return store_cell(stack, domain);
    uint64_t key = (uint64_t)stack << 4 | domain;
    if (count.last.key == key) return count.last.cell;
    cell_key_t *at = &count.cells[(uint32_t)(key * 0x9e3779b97f4a7c15ull >> 54) % CELL_CACHE];
    if (at->key != key) {
        counting_still();
        *at = (cell_key_t){.key = key, .cell = store_cell(stack, domain)};
    }
    count.last = *at;
    return at->cell;
}

void count_born(void *block, size_t bytes, uint32_t domain, bool alone) {
    if (has_no_word(block) || !counting()) return;
    uint32_t *word = shadow_word(block, true);
    if (!word) {
        atomic_fetch_add_explicit(&store_region()->lost_blocks, 1, memory_order_relaxed);
        return;
    }
    if (!alone && is_python(domain)) stack_forget();
    uint32_t cell = cell_of(alone ? stack_here_alone() : stack_here(), domain, alone);
    if (*word) count_died(block, alone); /* its end was missed */
    shadow_write(word, bytes, cell);
    block_show(block, bytes, cell);
    store_change_t c = one_of(bytes, alone && cell); /* cell 0 is everybody's */
    store_born(cell, &c);
}

count_taken_t count_died(void *block, bool alone) {
    if (has_no_word(block) || !counting()) return (count_taken_t){0};
    uint32_t *word = shadow_word(block, false), seen = word ? word[0] : 0;
    if (!seen) return (count_taken_t){0};
    uint32_t code = seen & ((1u << CELL_SHIFT) - 1);
    word[0] = 0;
    /* Inside a block whose end was missed. */
    if (!code || !(seen >> CELL_SHIFT)) return (count_taken_t){0};
    count_taken_t t = {true, (seen >> CELL_SHIFT) - 1, code - 1};
    if (code == BIG) {
        t.bytes = word[1];
        if (!t.bytes) {
            memcpy(&t.bytes, &word[2], sizeof t.bytes);
            word[2] = word[3] = 0;
        }
        word[1] = 0; /* a smaller block may begin there next */
    }
    region_block_t shown;
    if (is_shown(block, t.bytes)) store_block_take((uintptr_t)block, &shown);
    /* A block whose end was missed may be of another domain. */
    store_change_t c = one_of(t.bytes, alone && is_python(store_domain(t.cell)));
    store_died(t.cell, &c);
    return t;
}

uint32_t count_cell_at(const void *block) {
    if (count.mode != REGION_EXACT || !count.shadow || has_no_word(block)) return 0;
    const uint32_t *word = shadow_word(block, false);
    return word && word[0] & ((1u << CELL_SHIFT) - 1) ? word[0] >> CELL_SHIFT : 0;
}

bool count_is_shown(const void *block) {
    if (!count_cell_at(block)) return false;
    const uint32_t *word = shadow_word(block, false);
    uint32_t code = word[0] & ((1u << CELL_SHIFT) - 1);
    uint64_t bytes = code - 1;
    if (code == BIG) bytes = word[1];
    if (!bytes && code == BIG) memcpy(&bytes, &word[2], sizeof bytes);
    return is_shown(block, bytes);
}

void count_put_back(void *block, const count_taken_t *taken, bool alone) {
    if (!taken->known) return;
    if (count.mode == REGION_SAMPLED) {
        sampled_add(block, taken->bytes, taken->cell);
        return;
    }
    store_change_t c = one_of(taken->bytes, alone && is_python(store_domain(taken->cell)));
    shadow_write(shadow_word(block, true), taken->bytes, taken->cell); /* it was there before */
    block_show(block, taken->bytes, taken->cell);
    store_born(taken->cell, &c);
}

/* ── Mapped memory ──
 *
 * A system call each, so a small lock is nothing beside it; and it is never held while anything else is waited for. */

/* false: a signal's handler came while this very thread had it. */
static bool ranges_lock(void) {
    if (count_me.in_ranges) return false;
    count_me.in_ranges = true;
    atomic_signal_fence(memory_order_seq_cst);
    while (atomic_flag_test_and_set_explicit(&count.ranges_busy, memory_order_acquire))
        sched_yield();
    return true;
}

static void ranges_unlock(void) {
    atomic_flag_clear_explicit(&count.ranges_busy, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    count_me.in_ranges = false;
}

static void range_show(const range_t *r) {
    region_block_t replaced;
    if (r->cell != RESERVED) store_block_put(r->begin, r->end - r->begin, r->cell, &replaced);
}

static void range_hide(const range_t *r) {
    region_block_t taken;
    if (r->cell != RESERVED) store_block_take(r->begin, &taken);
}

static void range_begins(const range_t *r, uint64_t bytes, int64_t blocks) {
    store_change_t c = {.bytes = (int64_t)bytes, .blocks = blocks};
    if (r->cell != RESERVED) store_born(r->cell, &c);
}

static void range_ends(const range_t *r, uint64_t bytes, int64_t blocks) {
    store_change_t c = {.bytes = (int64_t)bytes, .blocks = blocks};
    if (r->cell != RESERVED) store_died(r->cell, &c);
}

/* Of what is reserved, too: nobody will see it become usable. */
static void range_lost(void) {
    atomic_fetch_add_explicit(&store_region()->lost_blocks, 1, memory_order_relaxed);
}

/* Without room for what is left on both sides the longer one stays: what is used page by page from one end goes on being seen. */
static void ranges_cut_locked(uintptr_t begin, uintptr_t end) {
    for (uint32_t i = 0; i < count.range_count;) {
        range_t *r = &count.ranges[i], old = *r;
        if (r->begin >= end || r->end <= begin) {
            i++;
        } else if (r->begin >= begin && r->end <= end) {
            range_ends(&old, old.end - old.begin, 1);
            range_hide(&old);
            *r = count.ranges[--count.range_count];
        } else if (r->begin < begin && r->end > end && count.range_count < RANGES) {
            range_t *behind = &count.ranges[count.range_count++];
            r->end = begin;
            *behind = (range_t){end, old.end, old.cell};
            range_ends(&old, end - begin, -1); /* it is two now */
            range_show(r);
            range_show(behind);
            i++;
        } else {
            bool before = r->begin<begin, behind = r->end> end;
            if (before && behind) range_lost();
            if (before && (!behind || begin - r->begin > r->end - end))
                r->end = begin;
            else
                r->begin = end;
            range_ends(&old, (old.end - old.begin) - (r->end - r->begin), 0);
            range_hide(&old);
            range_show(r);
            i++;
        }
    }
}

static size_t whole_pages(size_t bytes) {
    return (bytes + 4095) & ~(size_t)4095;
}

static void range_add_locked(uintptr_t begin, uintptr_t end, uint32_t cell) {
    if (count.range_count == RANGES) {
        range_lost();
        return;
    }
    range_t *r = &count.ranges[count.range_count++];
    *r = (range_t){begin, end, cell};
    range_show(r);
    range_begins(r, end - begin, 1);
}

static void count_range(void *at, size_t bytes, uint32_t cell) {
    uintptr_t begin = (uintptr_t)at, end = begin + whole_pages(bytes);
    if (!ranges_lock()) return;
    ranges_cut_locked(begin, end);
    range_add_locked(begin, end, cell);
    ranges_unlock();
}

void count_mapped(void *at, size_t bytes) {
    if (counting()) count_range(at, bytes, store_cell(stack_here(), REGION_MMAP));
}

void count_reserved(void *at, size_t bytes) {
    if (!counting()) return;
    count.reserves = true;
    count_range(at, bytes, RESERVED);
}

void count_unmapped(void *at, size_t bytes) {
    if (!counting() || !ranges_lock()) return;
    ranges_cut_locked((uintptr_t)at, (uintptr_t)at + whole_pages(bytes));
    ranges_unlock();
}

/* ── Memory out of what was reserved ── */

static const range_t *reserved_in(uintptr_t begin, uintptr_t end) {
    for (uint32_t i = 0; i < count.range_count; i++) {
        const range_t *r = &count.ranges[i];
        if (r->cell == RESERVED && r->begin < end && r->end > begin) return r;
    }
    return NULL;
}

/* What grows by a line, piece by piece, is one range: the table would not hold the pieces of a heap. */
static void range_grow_locked(uintptr_t begin, uintptr_t end, uint32_t cell) {
    for (uint32_t i = 0; i < count.range_count; i++) {
        range_t *r = &count.ranges[i];
        if (r->cell != cell || (r->end != begin && r->begin != end)) continue;
        range_hide(r);
        if (r->end == begin)
            r->end = end;
        else
            r->begin = begin;
        range_show(r);
        range_begins(r, end - begin, 0);
        return;
    }
    range_add_locked(begin, end, cell);
}

bool count_reserves(void) {
    return atomic_load_explicit(&count.reserves, memory_order_relaxed);
}

void count_committed(void *at, size_t bytes) {
    const uintptr_t begin = (uintptr_t)at, end = begin + whole_pages(bytes);
    if (!counting() || !ranges_lock()) return;
    bool any = reserved_in(begin, end) != NULL;
    ranges_unlock();
    if (!any) return;
    const uint32_t cell = store_cell(stack_here(), REGION_MMAP);
    if (!ranges_lock()) return;
    for (const range_t *r; (r = reserved_in(begin, end));) {
        const uintptr_t from = r->begin > begin ? r->begin : begin;
        const uintptr_t to = r->end < end ? r->end : end;
        ranges_cut_locked(from, to);
        range_grow_locked(from, to, cell);
    }
    ranges_unlock();
}
