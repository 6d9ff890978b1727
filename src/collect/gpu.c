#define _GNU_SOURCE
#include "collect/gpu.h"

#include <dlfcn.h>
#include <stddef.h>
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
