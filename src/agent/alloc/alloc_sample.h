/* The arithmetic of sampling: Poisson by bytes.
 *
 * Think of the bytes that a thread allocates as a line, with marks on it at exponentially distributed distances of mean R. A
 * block is sampled if a mark falls on it: p = 1 − e^(−S/R) for S bytes. It then stands for S/p bytes and 1/p blocks, which
 * makes every sum unbiased; its share of a sum's variance is S²(1 − p)/p² (Horvitz and Thompson). The weights are functions of
 * address and size, so that a free takes away exactly what the allocation had added.
 *
 * No libm: the agent needs nothing but libc.
 */
#ifndef LOWTIDE_ALLOC_SAMPLE_H
#define LOWTIDE_ALLOC_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

/* xorshift64*; the state is never 0. */
uint64_t sample_random(uint64_t *state);
/* Whole bytes before the next mark, ≥ 0: a block of more than that has it. */
int64_t sample_distance(uint64_t *state, uint64_t interval_bytes);

typedef struct sample_weight {
    int64_t bytes, blocks;
    uint64_t
        variance; /* in whole units of 2^20 bytes²: on average the truth, also where it is less than one */
} sample_weight_t;

sample_weight_t sample_weigh(uintptr_t address, uint64_t bytes, uint64_t interval_bytes);

/* Whether a block is one of those that stand for all, by its address and size alone: with p as above over many addresses, and the
 * same at its end as at its beginning. */
bool sample_chosen(uintptr_t address, uint64_t bytes, uint64_t interval_bytes);

#endif
