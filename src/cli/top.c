#define _GNU_SOURCE
#include "cli/agent_file.h"
#include "cli/agent_talk.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/top_view.h"
#include "control/region.h"
#include "explain/profile.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum { TIMEOUT_MS = 30000, EVERY_MS = 1000, FIRST_MS = 200, ONCE_ROWS = 30, ROWS_UNKNOWN = 24 };
/* The ledger stops the process for a moment: not with each screen. */
enum { LEDGER_EVERY_US = 5000000, LEDGER_WAIT_MS = 5000 };

/* ── Figures ── */

static int by_live_bytes(const void *a, const void *b) {
    const top_site_t *x = a, *y = b;
    if (x->live_bytes != y->live_bytes) return x->live_bytes < y->live_bytes ? 1 : -1;
    return x->frame < y->frame ? -1 : x->frame > y->frame;
}

static top_site_t *site_of(top_t *t, uint32_t frame) {
    for (size_t i = 0; i < t->count; i++)
        if (t->sites[i].frame == frame) return &t->sites[i];
    if (t->count == TOP_SITES_MOST) return NULL;
    t->sites[t->count] = (top_site_t){.frame = frame};
    return &t->sites[t->count++];
}

/* In bytes²: a cell has it in units of 2^20. */
static double variance(const observed_counts_t *counts) {
    return (double)counts->variance * 0x1p20;
}

static void add_to(top_site_t *site, const observed_cell_t *cell) {
    site->live_bytes += (uint64_t)cell->live.bytes;
    site->live_blocks += (uint64_t)cell->live.blocks;
    site->total_bytes += (uint64_t)cell->total.bytes;
    site->live_variance += variance(&cell->live);
    site->total_variance += variance(&cell->total);
}

/* What was allocated a second since the last time, which is off by no more than what came since. */
static void sum_rate(top_t *t, const top_site_t *all) {
    uint64_t now = collect_now_us(&t->record.collect), made = all->total_bytes;
    if (now > t->made_us && made >= t->made_bytes) {
        double since = all->total_variance - t->made_variance;
        double seconds = (double)(now - t->made_us) / 1e6;
        uint64_t error = profile_spread(since > 0 ? since : 0, t->interval_bytes);
        t->rate = (uint64_t)((double)(made - t->made_bytes) / seconds);
        t->rate_error = (uint64_t)((double)error / seconds);
    }
    t->made_bytes = made;
    t->made_variance = all->total_variance;
    t->made_us = now;
}

static void sum_up(top_t *t) {
    const collect_t *c = &t->record.collect;
    top_site_t all = {0};
    t->count = 0;
    for (size_t i = 0; i < c->processes.count; i++) {
        const collect_cells_t *cells = &c->processes.at[i]->seen.cells;
        uint64_t interval = c->processes.at[i]->observed.interval_bytes;
        if (interval > t->interval_bytes) t->interval_bytes = interval;
        for (size_t k = 0; k < cells->count; k++) {
            const observed_cell_t *cell = &cells->at[k].figures;
            if (!cell->domain || cell->stack >= c->sites.stacks.count) continue;
            uint32_t frame = c->sites.stacks.at[cell->stack].frame;
            top_site_t *site = frame < c->sites.frames.count ? site_of(t, frame) : NULL;
            add_to(&all, cell);
            if (site) add_to(site, cell);
        }
    }
    qsort(t->sites, t->count, sizeof t->sites[0], by_live_bytes);
    t->live_variance = all.live_variance;
    sum_rate(t, &all);
}

/* ── Watching ── */

static void draw_terminal(top_t *t) {
    struct winsize w;
    screen_t s;
    screen_init(&s, stdout, STDOUT_FILENO);
    s.color = true; /* the sequences that clear a line's end; the terminal is there */
    int rows = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row ? w.ws_row : ROWS_UNKNOWN;
    fputs("\033[H", stdout);
    top_draw(t, &s, rows > 1 ? rows - 1 : 1);
    fputs("\033[J  q leaves", stdout);
    fflush(stdout);
}

/* Arrows and the like: ESC [ … up to a letter or ~, or ESC O and a letter. */
static ssize_t escape_end(const char *keys, ssize_t i, ssize_t n) {
    if (++i < n && keys[i] == 'O') return i + 1;
    if (i >= n || keys[i] != '[') return i - 1;
    while (++i < n && keys[i] < '@') {
    }
    return i;
}

static void read_keys(top_t *t) {
    char keys[64];
    ssize_t n = read(STDIN_FILENO, keys, sizeof keys);
    if (n == 0) t->quit = true;
    for (ssize_t i = 0; i < n; i++) {
        if (keys[i] == '\033') i = escape_end(keys, i, n);
        if (i < n && (keys[i] == 'q' || keys[i] == 'Q' || keys[i] == 3)) t->quit = true;
    }
}

static void look_further(top_t *t) {
    uint64_t now = collect_now_us(&t->record.collect);
    top_children(&t->more, t->pid);
    if (!t->once && t->ledger_us && now < t->ledger_us + LEDGER_EVERY_US) return;
    t->ledger_us = now;
    top_ledger(&t->more, &t->talk, LEDGER_WAIT_MS);
}

/* For so long, or until the user or the process is gone. */
static void watch(top_t *t, uint32_t ms) {
    collect_t *c = &t->record.collect;
    uint64_t end_us = collect_now_us(c) + ms * 1000ull, now;
    while (!t->quit && !interrupt_signal() && (now = collect_now_us(c)) < end_us) {
        uint64_t left_ms = (end_us - now) / 1000 + 1;
        int wait_ms = collect_tick(c);
        if (!collect_find(c, t->pid)) break;
        struct pollfd p[] = {{.fd = t->talk.sock, .events = POLLRDHUP},
                             {.fd = t->once ? -1 : STDIN_FILENO, .events = POLLIN}};
        if (poll(p, 2, left_ms < (uint64_t)wait_ms ? (int)left_ms : wait_ms) <= 0) continue;
        if (p[1].revents) read_keys(t);
        if (p[0].revents) break;
    }
    collect_drain(c);
    sum_up(t);
    if (!t->quit && !interrupt_signal() && collect_find(c, t->pid)) look_further(t);
}

static void on_terminal(top_t *t) {
    fputs("\033[?1049h\033[?25l", stdout);
    watch(t, FIRST_MS);
    while (!t->quit && !interrupt_signal() && collect_find(&t->record.collect, t->pid)) {
        draw_terminal(t);
        watch(t, t->every_ms);
    }
    fputs("\033[?25h\033[?1049l", stdout);
    fflush(stdout);
}

static void once(top_t *t) {
    screen_t s;
    look_further(t); /* growth is told from here on */
    watch(t, t->every_ms);
    screen_init(&s, stdout, STDOUT_FILENO);
    s.color = false;
    if (t->json)
        top_json(t, stdout);
    else
        top_draw(t, &s, ONCE_ROWS);
}

static int begin(top_t *t, const char *agent, err_t *e) {
    ctl_msg_t m = {.type = CTL_PROFILE}, got;
    int fd = -1;
    int status = attach_tree_open(&t->tree, t->pid, &t->record, agent, &t->profile, e);
    if (!status) status = agent_talk_open(&t->talk, t->pid, agent, TIMEOUT_MS, e);
    m.profile = t->profile;
    if (!status)
        status = agent_talk_ask(&t->talk, &m, -1, CTL_REGION, &got, &fd, 2 * TIMEOUT_MS, e);
    if (!status)
        status = collect_add(&t->record.collect, t->pid, 0, COLLECT_ATTACHED, fd,
                             got.type == CTL_REGION ? got.region.python : "", e);
    if (fd >= 0) close(fd);
    return status < 0 ? status : 0;
}

/* Keys are ours from the first moment to the last, and what was not read of them is nobody's. */
static bool take_keys(struct termios *before) {
    if (tcgetattr(STDIN_FILENO, before)) return false;
    struct termios raw = *before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VSUSP] = _POSIX_VDISABLE;
    return tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

static int show(top_t *t) {
    char agent[4096];
    err_t e;
    if (agent_file_find(agent, sizeof agent, &e) || record_open(&t->record, NULL, false, &e))
        return command_fail("%s", e.text);
    progress_begin("bringing the agent into the process");
    int status = begin(t, agent, &e);
    progress_end();
    if (!status && t->once)
        once(t);
    else if (!status)
        on_terminal(t);
    bool gone = !status && !collect_find(&t->record.collect, t->pid);
    if (!status) interrupt_forget(); /* that ended the watching; another ends the waiting */
    t->talk.tells = !status;
    if (!status && !gone) agent_talk_stop(&t->talk);
    agent_talk_close(&t->talk);
    if (!status) attach_tree_leave(&t->tree);
    attach_tree_close(&t->tree);
    record_close(&t->record);
    if (status) return interrupt_signal() ? interrupt_status() : command_fail("%s", e.text);
    if (gone && !t->once) printf("process %d has ended\n", (int)t->pid);
    return EXIT_DONE;
}

static int top(top_t *t) {
    struct termios before;
    interrupt_defer();
    bool keys = !t->once && take_keys(&before);
    int status = show(t);
    if (keys) tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
    return status;
}

static int top_exec(const command_t *self, int argc, char **argv) {
    static const struct option longs[] = {{"once", no_argument, NULL, '1'},
                                          {"every", required_argument, NULL, 'e'},
                                          {"json", no_argument, NULL, 'j'},
                                          {0}};
    static top_t t = {
        .every_ms = EVERY_MS, .talk = {.sock = -1}, .profile = {.mode = REGION_SAMPLED}};
    int status, got;
    while ((got = command_getopt(self, argc, argv, "", longs, &status)) != COMMAND_END) {
        if (got == COMMAND_STOP) return status;
        if (got == '1' || got == 'j') t.once = true;
        if (got == 'j') t.json = true;
        if (got == 'e' && !arguments_span(optarg, &t.every_ms))
            return command_usage(self, "--every takes a time like 1s or 500ms, not '%s'", optarg);
    }
    if (!arguments_process(self, argc, argv, &t.pid, &status)) return status;
    if (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO)) t.once = true;
    return top(&t);
}

const command_t command_top = {
    .name = "top",
    .args = "PID [--every 1s] [--once | --json]",
    .summary = "Shows live what a Python process allocates, and by which lines",
    .help = "RSS over time, where it is and what of that has grown, the processes below this\n"
            "one, the bytes that were allocated since and are still alive, and the lines that\n"
            "made them, the largest first, sampled as by `lowtide attach`. q leaves, and the\n"
            "process is as before. What is no terminal gets one screen.\n"
            "\n"
            "  --every T        between two screens (1s)\n"
            "  --once           print one screen after that time, and leave\n"
            "  --json           the same as one JSON object\n"
            "\n"
            "Example:\n"
            "  lowtide top 4711\n",
    .exec = top_exec,
};
