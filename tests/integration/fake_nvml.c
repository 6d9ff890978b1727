/* A stand-in for libnvidia-ml.so.1: two devices of nvml.h's layouts. $FAKE_NVML_PID, or the process whose number stands in the file
 * of that name, uses 3 GiB of the second, among so many processes that a list of 64 is too small. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    unsigned long long total, free, used;
} memory_t;
typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} process_t;

static int devices[2];
enum { TOO_SMALL = 7, OTHERS = 100 };

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device);
int nvmlDeviceGetName(void *device, char *name, unsigned bytes);
int nvmlDeviceGetMemoryInfo(void *device, memory_t *out);
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *out);

int nvmlInit_v2(void) {
    return getenv("FAKE_NVML_BROKEN") ? 9 : 0;
}
int nvmlShutdown(void) {
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 2;
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = &devices[index];
    return 0;
}
int nvmlDeviceGetName(void *device, char *name, unsigned bytes) {
    strncpy(name, device == &devices[1] ? "Fake GPU two" : "Fake GPU one", bytes);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *out) {
    *out = (memory_t){80ull << 30, 70ull << 30, 10ull << 30};
    return device ? 0 : 2;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *out) {
    const char *pid = getenv("FAKE_NVML_PID");
    char text[32];
    FILE *f = pid && *pid == '/' ? fopen(pid, "r") : NULL;
    if (f) {
        pid = fgets(text, sizeof text, f);
        fclose(f);
    }
    unsigned room = *count, n = device == &devices[1] && pid ? OTHERS + 1 : 0;
    *count = n;
    if (room < n) return TOO_SMALL;
    for (unsigned i = 0; i < n; i++)
        out[i] = (process_t){i < OTHERS ? 4000000 + i : (unsigned)atoi(pid), 3ull << 30, 0, 0};
    return 0;
}
