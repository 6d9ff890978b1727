/* A thread that was joined is among the process's threads for a moment more, which is longer on a busy machine. Who counts them sees it:
 * Python 3.12 and later warn at a fork of a process that has more than one. */
#ifndef LOWTIDE_AGENT_GONE_H
#define LOWTIDE_AGENT_GONE_H

#include <sys/types.h>

/* task: of this process, joined, or 0. At most half a second: its number may be another thread's by now. */
void gone_wait(pid_t task);

#endif
