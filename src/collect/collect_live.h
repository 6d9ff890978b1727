/* The live file: what a recorder that is killed leaves.
 *
 *     F.partial        every second what has changed is put behind what is there
 *     F.partial.new    once the first is twice as long as it was when it was new, all of it afresh; then it takes the name
 *
 *     F.partial.old    what one that was killed had left there
 *
 * So it is never much longer than twice what there is to tell, and writing afresh costs no more than the appending does. Nothing
 * here fails once the file is taken: where there is no room, what was written before stays, and all is tried again a little later.
 *
 * The one who has the file with the name F.partial locked is the one who writes F; from its beginning on, when it is empty. So
 * another one is told before it has run anything.
 */
#ifndef LOWTIDE_COLLECT_COLLECT_LIVE_H
#define LOWTIDE_COLLECT_COLLECT_LIVE_H

#include "collect/collect.h"

/* When it is due: appends what has been read meanwhile, or writes afresh. */
void live_write(collect_t *c, uint64_t begin_us);
/* Ends the writing; the file stays. */
void live_close(collect_t *c);

#endif
