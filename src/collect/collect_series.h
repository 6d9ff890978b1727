/* What each of the program's own lines had over time: the table `lines` (docs/format.md).
 *
 *     live  ▁▂▅▇█▇▂▁      a row for each line whose bytes changed clearly since its last one, and one for the whole heap, with
 *           │  │   │      the most that was alive at once since the row of the heap before: nothing high falls between two
 *
 * Whoever explains can so say how high the memory would still be without a line. A line is the innermost frame of a stack that is no
 * library's, or where there is none the innermost Python frame.
 *
 * Changes below a part in 256 of the highest heap are not told, so a look has some hundred rows at most and mostly none or two. Of all
 * processes together there are so many a second, fewer the longer it goes on: where there are more, only larger changes are told, and
 * then only at longer intervals. No row is left out for that. More than SERIES_MOST there are never; a process whose rows found no room
 * has none from then on (`lines_until_us`), and nobody takes what it has for the whole. Looking costs a hundredth of the time.
 */
#ifndef LOWTIDE_COLLECT_COLLECT_SERIES_H
#define LOWTIDE_COLLECT_COLLECT_SERIES_H

#include "collect/collect.h"

enum { SERIES_MOST = 1 << 18 };

/* Looks, where it is due or must be now. !known: it is not known what of all was touched; only how high the heap was is noted. */
void series_look(collect_t *c, uint32_t number, uint64_t t_us, bool now, bool known);

#endif
