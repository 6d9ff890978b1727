#define _GNU_SOURCE
#include "cli/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { SHOW_AFTER_MS = 1000, REDRAW_MS = 100, BAR_CELLS = 24 };

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void progress_begin(progress_t *p) {
    *p = (progress_t){.terminal = isatty(STDERR_FILENO) == 1, .began_ms = now_ms()};
}

void progress_step(progress_t *p, const char *what, uint64_t done, uint64_t total) {
    if (!p->terminal) return;
    int64_t now = now_ms();
    if (now - p->began_ms < SHOW_AFTER_MS || now - p->drawn_ms < REDRAW_MS) return;
    p->drawn_ms = now;
    p->shown = true;
    if (!total || done > total) {
        fprintf(stderr, "\r\033[K%s … %.0f s", what, (double)(now - p->began_ms) / 1e3);
        return;
    }
    char bar[BAR_CELLS + 1];
    int full = (int)(done * BAR_CELLS / total);
    for (int i = 0; i < BAR_CELLS; i++) bar[i] = i < full ? '#' : '.';
    bar[BAR_CELLS] = 0;
    fprintf(stderr, "\r\033[K%s [%s] %3d %%", what, bar, (int)(done * 100 / total));
}

void progress_end(progress_t *p) {
    if (p->shown) fputs("\r\033[K", stderr);
    p->shown = false;
}
