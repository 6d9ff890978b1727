/* Where a recording or a report goes: -o PATH, `-o -` for standard output.
 *
 * A file appears under its name only when it is whole: it is written beside it without a name, is
 * given one ending in ".part" by output_commit, and renamed. A process that is killed leaves nothing.
 * Where the file system has no such files (NFS, overlayfs before Linux 6.1) it has that name from the
 * beginning, and is locked; an interrupted process removes it (command.h), and what a killed one left,
 * if there is nothing in it, the next one does, and says so. What is neither there nor a regular file
 * (/dev/null, a FIFO) is written directly. One output at a time.
 */
#ifndef LOWTIDE_CLI_OUTPUT_H
#define LOWTIDE_CLI_OUTPUT_H

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

typedef struct output {
    int fd;      /* write here; the caller's for reading only, closed by commit and abandon */
    FILE *file;  /* output_file: the same place, buffered */
    int error;   /* of the first write to `file` that failed: an errno */
    bool beside; /* it is not under its name yet; false: written directly */
    pid_t
        fresh; /* not 0: nobody named it; output_commit takes the first of its names that is free */
    char path[4096], part[4096]; /* part: "" without a name */
} output_t;

/* The name of a recording of that process where nobody named one: lowtide-PID.tide, or lowtide-PID-2.tide and so on, the
 * first that is not there. Set `fresh` once it is open: then none is ever replaced. */
const char *output_fresh_name(pid_t pid, char *name, size_t room);
/* path NULL or "-": standard output. */
int output_open(output_t *o, const char *path, err_t *e);
/* The file once more, to read and write, where it is beside its name: a descriptor, or -1. */
int output_again(const output_t *o);
/* A stream over o->fd, made at the first call; NULL and a line in `e` when there is no memory. `o` stays where it is
 * from here on. */
FILE *output_file(output_t *o, err_t *e);
/* Flushes and puts the file under its name. -EPIPE: the reader went away; say nothing and return
 * EXIT_DONE. On any failure the half file is gone. */
int output_commit(output_t *o, err_t *e);
/* Closes and removes what was written. Harmless after output_commit. */
void output_abandon(output_t *o);
/* Removes a half file; safe in a signal handler. */
void output_interrupted(void);
/* EXIT_DONE after a commit, silent at -EPIPE, else the line of `e` and EXIT_FAILED. */
int output_finish(output_t *o);

#endif
