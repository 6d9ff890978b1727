/* Words of the command line that several commands take: spans of time, PIDs, sizes. Each says if it could be read. */
#ifndef LOWTIDE_CLI_ARGUMENTS_H
#define LOWTIDE_CLI_ARGUMENTS_H

#include "cli/command.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* "30s", "500ms", "2m", "1h", or plain seconds; from a millisecond to a day. */
bool arguments_span(const char *text, uint32_t *ms);
bool arguments_pid(const char *text, pid_t *pid);
/* The one word that is left is a PID; else the error has been printed, and *status is what to exit with. */
bool arguments_process(const command_t *self, int argc, char **argv, pid_t *pid, int *status);
/* "524288", "512K", "512KiB", "1.5M", "2GiB". */
bool arguments_size(const char *text, uint64_t *bytes);
/* A size that makes sense between two samples: from 1K to 1G. */
bool arguments_interval(const char *text, uint64_t *bytes);
/* No interval (0) where every allocation is counted; else the error has been printed, and *status is what to exit with. */
bool arguments_mode(const command_t *self, bool exact, uint64_t interval_bytes, int *status);

#endif
