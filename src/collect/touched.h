/* How much of what a process has set aside it never touched.
 *
 * An allocator's reserve of a gigabyte, or numpy.zeros of what is filled in later, is address space: memory it becomes page by page,
 * at the first write. Of the mapped ranges and the large blocks that its region tells (REGION_LARGE_BYTES and more) the kernel is
 * asked by /proc/PID/pagemap which pages are there, in memory or in swap; from Linux 6.7 on without those that were only read. One
 * thread; reading harms nobody.
 */
#ifndef LOWTIDE_COLLECT_TOUCHED_H
#define LOWTIDE_COLLECT_TOUCHED_H

#include "collect/observed.h"

#include <stdint.h>
#include <sys/types.h>

/* Adds up by cell, in the measure of the cell's own figures (sampled: of estimates), what has never been touched.
 * Called with each cell that has any. Returns the sum, 0 where the kernel does not tell. touched: of large blocks, what has been. */
uint64_t touched_not(const observed_t *o, pid_t pid,
                     void (*of_cell)(void *arg, uint32_t cell, uint64_t bytes), void *arg,
                     uint64_t *touched);

#endif
