/* One line of progress on standard error, for a person who waits: shown only where standard error
 * is a terminal and the work has taken over a second, wiped when it ends.
 */
#ifndef LOWTIDE_CLI_PROGRESS_H
#define LOWTIDE_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct progress {
    bool terminal, shown;
    int64_t began_ms, drawn_ms;
} progress_t;

void progress_begin(progress_t *p);
/* `what` is a few words ("sizes of 5,000,000 objects"); total 0 = not known. Cheap; may be called
 * often. */
void progress_step(progress_t *p, const char *what, uint64_t done, uint64_t total);
void progress_end(progress_t *p);

#endif
