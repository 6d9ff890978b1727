/* Memory, in two kinds, both with one way to make an allocation fail in a test.
 *
 * Mapped memory (mem_map …) comes straight from the kernel: zero-filled, reserved but not charged
 * until it is touched, no lock, no libc heap. It is what the forked child of a target may use, and
 * what big arrays stand on: a mapping grows without being copied. Large mappings ask for huge
 * pages.
 *
 * Heap memory (mem_alloc …) is malloc's. Not for the agent's child; for the command line and what
 * runs in it.
 *
 * All return NULL when there is no memory; sizes are the caller's to remember. Any thread.
 */
#ifndef LOWTIDE_BASE_MEM_H
#define LOWTIDE_BASE_MEM_H

#include <stddef.h>

/* bytes > 0; rounded up to pages. */
void *mem_map(size_t bytes);
/* Grows or shrinks; may move; new bytes are zero. NULL leaves the old mapping as it was.
 * p may be NULL with old_bytes 0. */
void *mem_remap(void *p, size_t old_bytes, size_t bytes);
void mem_unmap(void *p, size_t bytes); /* p may be NULL */

/* From now on mapped memory is refused beyond so many bytes in all; 0 = never (as at first). For who reads what others wrote:
 * the kernel hands out more than there is, and kills later. */
void mem_limit(size_t bytes);

void *mem_alloc(size_t bytes); /* not zeroed; 0 bytes are given as 1 */
void *mem_realloc(void *p, size_t bytes);
void mem_free(void *p);

/* Tests: make the n-th allocation from now fail, once (1: the next one; 0: none). Returns what was
 * left of the count before, so > 0 means that the failure asked for was never reached:
 *     do { mem_fail_at(n++); status = work(); } while (mem_fail_at(0) == 0);
 */
long mem_fail_at(long n);

#endif
