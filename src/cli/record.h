/* The recording that `lowtide run` and `lowtide attach` make: a heap, if one was captured, and behind it what was collected.
 *
 *     F            the heap, then the tables: a file without a name until it is whole (output.h)
 *     F.partial    the tables as they come; removed at the end. It is what a killed lowtide leaves, and locked: another one that
 *                  would write F is refused (-EBUSY)
 *
 * Without a file, or where it is none that can be read again (a FIFO), memory takes its place.
 */
#ifndef LOWTIDE_CLI_RECORD_H
#define LOWTIDE_CLI_RECORD_H

#include "cli/agent_talk.h"
#include "cli/output.h"
#include "collect/collect.h"
#include "collect/gpu.h"

typedef struct record {
    collect_t collect;
    output_t output;
    bool to_file, heap;          /* heap: it was captured into fd */
    int fd;                      /* the heap's capture writes here; read and write */
    gpu_row_t gpus[GPU_DEVICES]; /* of the process whose heap is captured, just before that */
    unsigned gpu_count;
    char no_heap[512]; /* why there is none, where there should be; or "" */
    answer_t ledger;   /* where no heap was captured: what the agent told instead, or no lines */
} record_t;

/* to: NULL for memory. From here on this process may have as many descriptors and as large files as its hard limits say: it needs a
 * descriptor for each process that it watches, and the recording is no file of the program's. */
int record_open(record_t *r, const char *to, bool live, err_t *e);
/* An empty file beside the recording, without a name, for what will go into it; or -1. */
int record_scratch(const record_t *r);
/* Anything but a heap to tell? */
bool record_has_profile(const record_t *r);
/* Writes the tables and puts the file under its name: EXIT_DONE, or a line and EXIT_FAILED. `fd` stays open for reading. */
int record_finish(record_t *r);
/* Removes all files. */
void record_abandon(record_t *r);
/* In a child of ours: as it was before. */
void record_limits_restore(void);
void record_close(record_t *r);

#endif
