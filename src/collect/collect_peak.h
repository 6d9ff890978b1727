/* Snapshots of heaps at their peaks: when they are wanted, and what becomes of them.
 *
 *     peaks_aim    at every look: sets the processes' snapshot_above, by what a snapshot is estimated to cost there and what they
 *                  may cost together: a hundredth of the time so far, less what the process waited for a processor; and looks what
 *                  the ones in progress have cost by now
 *     process      calls (CTL_PROGRAM_PEAKS) once more is live than that
 *     peak_begin   a descriptor for it to write to, and which sampled blocks are alive now; one that is still being written then
 *                  is given up: the caller hangs up on its writer
 *     peak_dear    does it cost more than may be spent? Then the caller hangs up, too, and the writer ends
 *     peak_done    it has written: this is the process's peak from here on, and the one before is forgotten
 *     peaks_write  nested recordings of kind `peak` (docs/format.md), of the largest PEAKS_MOST processes; of the one whose heap
 *                  was captured at its end only where a fifth of the peak was held then and is gone by the end, or is garbage
 *
 * Which of the heap's bytes nobody holds is for who explains heaps to say: before peaks_write the caller asks peak_in_doubt, and puts
 * them into the collector (heap_garbage_bytes) and the peak (garbage_bytes).
 *
 * The cost: the program stands still for the fork, and pays again, by a page fault each, for the pages that it writes to afterwards:
 * a copy until the snapshot is done, a third of that from then on, though it was given up. Few are written to where a program reads
 * large arrays, in the end all where it has small objects. So the first is estimated by how much lies in large blocks; those of one
 * that was taken are counted, by the process's page faults beside those that it takes anyway.
 */
#ifndef LOWTIDE_COLLECT_COLLECT_PEAK_H
#define LOWTIDE_COLLECT_COLLECT_PEAK_H

#include "collect/collect.h"
#include "control/control.h"

enum { PEAKS_MOST = 4 };

/* Whether one is in progress: then look again soon. */
bool peaks_aim(collect_t *c);

/* Returns whether there is to be one: then fd (of an empty file, read and write) is ours, else the caller's still. */
bool peak_begin(collect_t *c, pid_t pid, int fd);
bool peak_dear(const collect_t *c, pid_t pid);
/* result: of the capture, or NULL when nothing came of it. */
void peak_done(collect_t *c, pid_t pid, const ctl_result_t *result);

/* Of the process whose heap at its end is written: its peak, where only garbage can make it worth writing; or NULL. */
collect_peak_t *peak_in_doubt(const collect_t *c);

/* heap: that of the first process at its end goes into the same recording. */
void peaks_write(const collect_t *c, rec_writer_t *w, bool heap);
void peak_free(collect_peak_t *p);

#endif
