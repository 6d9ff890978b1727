#define _GNU_SOURCE
#include "cli/progress.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { SHOW_AFTER_MS = 1000, REDRAW_MS = 200 };

static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t ended_now;
    bool running, ended;
    volatile bool shown;
    char what[96];
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char wipe[] = "\r\033[K";

/* Into one write, so that it cannot be mixed up with another line. */
static void draw_locked(long long ms) {
    struct winsize w;
    int width = ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 12 ? w.ws_col : 80;
    char line[160];
    int n =
        snprintf(line, sizeof line, "%s%.*s ... %lld s", wipe, width - 12, state.what, ms / 1000);
    state.shown = true;
    if (write(STDERR_FILENO, line, (size_t)n) < 0) state.ended = true;
}

static void *draw(void *unused) {
    (void)unused;
    long long ms = 0;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    pthread_mutex_lock(&state.lock);
    while (!state.ended) {
        long step = ms ? REDRAW_MS : SHOW_AFTER_MS;
        next.tv_nsec += step % 1000 * 1000000;
        next.tv_sec += step / 1000 + next.tv_nsec / 1000000000;
        next.tv_nsec %= 1000000000;
        int late = 0;
        while (!state.ended && !late)
            late = pthread_cond_timedwait(&state.ended_now, &state.lock, &next);
        ms += step;
        if (!state.ended) draw_locked(ms);
    }
    pthread_mutex_unlock(&state.lock);
    return NULL;
}

void progress_say(const char *what) {
    pthread_mutex_lock(&state.lock);
    snprintf(state.what, sizeof state.what, "%s", what);
    /* A file's name may hold anything, and this goes to a terminal. */
    for (char *c = state.what; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e) *c = '?';
    pthread_mutex_unlock(&state.lock);
}

bool progress_runs(void) {
    return state.running;
}

void progress_begin(const char *what) {
    progress_say(what);
    if (state.running || isatty(STDERR_FILENO) != 1) return;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&state.ended_now, &attr);
    pthread_condattr_destroy(&attr);
    state.ended = false;
    sigset_t all, before; /* a signal is the first thread's, which may hold it (output.c) */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    state.running = pthread_create(&state.thread, NULL, draw, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void progress_end(void) {
    if (!state.running) return;
    pthread_mutex_lock(&state.lock);
    state.ended = true;
    pthread_cond_signal(&state.ended_now);
    pthread_mutex_unlock(&state.lock);
    pthread_join(state.thread, NULL);
    pthread_cond_destroy(&state.ended_now);
    state.running = false;
    progress_interrupted();
}

void progress_interrupted(void) {
    if (state.shown && write(STDERR_FILENO, wipe, sizeof wipe - 1) < 0) return;
    state.shown = false;
}
