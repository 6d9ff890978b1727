/* What of a process's cells was never touched, now and when the RSS stood highest. The kernel is asked (touched.h) at looks, and between
 * two of them anything may go or come: so what was seen at a peak is made good by how high the RSS really was.
 */
#ifndef LOWTIDE_COLLECT_COLLECT_UNTOUCHED_H
#define LOWTIDE_COLLECT_COLLECT_UNTOUCHED_H

#include "collect/collect.h"

/* Between two looks at least; and how small a part of the time a look may take. */
enum { COLLECT_LOOK_US = 10000, COLLECT_LOOK_PART = 50 };

/* Asks. peak: the RSS is the highest so far; `heap` was alive when it was read. */
void untouched_read(collect_t *c, uint32_t number, bool peak, uint64_t heap);
/* What is resident has changed otherwise than what lives: some of it was touched since, or is gone. */
bool untouched_is_stale(const collect_process_t *p);
/* Since the look at its highest RSS it was higher by what lived in addition, and by what of the rest was touched meanwhile: of what is
 * gone by now. */
void untouched_correct(collect_process_t *p, uint64_t highest);

#endif
