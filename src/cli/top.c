#define _GNU_SOURCE
#include "cli/agent_file.h"
#include "cli/agent_talk.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/top_more.h"
#include "collect/collect.h"
#include "control/region.h"
#include "view/screen.h"
#include "view/units.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum { TIMEOUT_MS = 30000, EVERY_MS = 1000, SITES_MOST = 4096, ONCE_ROWS = 20, HEAD_ROWS = 5 };
/* The ledger stops the process for a moment: not with each screen. */
enum { LEDGER_EVERY_US = 5000000, LEDGER_WAIT_MS = 5000, A_SIXTH = 6 };

typedef struct site {
    uint32_t frame;
    uint64_t live_bytes, live_blocks, total_bytes;
} site_t;

typedef struct top {
    pid_t pid;
    bool once, quit;
    uint32_t every_ms;
    agent_talk_t talk;
    collect_t collect;
    site_t sites[SITES_MOST];
    size_t count;
    uint64_t made_bytes, made_us, rate; /* allocated in all, by when; and a second */
    top_more_t more;
    uint64_t ledger_us; /* when it was last asked for */
} top_t;

/* ── Figures ── */

static int by_live_bytes(const void *a, const void *b) {
    const site_t *x = a, *y = b;
    if (x->live_bytes != y->live_bytes) return x->live_bytes < y->live_bytes ? 1 : -1;
    return x->frame < y->frame ? -1 : x->frame > y->frame;
}

static site_t *site_of(top_t *t, uint32_t frame) {
    for (size_t i = 0; i < t->count; i++)
        if (t->sites[i].frame == frame) return &t->sites[i];
    if (t->count == SITES_MOST) return NULL;
    t->sites[t->count] = (site_t){.frame = frame};
    return &t->sites[t->count++];
}

static void sum_up(top_t *t) {
    const collect_t *c = &t->collect;
    uint64_t made = 0, now = collect_now_us(c);
    t->count = 0;
    for (size_t i = 0; i < c->processes.count; i++) {
        const collect_cells_t *cells = &c->processes.at[i]->seen.cells;
        for (size_t k = 0; k < cells->count; k++) {
            const observed_cell_t *cell = &cells->at[k].figures;
            if (!cell->domain || cell->stack >= c->sites.stacks.count) continue;
            uint32_t frame = c->sites.stacks.at[cell->stack].frame;
            site_t *site = frame < c->sites.frames.count ? site_of(t, frame) : NULL;
            made += (uint64_t)cell->total.bytes;
            if (!site) continue;
            site->live_bytes += (uint64_t)cell->live.bytes;
            site->live_blocks += (uint64_t)cell->live.blocks;
            site->total_bytes += (uint64_t)cell->total.bytes;
        }
    }
    qsort(t->sites, t->count, sizeof t->sites[0], by_live_bytes);
    if (now > t->made_us && made >= t->made_bytes)
        t->rate = (made - t->made_bytes) * 1000000 / (now - t->made_us);
    t->made_bytes = made;
    t->made_us = now;
}

/* ── The screen ── */

static void draw_site(const top_t *t, const screen_t *s, const site_t *site) {
    const collect_sites_t *sites = &t->collect.sites;
    const collect_frame_t *f = sites->frames.at + site->frame;
    char live[UNITS_BYTES], made[UNITS_BYTES], where[8192];
    const char *file = sites_text_at(sites, f->file), *slash = strrchr(file, '/');
    int n = snprintf(where, sizeof where, "%s", sites_text_at(sites, f->function));
    if (*file && n >= 0 && (size_t)n < sizeof where)
        snprintf(where + n, sizeof where - (size_t)n, "  %s:%u", slash ? slash + 1 : file, f->line);
    fprintf(s->file, "%12s %12s  ", units_size(live, site->live_bytes),
            units_size(made, site->total_bytes));
    screen_text(s, where, strlen(where), s->width - 28);
    fputs(s->color ? "\033[K\n" : "\n", s->file);
}

static const char *line_end(const screen_t *s) {
    return s->color ? "\033[K\n" : "\n";
}

/* Returns the rows taken. */
static int draw_ledger(const top_t *t, const screen_t *s, size_t most) {
    char size[UNITS_BYTES];
    size_t n = t->more.lines < most ? t->more.lines : most;
    for (size_t i = 0; i < n; i++) {
        fprintf(s->file, "%12s  ", units_size(size, t->more.ledger[i].bytes));
        screen_text(s, t->more.ledger[i].name, strlen(t->more.ledger[i].name), s->width - 14);
        fputs(line_end(s), s->file);
    }
    if (n) fputs(line_end(s), s->file);
    return n ? (int)n + 1 : 0;
}

static int draw_children(const top_t *t, const screen_t *s, size_t most) {
    char size[UNITS_BYTES];
    size_t n = t->more.count < most ? t->more.count : most;
    for (size_t i = 0; i < n; i++) {
        const top_child_t *c = &t->more.children[i];
        fprintf(s->file, "%*s%d  %s  ", 2 * c->depth, "", (int)c->pid,
                units_size(size, c->rss_bytes));
        screen_text(s, c->command, strlen(c->command), s->width - 2 * c->depth - 24);
        fputs(line_end(s), s->file);
    }
    if (t->more.count > n)
        fprintf(s->file, "  and %zu more processes%s", t->more.count - n, line_end(s));
    return (int)n + (t->more.count > n);
}

static void draw(const top_t *t, const screen_t *s, int rows) {
    const collect_process_t *p = t->collect.processes.at[0];
    const char *end = line_end(s);
    char a[UNITS_BYTES], b[UNITS_BYTES], c[UNITS_BYTES], d[UNITS_BYTES], command[4096];
    snprintf(command, sizeof command, "%s", p->command);
    for (char *at = command; *at; at++)
        if (*at == '\x1f') *at = ' ';
    fprintf(s->file, "%d  ", (int)t->pid);
    screen_text(s, command, strlen(command), s->width - 12);
    fputs(end, s->file);
    size_t most = (size_t)rows / A_SIXTH;
    rows -= draw_children(t, s, most);
    snprintf(command, sizeof command, "RSS %s  peak %s  watched and alive %s  allocates %s/s",
             units_size(a, p->rss_bytes), units_size(b, p->rss_peak_bytes),
             units_size(c, observed_heap_bytes(&p->observed)), units_size(d, t->rate));
    screen_text(s, command, strlen(command), s->width - 1);
    fprintf(s->file, "%s%s", end, end);
    rows -= draw_ledger(t, s, most);
    screen_style(s, STYLE_BOLD);
    fprintf(s->file, "%12s %12s  site", "live", "allocated");
    screen_style(s, STYLE_PLAIN);
    fputs(end, s->file);
    for (size_t i = 0; i < t->count && (int)i < rows - HEAD_ROWS; i++)
        if (t->sites[i].total_bytes) draw_site(t, s, &t->sites[i]);
    fflush(s->file);
}

static void draw_terminal(top_t *t) {
    struct winsize w;
    screen_t s;
    screen_init(&s, stdout, STDOUT_FILENO);
    s.color = true; /* the sequences that clear a line's end; the terminal is there */
    fputs("\033[H", stdout);
    draw(t, &s,
         ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > HEAD_ROWS ? w.ws_row - 1 : 24);
    fputs("\033[J  q leaves", stdout);
    fflush(stdout);
}

/* ── Watching ── */

static void read_key(top_t *t) {
    char key;
    ssize_t n = read(STDIN_FILENO, &key, 1);
    if (n == 0 || (n == 1 && (key == 'q' || key == 'Q' || key == 3))) t->quit = true;
}

/* For so long, or until the user or the process is gone. */
static void watch(top_t *t, uint32_t ms) {
    uint64_t end_us = collect_now_us(&t->collect) + ms * 1000ull, now;
    while (!t->quit && !interrupt_signal() && (now = collect_now_us(&t->collect)) < end_us) {
        uint64_t left_ms = (end_us - now) / 1000 + 1;
        int wait_ms = collect_tick(&t->collect);
        if (!collect_find(&t->collect, t->pid)) break;
        struct pollfd p[] = {{.fd = t->talk.sock, .events = POLLRDHUP},
                             {.fd = t->once ? -1 : STDIN_FILENO, .events = POLLIN}};
        if (poll(p, 2, left_ms < (uint64_t)wait_ms ? (int)left_ms : wait_ms) <= 0) continue;
        if (p[1].revents) read_key(t);
        if (p[0].revents) break;
    }
    collect_drain(&t->collect);
    sum_up(t);
    if (t->quit || interrupt_signal() || !collect_find(&t->collect, t->pid)) return;
    top_children(&t->more, t->pid);
    now = collect_now_us(&t->collect);
    if (t->ledger_us && now < t->ledger_us + LEDGER_EVERY_US) return;
    t->ledger_us = now;
    top_ledger(&t->more, &t->talk, LEDGER_WAIT_MS);
}

static void on_terminal(top_t *t) {
    struct termios before, raw;
    bool keys = tcgetattr(STDIN_FILENO, &before) == 0;
    raw = before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    if (keys) tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    fputs("\033[?1049h\033[?25l", stdout);
    watch(t, EVERY_MS / 5);
    while (!t->quit && !interrupt_signal() && collect_find(&t->collect, t->pid)) {
        draw_terminal(t);
        watch(t, t->every_ms);
    }
    fputs("\033[?25h\033[?1049l", stdout);
    fflush(stdout);
    if (keys) tcsetattr(STDIN_FILENO, TCSANOW, &before);
}

static int begin(top_t *t, const char *agent, err_t *e) {
    ctl_msg_t m = {.type = CTL_PROFILE, .profile = {.mode = REGION_SAMPLED}}, got;
    int fd = -1, status = agent_talk_open(&t->talk, t->pid, agent, TIMEOUT_MS, e);
    if (!status)
        status = agent_talk_ask(&t->talk, &m, -1, CTL_REGION, &got, &fd, 2 * TIMEOUT_MS, e);
    if (!status)
        status = collect_add(&t->collect, t->pid, 0, COLLECT_ATTACHED, fd,
                             got.type == CTL_REGION ? got.region.python : "", e);
    if (fd >= 0) close(fd);
    return status < 0 ? status : 0;
}

static int top(top_t *t) {
    char agent[4096];
    err_t e;
    if (agent_file_find(agent, sizeof agent, &e) || collect_begin(&t->collect, &e))
        return command_fail("%s", e.text);
    interrupt_defer();
    progress_begin("bringing the agent into the process");
    int status = begin(t, agent, &e);
    progress_end();
    if (!status && t->once) {
        screen_t s;
        screen_init(&s, stdout, STDOUT_FILENO);
        s.color = false;
        watch(t, t->every_ms);
        draw(t, &s, ONCE_ROWS + HEAD_ROWS);
    } else if (!status) {
        on_terminal(t);
    }
    bool gone = !status && !collect_find(&t->collect, t->pid);
    agent_talk_close(&t->talk);
    collect_end(&t->collect);
    if (status) return interrupt_signal() ? interrupt_status() : command_fail("%s", e.text);
    if (gone && !t->once) printf("process %d has ended\n", (int)t->pid);
    return EXIT_DONE;
}

static int top_exec(const command_t *self, int argc, char **argv) {
    static const struct option longs[] = {
        {"once", no_argument, NULL, '1'}, {"every", required_argument, NULL, 'e'}, {0}};
    static top_t t = {.every_ms = EVERY_MS, .talk = {.sock = -1}};
    int status, got;
    while ((got = command_getopt(self, argc, argv, "", longs, &status)) != COMMAND_END) {
        if (got == COMMAND_STOP) return status;
        if (got == '1') t.once = true;
        if (got == 'e' && !arguments_span(optarg, &t.every_ms))
            return command_usage(self, "--every takes a time like 1s or 500ms, not '%s'", optarg);
    }
    if (!arguments_process(self, argc, argv, &t.pid, &status)) return status;
    if (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO)) t.once = true;
    return top(&t);
}

const command_t command_top = {
    .name = "top",
    .args = "PID [--every 1s] [--once]",
    .summary = "Shows live what a Python process allocates, and by which lines",
    .help = "RSS and where it is, the processes below this one, the bytes that were allocated\n"
            "since and are still alive, and the lines that made them, the largest first,\n"
            "sampled as by `lowtide attach`. q leaves, and the process is as before. What is\n"
            "no terminal gets one screen.\n"
            "\n"
            "  --every T        between two screens (1s)\n"
            "  --once           print one screen after that time, and leave\n"
            "\n"
            "Example:\n"
            "  lowtide top 4711\n",
    .exec = top_exec,
};
