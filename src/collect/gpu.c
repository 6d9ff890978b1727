#define _GNU_SOURCE
#include "collect/gpu.h"

#include "format/rec_table.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, TOO_SMALL = 7, PROCESSES_MAX = 1 << 16 };
#define NOT_AVAILABLE UINT64_MAX

/* As nvml.h has them; an opaque handle is a pointer. */
typedef struct memory {
    unsigned long long total, free, used;
} memory_t;
typedef struct process {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} process_t;
_Static_assert(sizeof(process_t) == 24 && offsetof(process_t, used) == 8, "nvmlProcessInfo_t");

typedef int processes_fn(void *device, unsigned *count, process_t *out);

typedef struct nvml {
    void *library;
    int (*init)(void);
    int (*shutdown)(void);
    int (*count)(unsigned *count);
    int (*handle)(unsigned index, void **device);
    int (*name)(void *device, char *name, unsigned bytes);
    int (*memory)(void *device, memory_t *out);
    processes_fn *compute, *graphics;
} nvml_t;

static bool find(nvml_t *n) {
    const struct {
        const char *name;
        void *to;
        bool needed;
    } all[] = {{"nvmlInit_v2", &n->init, true},
               {"nvmlShutdown", &n->shutdown, true},
               {"nvmlDeviceGetCount_v2", &n->count, true},
               {"nvmlDeviceGetHandleByIndex_v2", &n->handle, true},
               {"nvmlDeviceGetName", &n->name, true},
               {"nvmlDeviceGetMemoryInfo", &n->memory, true},
               {"nvmlDeviceGetComputeRunningProcesses_v3", &n->compute, false},
               {"nvmlDeviceGetGraphicsRunningProcesses_v3", &n->graphics, false}};
    n->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!n->library) return false;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        void *found = dlsym(n->library, all[i].name);
        if (!found && all[i].needed) return false;
        memcpy(all[i].to, &found, sizeof found);
    }
    return true;
}

/* Processes come and go between the question how many there are and the one which. */
static void look_for(processes_fn *list, void *handle, pid_t pid, gpu_device_t *d) {
    unsigned room = 64, count;
    process_t *all = NULL;
    int status = list ? TOO_SMALL : OK;
    while (status == TOO_SMALL && room <= PROCESSES_MAX) {
        free(all);
        all = calloc(room, sizeof *all);
        if (!all) return;
        count = room;
        status = list(handle, &count, all);
        room *= 2;
    }
    for (unsigned i = 0; list && status == OK && i < count && i < room; i++) {
        if ((pid_t)all[i].pid != pid) continue;
        d->has_process = true;
        if (all[i].used == NOT_AVAILABLE) continue;
        d->known = true;
        d->process_bytes += all[i].used;
    }
    free(all);
}

static bool read_device(const nvml_t *n, unsigned index, pid_t pid, gpu_device_t *d) {
    void *handle;
    memory_t memory = {0};
    *d = (gpu_device_t){.index = index};
    if (n->handle(index, &handle) != OK) return false;
    if (n->name(handle, d->name, sizeof d->name) != OK) strcpy(d->name, "GPU");
    d->name[sizeof d->name - 1] = '\0';
    if (n->memory(handle, &memory) == OK) {
        d->used_bytes = memory.used;
        d->total_bytes = memory.total;
    }
    look_for(n->compute, handle, pid, d);
    if (!d->has_process) look_for(n->graphics, handle, pid, d);
    return true;
}

unsigned gpu_read(pid_t pid, gpu_device_t devices[GPU_DEVICES]) {
    nvml_t n = {0};
    unsigned found = 0, count = 0;
    if (find(&n) && n.init() == OK) {
        if (n.count(&count) != OK) count = 0;
        for (unsigned i = 0; i < count && found < GPU_DEVICES; i++)
            found += read_device(&n, i, pid, &devices[found]);
        n.shutdown();
    }
    if (n.library) dlclose(n.library);
    return found;
}

unsigned gpu_rows(pid_t pid, gpu_row_t rows[GPU_DEVICES]) {
    gpu_device_t devices[GPU_DEVICES];
    unsigned count = gpu_read(pid, devices), used = 0;
    for (unsigned i = 0; i < count; i++) {
        const gpu_device_t *d = &devices[i];
        if (!d->has_process) continue;
        gpu_row_t *row = &rows[used++];
        *row = (gpu_row_t){.device = d->index, .bytes = d->process_bytes};
        snprintf(row->name, sizeof row->name, "GPU %u, %s", d->index, d->name);
        if (!d->known) strcpy(row->note, "the driver does not tell how much");
    }
    return used;
}

void gpu_write(rec_writer_t *w, const gpu_row_t *rows, unsigned count) {
    static const rec_table_column_t columns[] = {
        {"kind", REC_TEXT}, {"name", REC_TEXT},     {"descriptor", REC_SIGNED},
        {"file", REC_TEXT}, {"line", REC_VARINT},   {"function", REC_TEXT},
        {"note", REC_TEXT}, {"address", REC_DELTA}, {"bytes", REC_VARINT}};
    if (!count) return;
    rec_table_begin(w, "resources", columns, sizeof columns / sizeof columns[0]);
    for (unsigned i = 0; i < count; i++) {
        rec_table_text(w, "gpu", 3);
        rec_table_text(w, rows[i].name, strlen(rows[i].name));
        rec_table_number(w, rows[i].device);
        rec_table_text(w, "", 0);
        rec_table_number(w, 0);
        rec_table_text(w, "", 0);
        rec_table_text(w, rows[i].note, strlen(rows[i].note));
        rec_table_number(w, 0);
        rec_table_number(w, rows[i].bytes);
    }
    rec_table_end(w);
}

int gpu_append(int fd, const gpu_row_t *rows, unsigned count, err_t *e) {
    rec_writer_t *w;
    int status = rec_append(&w, fd, e);
    if (status) return status;
    gpu_write(w, rows, count);
    return rec_close(w, 0, 0, e);
}
