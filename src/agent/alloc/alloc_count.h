/* From a hook to the store: which blocks count, and for how much.
 *
 * Sampled. A thread counts down the bytes to its next mark (alloc_sample.h) in `left`; a block that takes it below 0 is sampled.
 * A free looks at one byte: how many sampled blocks' addresses fall on it. It stands for 256 bytes of memory, and neighbours are
 * neighbours in the filter: what a program touches together, 16 KiB, costs one cache line.
 *
 * Muted. What CPython asks of malloc for a block that has been counted already (big objects, arenas) must not count twice: `left`
 * is made endless meanwhile, so that the hooks below need no test of their own.
 *
 * Exact. One 32-bit word for each 16 bytes of address space, mapped 64 MiB at a time where blocks are: no two share one, for
 * allocators align to 16, or are asked for as much (alloc_libc.c).
 *
 *     word 0    cell << 5 │ bytes + 1 of a block of up to 16 bytes, or 31: see the next
 *     word 1    bytes, up to 4 GiB; or 0: 64 bits of them in words 2 and 3
 *
 * Any thread. No lock, no malloc, no call into CPython.
 */
#ifndef LOWTIDE_ALLOC_COUNT_H
#define LOWTIDE_ALLOC_COUNT_H

#include "base/err.h"
#include "control/region.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct count_thread {
    int64_t left; /* bytes to the next mark */
    uint64_t random;
    bool in_ranges; /* it is changing the table of mapped ranges */
} count_thread_t;

enum { COUNT_FILTER_BITS = 16 };

extern __thread count_thread_t count_me __attribute__((tls_model("initial-exec")));
extern uint8_t count_filter[1 << COUNT_FILTER_BITS];

int count_open(enum region_mode mode, uint64_t interval_bytes, err_t *e);
void count_close(void);
/* In a forked child: forgets every block, and keeps what is reserved. on: whether to count from here. */
void count_restart(bool on);

#define COUNT_ENDLESS (INT64_MAX / 2)

static inline int64_t count_mute(void) {
    int64_t left = count_me.left;
    count_me.left = COUNT_ENDLESS;
    return left;
}
static inline void count_unmute(int64_t left) {
    count_me.left = left;
}
static inline bool count_muted(void) {
    return count_me.left > COUNT_ENDLESS / 2;
}

/* ── Sampled ── */

/* Sizes that no allocator has; they would upset the countdown. */
static inline bool count_absurd(size_t bytes) {
    return __builtin_expect(bytes >> 46 != 0, 0);
}
/* Is a mark on the next `bytes`? Then count_sample must follow. */
static inline bool count_reaches(size_t bytes) {
    return __builtin_expect((count_me.left -= (int64_t)bytes) < 0, 0);
}
/* The same, and nothing is counted yet. */
static inline bool count_would_reach(size_t bytes) {
    return __builtin_expect(count_me.left < (int64_t)bytes, 0);
}
void count_sample(void *block, size_t bytes, uint32_t domain);

static inline uint32_t count_filter_at(const void *block) {
    return (uintptr_t)block >> 8 & ((1u << COUNT_FILTER_BITS) - 1);
}
/* May it have been sampled? Then count_take must precede its end. */
static inline bool count_may_have(const void *block) {
    return __builtin_expect(
        __atomic_load_n(&count_filter[count_filter_at(block)], __ATOMIC_RELAXED), 0);
}

/* Is the end of this block seen by count_take? count_await before its end; where it was, nothing is awaited any more. */
void count_await(const void *block);
bool count_awaits(void);

/* ── Both ── */

/* What was known of a block whose end may fail. */
typedef struct count_taken {
    bool known;
    uint32_t cell;
    uint64_t bytes;
} count_taken_t;

count_taken_t count_take(void *block);
void count_put_back(void *block, const count_taken_t *taken, bool alone);

/* ── Exact ── */

/* alone: the caller holds the only GIL there is (domains mem and object): whoever else says so waits for it. */
void count_born(void *block, size_t bytes, uint32_t domain, bool alone);
count_taken_t count_died(void *block, bool alone);

/* The cell of the block that begins here, plus 1; 0: none that is known. Also in a forked child that counts nothing. */
uint32_t count_cell_at(const void *block);
/* Exact: whether the recorder has been told of the block that begins here. In a forked child, too. */
bool count_is_shown(const void *block);

/* Mapped memory, in either mode: counted one by one. Address space that nobody may touch is only remembered, and counts from when
 * it is committed, for who does that: a reserve of a terabyte is nobody's memory. */
void count_mapped(void *at, size_t bytes);
void count_reserved(void *at, size_t bytes);
void count_unmapped(void *at, size_t bytes);
/* Was anything reserved? Then count_committed follows an mprotect that gives any right. */
bool count_reserves(void);
void count_committed(void *at, size_t bytes);

#endif
