/* Brings agent/alloc into a Python by ctypes, without agent or command line. Call with the GIL held (PyDLL). */
#include "agent/alloc/alloc.h"

#include <stdio.h>

static rt_t runtime;
static err_t error;

__attribute__((visibility("default"))) const char *drive_error(void) {
    return error.text;
}

static bool stateless;

/* From the next start on as from a thread that holds the GIL and has no state. */
__attribute__((visibility("default"))) void drive_stateless(int as) {
    stateless = as;
}

/* The region's descriptor, or a negative errno. */
__attribute__((visibility("default"))) int drive_start(int mode, unsigned long interval_bytes,
                                                       int native) {
    int fd, status = runtime.proven ? 0 : rt_find(&runtime, &error);
    if (!status && !runtime.proven) status = rt_prove(&runtime, &error);
    runtime.no_thread = stateless;
    alloc_options_t o = {
        .mode = (enum region_mode)mode, .interval_bytes = interval_bytes, .native = native};
    if (!status) status = alloc_start(&runtime, &o, &fd, &error);
    return status ? status : fd;
}

__attribute__((visibility("default"))) int drive_stop(void) {
    return alloc_stop(&error);
}

/* Without the GIL (CDLL). */
__attribute__((visibility("default"))) int drive_quiet(unsigned timeout_ms) {
    return alloc_quiet(timeout_ms, &error);
}

__attribute__((visibility("default"))) int drive_fork_child(void) {
    int fd, status = alloc_fork_child(&fd, &error);
    return status ? status : fd;
}

__attribute__((visibility("default"))) void drive_mark(const char *text) {
    alloc_mark(text);
}
