#define _GNU_SOURCE
#include "agent/gone.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MOST_MS = 500, EVERY_US = 100 };

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void gone_wait(pid_t task) {
    const long end = now_ms() + MOST_MS;
    while (task && syscall(SYS_tgkill, getpid(), task, 0) == 0 && now_ms() < end) usleep(EVERY_US);
}
