/* One line on standard error for a person who waits: shown only where standard error is a terminal
 * and the work has taken over a second, with the time it took so far, wiped when it ends. A thread
 * of its own draws it, so the work need not report. One at a time.
 *
 *     progress_begin("explaining app.tide");
 *     … progress_say("sizes");                 another text from here on
 *     progress_end();                          before anything is printed
 */
#ifndef LOWTIDE_CLI_PROGRESS_H
#define LOWTIDE_CLI_PROGRESS_H

#include <stdbool.h>

void progress_begin(const char *what);
void progress_say(const char *what);
/* Whether there is a line for it. */
bool progress_runs(void);
void progress_end(void);
/* Wipes the line; safe in a signal handler. */
void progress_interrupted(void);

#endif
