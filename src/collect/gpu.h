/* What a process has on NVIDIA's GPUs, as the driver's own library (libnvidia-ml.so.1) tells. It is asked from outside: nothing is
 * loaded into the process. Found when asked for; a machine without it has no devices.
 */
#ifndef LOWTIDE_COLLECT_GPU_H
#define LOWTIDE_COLLECT_GPU_H

#include "base/err.h"
#include "format/rec_writer.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { GPU_DEVICES = 32, GPU_NAME_BYTES = 96 };

typedef struct gpu_device {
    unsigned index;
    char name[GPU_NAME_BYTES];
    uint64_t used_bytes, total_bytes; /* of the device, by whomever */
    bool has_process;                 /* the process is one of those that use it */
    bool known;                       /* and the driver says how much it has: */
    uint64_t process_bytes;
} gpu_device_t;

/* How many devices there are, at most GPU_DEVICES; 0 where there is no such library or driver. In a container the driver may know
 * processes by other numbers than we do: then the process is not found on a device that it uses. */
unsigned gpu_read(pid_t pid, gpu_device_t devices[GPU_DEVICES]);

/* A row of kind `gpu` in a recording's table `resources` (docs/format.md). */
typedef struct gpu_row {
    unsigned device;
    uint64_t bytes; /* 0: not known, and the note says so */
    char name[GPU_NAME_BYTES + 32], note[96];
} gpu_row_t;

/* A row for each device that the process uses: how many. While it lives, for then it is forgotten. */
unsigned gpu_rows(pid_t pid, gpu_row_t rows[GPU_DEVICES]);
void gpu_write(rec_writer_t *w, const gpu_row_t *rows, unsigned count);
/* Behind a recording that is whole: fd as for rec_append. */
int gpu_append(int fd, const gpu_row_t *rows, unsigned count, err_t *e);

#endif
