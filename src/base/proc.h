/* What /proc tells of a process. No allocation, no lock. */
#ifndef LOWTIDE_BASE_PROC_H
#define LOWTIDE_BASE_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* /proc/PID/`name` (pid 0: the caller's), as much of it as `room` holds, with a zero behind it. Returns its bytes; 0 where there
 * is none: then errno says why. */
size_t proc_read(char *out, size_t room, pid_t pid, const char *name);
/* Of errno after that: the process is not there. Other errors (EMFILE) tell nothing of it. */
bool proc_gone(int code);

/* A line of its status that tells bytes: `key` is "VmRSS", or "VmHWM" for the highest that ever was. 0: not known, or it has ended. */
uint64_t proc_status_bytes(pid_t pid, const char *key);

#endif
