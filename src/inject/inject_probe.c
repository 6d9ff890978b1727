#define _GNU_SOURCE
#include "inject/inject.h"

#include "inject/inject_proc.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

static bool probe_pidfd_getfd(void) {
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (self < 0) return false;
    int fd = (int)syscall(SYS_pidfd_getfd, self, self, 0);
    close(self);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static bool probe_memfd(void) {
    int fd = memfd_create("lowtide", MFD_CLOEXEC);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static bool probe_capability(const char *status) {
    const char *value = proc_status_value(status, "CapEff");
    return value && (strtoull(value, NULL, 16) >> CAP_SYS_PTRACE & 1);
}

int inject_probe(inject_probe_t *out) {
    *out = (inject_probe_t){.yama_scope = -1};
    char *status = proc_read_text("/proc/self/status");
    if (!status) return -errno;
    out->cap_sys_ptrace = probe_capability(status);
    out->seccomp = (int)proc_status_number(status, "Seccomp", 0);
    free(status);
    char *yama = proc_read_text("/proc/sys/kernel/yama/ptrace_scope");
    if (yama) out->yama_scope = atoi(yama);
    free(yama);
    out->pidfd_getfd = probe_pidfd_getfd();
    out->memfd = probe_memfd();
    const char *advice = "";
    if (!out->pidfd_getfd)
        advice = out->seccomp ? "pidfd_getfd is filtered here: run lowtide outside the container"
                              : "Linux 5.6 or later is needed to attach (pidfd_getfd); lowtide run "
                                "works without it";
    else if (!out->memfd)
        advice = "memfd_create is refused here: run lowtide outside the sandbox";
    else if (out->yama_scope == 3)
        advice =
            "kernel.yama.ptrace_scope is 3: nobody may attach until the next boot; use lowtide run";
    else if (!out->cap_sys_ptrace && out->yama_scope > 0)
        advice = "only processes that lowtide started can be attached to: run it as root, or sudo "
                 "sysctl kernel.yama.ptrace_scope=0";
    else if (!out->cap_sys_ptrace)
        advice = "without CAP_SYS_PTRACE only your own processes can be attached to; run as root "
                 "for others";
    snprintf(out->advice, sizeof out->advice, "%s", advice);
    return 0;
}
