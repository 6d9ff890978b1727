#define _GNU_SOURCE
#include "collect/collect.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/proc.h"
#include "collect/collect_gc.h"
#include "collect/collect_live.h"
#include "collect/collect_peak.h"
#include "collect/collect_series.h"
#include "collect/collect_tree.h"
#include "collect/collect_untouched.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    GENERATIONS_MOST = 8,
    GRAIN_US_MIN = COLLECT_LOOK_US, /* between two points of the timeline */
    GRAIN_US_PEAK = 3000,           /* while a snapshot is being written */
    LOOK_US_MAX = 100000,
    GRAIN_US_MAX = 1000000,
    POINTS_A_STRETCH = 200, /* the grain is so small a part of the age, up to a second … */
    POINTS_IN_ALL = 4000,   /* … and from then on this part */
    DESCRIPTORS_SPARED = 96,
    STAT_STATE = 3, /* places in /proc/PID/stat */
    STAT_STARTED = 22,
    STAT_EXIT_CODE = 52,
    EVENTS_MOST = 1 << 20,
    SAMPLES_MOST = 4 << 20
};

uint64_t collect_cost_us(void) {
    return clock_ns(CLOCK_THREAD_CPUTIME_ID) / 1000;
}

uint64_t collect_now_us(const collect_t *c) {
    return (clock_ns(CLOCK_MONOTONIC) - c->begin_ns) / 1000;
}

int collect_begin(collect_t *c, err_t *e) {
    struct rlimit descriptors = {.rlim_cur = 1024};
    getrlimit(RLIMIT_NOFILE, &descriptors);
    *c = (collect_t){.begin_ns = clock_ns(CLOCK_MONOTONIC),
                     .began_ns = clock_ns(CLOCK_REALTIME),
                     .live = {.fd = -1}};
    rlim_t most = descriptors.rlim_cur < INT_MAX ? descriptors.rlim_cur : INT_MAX;
    c->descriptor_most = (int)most - DESCRIPTORS_SPARED;
    if (sites_begin(&c->sites)) return err_sys(e, -ENOMEM, "cannot record");
    return 0;
}

static void process_close(collect_process_t *p) {
    if (p->pidfd >= 0) close(p->pidfd);
    p->pidfd = -1;
    observed_close(&p->observed);
    collect_numbers_free(&p->seen.frames);
    collect_numbers_free(&p->seen.stacks);
    collect_lines_free(&p->seen.lines);
}

void collect_end(collect_t *c) {
    for (size_t i = 0; i < c->processes.count; i++) {
        process_close(c->processes.at[i]);
        sites_seen_free(&c->processes.at[i]->seen);
        peak_free(&c->processes.at[i]->peak);
        peak_free(&c->processes.at[i]->next_peak);
        mem_free(c->processes.at[i]);
    }
    collect_processes_free(&c->processes);
    sites_free(&c->sites);
    collect_points_free(&c->timeline);
    collect_series_free(&c->series);
    collect_events_free(&c->events);
    collect_samples_free(&c->samples);
    live_close(c);
}

/* ── Processes ── */

static uint32_t number_of(const collect_t *c, pid_t pid) {
    for (size_t i = c->processes.count; pid > 0 && i > 0; i--)
        if (c->processes.at[i - 1]->pid == pid) return (uint32_t)i;
    return 0;
}

collect_process_t *collect_find(const collect_t *c, pid_t pid) {
    uint32_t number = number_of(c, pid);
    collect_process_t *p = number ? c->processes.at[number - 1] : NULL;
    return p && !p->ended ? p : NULL;
}

static pid_t parent_of(pid_t pid) {
    char stat[512];
    proc_read(stat, sizeof stat, pid, "stat");
    /* The name in parentheses may hold anything. */
    const char *at = strrchr(stat, ')');
    int parent = 0;
    return at && sscanf(at + 1, " %*c %d", &parent) == 1 ? parent : 0;
}

/* The nearest ancestor that is known: a shell may lie between. */
static uint32_t ancestor_of(const collect_t *c, pid_t pid) {
    for (int i = 0; i < GENERATIONS_MOST && pid > 1; i++) {
        pid = parent_of(pid);
        uint32_t number = number_of(c, pid);
        if (number) return number;
    }
    return 0;
}

static void read_command(collect_process_t *p) {
    size_t n = proc_read(p->command, sizeof p->command, p->pid, "cmdline");
    for (size_t i = 0; i + 1 < n; i++)
        if (!p->command[i]) p->command[i] = '\x1f';
}

/* A number of its stat, by its place there. The state X: it has ended; ?: that is not known. */
static uint64_t stat_number(pid_t pid, int place, char *state) {
    char stat[1024];
    bool read = proc_read(stat, sizeof stat, pid, "stat") > 0;
    *state = read || proc_gone(errno) ? 'X' : '?';
    const char *at = strrchr(stat, ')'); /* the name in parentheses may hold anything */
    if (at && at[1]) *state = at[2];
    for (int field = STAT_STATE - 1; at && field < place; field++) at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

/* A descriptor for each would be too many where few are allowed; then its start tells it from others. Returns whether it is there. */
static bool process_open(const collect_t *c, collect_process_t *p) {
    char state;
    p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0);
    if (p->pidfd >= 0 && p->pidfd >= c->descriptor_most) {
        close(p->pidfd);
        p->pidfd = -1;
    }
    p->started_at = stat_number(p->pid, STAT_STARTED, &state);
    p->past_peak_bytes = proc_status_bytes(p->pid, "VmHWM");
    read_command(p);
    return p->pidfd >= 0 || state != 'X';
}

static void read_events(collect_t *c, uint32_t number, collect_process_t *p);

static bool is_named(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at++)
        if ((at == list || at[-1] == ' ') && (!at[n] || at[n] == ',')) return true;
    return false;
}

void collect_silent_names(const collect_process_t *p, char list[COLLECT_SILENT_ROOM]) {
    uint32_t names[REGION_SILENT_NAMES];
    if (!observed_silent(&p->observed, names)) return;
    for (int i = 0; i < REGION_SILENT_NAMES; i++) {
        observed_text_t text = observed_text(&p->observed, names[i]);
        size_t used = strlen(list);
        char name[256];
        if (!text.bytes || text.bytes >= sizeof name) continue;
        snprintf(name, sizeof name, "%.*s", (int)text.bytes, text.at);
        if (!*name || is_named(list, name) || used + strlen(name) + 3 > COLLECT_SILENT_ROOM)
            continue;
        snprintf(list + used, COLLECT_SILENT_ROOM - used, "%s%s", used ? ", " : "", name);
    }
}

static void read_profile(collect_t *c, uint32_t number) {
    collect_process_t *p = c->processes.at[number];
    if (!p->observed.region || p->frozen) return;
    sites_read(&c->sites, p->pid, &p->observed, &p->seen);
    read_events(c, number, p);
    observed_lost(&p->observed, &p->lost_stacks, &p->lost_blocks);
    observed_mute(&p->observed, &p->mute_children, &p->mute_children_code, &p->mute_code);
    uint32_t names[REGION_SILENT_NAMES];
    p->silent_programs = observed_silent(&p->observed, names);
}

static void keep_end_heap(collect_process_t *p) {
    if (!p->live_kept) p->end_heap_bytes = observed_heap_bytes(&p->observed);
}

static void process_ends(collect_t *c, uint32_t number, int status) {
    collect_process_t *p = c->processes.at[number];
    if (status >= 0 && !p->status) {
        p->status = (uint32_t)status + 1;
        p->changed = true;
    }
    if (p->ended) return;
    read_profile(c, number);
    collect_silent_names(p, c->silent);
    if (!p->frozen) keep_end_heap(p);
    p->ended = p->changed = true;
    p->end_us = collect_now_us(c);
    if (!p->end_us) p->end_us = 1;
    process_close(p);
}

int collect_add(collect_t *c, pid_t pid, pid_t parent, enum collect_how how, int region,
                const char *python, err_t *e) {
    uint32_t before = number_of(c, pid);
    collect_process_t *old = before ? c->processes.at[before - 1] : NULL;
    if (c->processes.count >= COLLECT_PROCESSES_MOST)
        return err_set(e, -E2BIG, "more than %d processes", COLLECT_PROCESSES_MOST);
    observed_t observed = {0};
    if (region >= 0) {
        int status = observed_open(&observed, region, e);
        if (status) return status;
    }
    /* The program was added when it was started: now it says that it is a Python. */
    bool same = old && !old->ended && !old->observed.region && !old->mode;
    collect_process_t *p = same ? old : mem_alloc(sizeof *p);
    if (!p || (!same && collect_processes_push(&c->processes, p))) {
        observed_close(&observed);
        mem_free(p);
        return err_sys(e, -ENOMEM, "cannot record another process");
    }
    uint32_t number = same ? before - 1 : (uint32_t)c->processes.count - 1;
    bool there = true;
    if (!same) {
        if (old && !old->ended) process_ends(c, before - 1, -1);
        *p = (collect_process_t){.pid = pid, .how = how, .begin_us = collect_now_us(c)};
        p->parent = old && !parent ? before : number_of(c, parent);
        if (!p->parent || p->parent > number) p->parent = ancestor_of(c, pid);
        if (p->parent > number) p->parent = 0;
        there = process_open(c, p);
        /* One that ended at once has no words any more; they were its parent's. */
        if (how == COLLECT_FORKED && p->parent && !p->command[0])
            memcpy(p->command, c->processes.at[p->parent - 1]->command, sizeof p->command);
    } else {
        read_command(p);
    }
    p->changed = true;
    p->observed = observed;
    p->mode = observed.mode;
    p->interval_bytes = observed.interval_bytes;
    p->gc = (collect_gc_t){.collecting_at = observed.gc_collecting, .stats_at = observed.gc_stats};
    snprintf(p->python, sizeof p->python, "%s", python);
    /* A child that was gone before it was its turn; what it shared is here. */
    if (!there) process_ends(c, number, -1);
    return (int)number;
}

void collect_ended(collect_t *c, pid_t pid, int status) {
    uint32_t number = number_of(c, pid);
    if (number) process_ends(c, number - 1, status);
}

/* ── Looking ── */

static void add_point(collect_t *c, uint32_t number, uint64_t t_us, uint64_t rss) {
    collect_process_t *p = c->processes.at[number];
    uint64_t heap = observed_heap_bytes(&p->observed);
    heap = heap > p->untouched_bytes ? heap - p->untouched_bytes : 0;
    collect_point_t point = {.process = number,
                             .t_us = t_us,
                             .rss_bytes = rss,
                             .heap_bytes = heap > p->point_heap ? heap : p->point_heap};
    p->point_heap = 0;
    p->heap_peak_passed = false;
    p->point_us = t_us;
    p->point_rss = 0;
    collect_points_push(&c->timeline, point); /* without memory the line has a gap */
}

static uint64_t grain_us(uint64_t age_us) {
    uint64_t grain = age_us / POINTS_A_STRETCH;
    if (grain > GRAIN_US_MAX)
        grain = age_us / POINTS_IN_ALL > GRAIN_US_MAX ? age_us / POINTS_IN_ALL : GRAIN_US_MAX;
    return grain > GRAIN_US_MIN ? grain : GRAIN_US_MIN;
}

static bool read_rss(collect_process_t *p) {
    char text[128];
    if (!proc_read(text, sizeof text, p->pid, "statm") && !proc_gone(errno))
        return p->rss_bytes > 0; /* as it was: we may be short of descriptors */
    const char *at = strchr(text, ' ');
    char *next = NULL;
    uint64_t pages = at ? strtoull(at + 1, &next, 10) : 0;
    if (!pages) return false; /* a zombie */
    uint64_t shared = strtoull(next, NULL, 10), page = (uint64_t)sysconf(_SC_PAGESIZE);
    p->rss_bytes = pages * page;
    p->private_bytes = pages > shared ? (pages - shared) * page : 0;
    return true;
}

/* It fell: the kernel knows how high it was between two looks, and the process how high its heap. */
static void look_back(collect_t *c, collect_process_t *p, bool now) {
    uint64_t highest = proc_status_bytes(p->pid, "VmHWM");
    if (highest <= p->past_peak_bytes) return;
    if (highest > p->rss_peak_bytes) {
        uint64_t t = p->looked_us > p->begin_us ? p->looked_us : p->begin_us;
        p->rss_peak_bytes = p->point_rss = highest;
        p->rss_peak_us = p->point_rss_us = t > p->point_us ? t : p->point_us;
    }
    uint64_t begin = collect_now_us(c);
    if (highest > p->high_rss && (now || begin >= p->back_due_us)) {
        sites_read(&c->sites, p->pid, &p->observed, &p->seen);
        untouched_correct(p, highest);
        uint64_t end = collect_now_us(c);
        p->back_due_us = end + COLLECT_LOOK_PART * (end - begin);
    }
    uint64_t untouched = 0;
    if (!p->heap_peak_passed) return;
    for (size_t i = 0; i < p->seen.cells.count; i++)
        untouched += p->seen.cells.at[i].peak_untouched;
    p->point_heap = p->seen_heap_peak > untouched ? p->seen_heap_peak - untouched : 0;
}

/* The point of a stretch is its highest: so no peak falls between two points. */
static void look(collect_t *c, uint32_t number, bool now) {
    collect_process_t *p = c->processes.at[number];
    if (p->ended || p->frozen) return;
    uint64_t heap = observed_heap_bytes(&p->observed);
    if (!read_rss(p)) return;
    uint64_t t = collect_now_us(c), heap_peak = observed_heap_peak_bytes(&p->observed);
    p->heap_peak_passed |= heap_peak > p->seen_heap_peak;
    p->seen_heap_peak = heap_peak;
    bool fell =
        p->heap_peak_passed && observed_heap_bytes(&p->observed) < heap_peak - heap_peak / 64;
    if (p->rss_bytes < p->looked_rss || fell || now) look_back(c, p, now);
    if (fell) p->heap_peak_passed = false;
    /* While a large block goes, the RSS may stand higher than at the look before, with nothing alive to show for it: it may
     * have gone since the heap was read. */
    bool falls = heap < p->looked_heap - p->looked_heap / 64 ||
                 observed_heap_bytes(&p->observed) < heap - heap / 64 ||
                 p->rss_bytes < p->looked_rss - p->looked_rss / 256;
    p->looked_rss = p->rss_bytes;
    p->looked_heap = heap;
    if (p->rss_bytes > p->rss_peak_bytes) {
        p->rss_peak_bytes = p->rss_bytes;
        p->rss_peak_us = t;
    }
    if (!falls && p->rss_bytes > p->seen_peak_bytes) {
        p->seen_peak_bytes = p->rss_bytes;
        observed_rss_peak(&p->observed);
        p->peak_stale = true;
    }
    bool high = !falls && p->rss_bytes + p->seen_peak_bytes / 64 >= p->seen_peak_bytes;
    bool above = observed_heap_bytes(&p->observed) > p->rss_bytes + p->untouched_bytes;
    bool due = now || t >= p->untouched_due_us, stale = above || untouched_is_stale(p);
    if (now || (due && ((high && p->peak_stale) || stale))) untouched_read(c, number, high, heap);
    /* With what is known to be wrong no line is told. */
    series_look(c, number, t, now, due || !stale);
    if (p->rss_bytes >= p->point_rss) {
        p->point_rss = p->rss_bytes;
        p->point_rss_us = t;
    }
    if (now || !p->point_us || t - p->point_us >= grain_us(t - p->begin_us))
        add_point(c, number, p->point_rss_us, p->point_rss);
    if (p->point_us < t && !p->point_rss) p->point_us = t;
}

/* linux/pidfd.h, from Linux 6.15: how a process ended whom its parent has waited for. */
typedef struct exit_info {
    uint64_t mask, cgroup;
    uint32_t ids[11];
    int32_t exit_code;
} exit_info_t;
_Static_assert(sizeof(exit_info_t) == 64, "as the kernel has it");
enum { EXIT_INFO = 1 << 3 };

static int status_from_pidfd(int pidfd) {
    exit_info_t info = {.mask = EXIT_INFO};
    if (ioctl(pidfd, _IOWR(0xff, 11, exit_info_t), &info) != 0 || !(info.mask & EXIT_INFO))
        return -1;
    return info.exit_code;
}

/* While its parent has not waited for it. */
static int status_of_zombie(const collect_process_t *p) {
    char state;
    int status = (int)stat_number(p->pid, STAT_EXIT_CODE, &state);
    return state == 'Z' ? status : -1;
}

/* The wait status of one that has ended and may be nobody's child by now; -1: not known. */
static int status_of(const collect_process_t *p) {
    int status = status_of_zombie(p);
    return status >= 0 ? status : status_from_pidfd(p->pidfd);
}

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

void collect_peer(collect_t *c, int number, int sock) {
    collect_process_t *p = c->processes.at[number];
    int fd = -1;
    socklen_t n = sizeof fd;
    if (!p->ended || p->status || getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &n) || fd < 0)
        return;
    process_ends(c, (uint32_t)number, status_from_pidfd(fd));
    close(fd);
}

static bool has_ended(collect_process_t *p) {
    struct pollfd fd = {.fd = p->pidfd, .events = POLLIN};
    char state;
    if (p->pidfd >= 0) return poll(&fd, 1, 0) > 0;
    uint64_t started_at = stat_number(p->pid, STAT_STARTED, &state);
    if (state == '?') return false;
    if (!p->started_at) p->started_at = started_at;
    return started_at != p->started_at || strchr("ZX", state);
}

/* A pidfd is asked at little cost; for the others a file is read, now and then. */
static void look_for_ends(collect_t *c, bool now) {
    uint64_t t = collect_now_us(c);
    now |= t >= c->ends_due_us;
    if (now) c->ends_due_us = t + LOOK_US_MAX;
    for (size_t i = 0; i < c->processes.count; i++) {
        collect_process_t *p = c->processes.at[i];
        if (!p->ended && (now || p->pidfd >= 0) && has_ended(p))
            process_ends(c, (uint32_t)i, status_of(p));
    }
}

void collect_note(collect_t *c, const collect_event_t *event) {
    if (c->events.count < EVENTS_MOST) collect_events_push(&c->events, *event);
}

static void read_events(collect_t *c, uint32_t number, collect_process_t *p) {
    region_event_t event;
    while (observed_event(&p->observed, p->seen.events, &event)) {
        observed_text_t text = observed_text(&p->observed, event.text);
        p->seen.events++;
        if (event.kind != REGION_EVENT_GC && event.kind != REGION_EVENT_MARK) continue;
        collect_event_t ours = {.process = number,
                                .kind = event.kind,
                                .text = event.text ? sites_text(&c->sites, text.at, text.bytes) : 0,
                                .t_us = event.t_ns > c->begin_ns ? (event.t_ns - c->begin_ns) / 1000
                                                                 : 0,
                                .duration_us = event.duration_ns / 1000,
                                .value = event.value};
        collect_note(c, &ours);
    }
}

void collect_drain(collect_t *c) {
    look_for_ends(c, true);
    for (uint32_t i = 0; i < c->processes.count; i++) {
        look(c, i, true);
        read_profile(c, i);
    }
}

void collect_refused(collect_t *c, const char *line) {
    size_t used = strlen(c->refused), n = strlen(line);
    if (used + n + 2 > sizeof c->refused || strstr(c->refused, line)) return;
    if (used) c->refused[used++] = '\x1f';
    memcpy(c->refused + used, line, n + 1);
}

const char *collect_why_mute(uint32_t code) {
    if (code == EMFILE || code == ENFILE) return "no file descriptor was free (ulimit -n)";
    if (code == ECONNREFUSED) return "in another network namespace";
    if (code == EAGAIN || code == ETOOMANYREFS) return "too many called at once";
    return strerror((int)code);
}

uint64_t collect_rss(collect_process_t *p) {
    return read_rss(p) ? p->rss_bytes : 0;
}

void collect_samples_of(collect_t *c, collect_process_t *p, collect_samples_t *out) {
    if (!p->observed.region) return;
    uint32_t number = number_of(c, p->pid) - 1;
    read_profile(c, number);
    out->count = 0;
    for (uint64_t i = 0; i < p->observed.blocks.room && out->count < SAMPLES_MOST; i++) {
        region_block_t block;
        if (!observed_block(&p->observed, i, &block) || block.cell >= p->seen.cells.count) continue;
        const observed_cell_t *cell = &p->seen.cells.at[block.cell].figures;
        collect_sample_t sample = {.process = number,
                                   .stack = cell->stack,
                                   .domain = cell->domain,
                                   .address = atomic_load(&block.address),
                                   .bytes = block.bytes};
        if (collect_samples_push(out, sample)) break;
    }
}

void collect_samples(collect_t *c, pid_t pid) {
    collect_process_t *p = collect_find(c, pid);
    if (p) collect_samples_of(c, p, &c->samples);
}

static collect_process_t *read_all(collect_t *c, pid_t pid) {
    collect_process_t *p = collect_find(c, pid);
    if (!p) return NULL;
    look(c, number_of(c, pid) - 1, true);
    read_profile(c, number_of(c, pid) - 1);
    keep_end_heap(p);
    return p;
}

void collect_keep_live(collect_t *c, pid_t pid) {
    collect_process_t *p = read_all(c, pid);
    for (size_t i = 0; p && i < p->seen.cells.count; i++) {
        collect_cell_t *cell = &p->seen.cells.at[i];
        cell->kept_live = cell->figures.live;
        cell->kept_untouched = cell->untouched;
    }
    if (p) p->live_kept = true;
}

void collect_freeze(collect_t *c, pid_t pid) {
    collect_process_t *p = read_all(c, pid);
    if (p) p->frozen = true;
}

int collect_tick(collect_t *c) {
    uint64_t next_us = LOOK_US_MAX, now = collect_now_us(c);
    look_for_ends(c, false);
    for (uint32_t i = 0; i < c->processes.count; i++) {
        collect_process_t *p = c->processes.at[i];
        if (p->ended) continue;
        uint64_t grain = grain_us(now > p->begin_us ? now - p->begin_us : 0);
        if (grain > LOOK_US_MAX) grain = LOOK_US_MAX;
        if (now >= p->looked_us + grain) {
            look(c, i, false);
            p->looked_us = now;
        }
        if (grain < next_us) next_us = grain;
    }
    uint64_t gc_us = gc_look(c);
    if (gc_us < next_us) next_us = gc_us;
    uint64_t tree_us = tree_look(c);
    if (tree_us < next_us) next_us = tree_us;
    if (c->peaks && peaks_aim(c) && next_us > GRAIN_US_PEAK) next_us = GRAIN_US_PEAK;
    now = collect_now_us(c);
    if (c->live.path[0] && now >= c->live.due_us) {
        for (uint32_t i = 0; i < c->processes.count; i++) read_profile(c, i);
        live_write(c, now);
    }
    return (int)(next_us / 1000);
}
