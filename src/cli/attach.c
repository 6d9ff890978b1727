#define _GNU_SOURCE
#include "cli/agent_file.h"
#include "cli/agent_talk.h"
#include "cli/arguments.h"
#include "cli/attach_tree.h"
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/record.h"
#include "collect/collect_peak.h"
#include "control/region.h"
#include "view/units.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    FOR_MS_DEFAULT = 30000,
    TIMEOUT_MS_DEFAULT = 30000,
    HEAP_MS_DEFAULT = 10000, /* the profile is there; the heap is worth less patience */
    STOP_MS = 60000,
    LEDGER_GIL_MS = 5000,
    LEDGER_MS = 15000, /* of silence */
};

typedef struct attach {
    pid_t pid;
    const char *to;
    bool fresh; /* nobody named it */
    bool heap, report, values, peaks;
    uint32_t for_ms, timeout_ms, heap_ms; /* heap_ms: for the GIL, at the end */
    ctl_profile_t profile;
    record_t record;
    agent_talk_t talk;
    attach_tree_t tree;
    err_t why; /* there is no heap */
} attach_t;

static int begin_profile(attach_t *a, err_t *e) {
    ctl_msg_t m = {.type = CTL_PROFILE, .profile = a->profile}, got;
    int fd;
    int status =
        agent_talk_ask(&a->talk, &m, -1, CTL_REGION, &got, &fd, a->timeout_ms + STOP_MS, e);
    if (status) return status;
    if (got.type != CTL_REGION)
        return err_set(e, -EBADMSG, "the agent in process %d did not start a profile", (int)a->pid);
    status = collect_add(&a->record.collect, a->pid, 0, COLLECT_ATTACHED, fd, got.region.python, e);
    close(fd);
    return status < 0 ? status : 0;
}

static bool has_left(const attach_t *a) {
    struct pollfd p = {.fd = a->talk.sock, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0;
}

/* Until the time is over, a signal came, or the process is gone. */
static void watch(attach_t *a) {
    uint64_t end_us = collect_now_us(&a->record.collect) + a->for_ms * 1000ull, now;
    while ((now = collect_now_us(&a->record.collect)) < end_us && !interrupt_signal()) {
        uint64_t left_ms = (end_us - now) / 1000 + 1;
        int wait_ms = collect_tick(&a->record.collect);
        if (!collect_find(&a->record.collect, a->pid) || has_left(a)) break;
        attach_tree_wait(&a->tree, a->talk.sock,
                         left_ms < (uint64_t)wait_ms ? (int)left_ms : wait_ms);
    }
}

static void freeze(collect_t *c) {
    for (size_t i = 0; i < c->processes.count; i++) collect_freeze(c, c->processes.at[i]->pid);
}

/* In place of the one that a heap has beside it. Without it, too, there is a recording. -ETIMEDOUT: the agent is silent. */
static int read_ledger(attach_t *a, err_t *e) {
    const ctl_msg_t ask = {
        .type = CTL_RSS,
        .free = {.timeout_ms = a->timeout_ms < LEDGER_GIL_MS ? a->timeout_ms : LEDGER_GIL_MS}};
    answer_t *ledger = &a->record.ledger;
    int status = agent_talk_answer(&a->talk, &ask, ledger, LEDGER_MS, e);
    if (status) ledger->count = ledger->pin_count = 0;
    return ledger->result.status ? 0 : status;
}

/* The heap first: its samples are then of blocks that the profile still knows. */
static void end_profile(attach_t *a) {
    ctl_msg_t m = {.type = CTL_CAPTURE,
                   .capture = {.flags = a->values ? 0 : CTL_NO_VALUES,
                               .timeout_ms = a->heap_ms,
                               .pid = (uint32_t)a->pid}};
    ctl_result_t result;
    int status = 0;
    interrupt_forget();              /* that ended the watching; another ends the waiting */
    a->record.collect.peaks = false; /* one capture at a time */
    peaks_aim(&a->record.collect);
    if (!collect_find(&a->record.collect, a->pid))
        status = err_set(&a->why, -ESRCH, "process %d ended", (int)a->pid);
    if (!status && agent_talk_stopped(&a->talk, &a->why)) status = -ETIMEDOUT;
    if (!status && a->heap) {
        collect_samples(&a->record.collect, a->pid);
        a->record.gpu_count = gpu_rows(a->pid, a->record.gpus);
        status = agent_talk_work(&a->talk, &m, a->record.fd, NULL, NULL, a->heap_ms + STOP_MS,
                                 &result, &a->why);
        a->record.heap = !status;
        if (!status && result.text[0]) command_fail("%s", result.text);
    }
    err_t e;
    int unheard = 0;
    if (!a->record.heap && status != -ESRCH && status != -ETIMEDOUT && !interrupt_signal())
        unheard = read_ledger(a, &e);
    freeze(&a->record.collect);
    if (status == -ESRCH || unheard == -ESRCH) return;
    if (unheard)
        command_fail("the hooks stay in process %d until it goes on: %s", (int)a->pid, e.text);
    else
        agent_talk_stop(&a->talk);
}

static void say_what(const attach_t *a) {
    const collect_t *c = &a->record.collect;
    char span[UNITS_BYTES], heap[UNITS_BYTES], below[64] = "";
    uint64_t live = 0;
    for (size_t i = 0; i < c->processes.count; i++) {
        const collect_process_t *p = c->processes.at[i];
        for (size_t k = 0; (!p->ended || p->pid == a->pid) && k < p->seen.cells.count; k++)
            live += (uint64_t)p->seen.cells.at[k].figures.live.bytes;
    }
    if (c->processes.count > 1)
        snprintf(below, sizeof below, " and %zu below it", c->processes.count - 1);
    const char *whose = below[0] ? "they" : "it";
    printf("%s: %s of process %d%s; %s of what %s allocated then is alive\n", a->to,
           units_span(span, (double)collect_now_us(c) / 1e6), (int)a->pid, below,
           units_size(heap, live), whose);
    if (fflush(stdout) && errno == EPIPE) clearerr(stdout); /* a reader that went away */
}

static int finish(attach_t *a) {
    if (a->heap && !a->record.heap)
        snprintf(a->record.no_heap, sizeof a->record.no_heap, "%s", a->why.text);
    int status = record_finish(&a->record);
    if (status != EXIT_DONE) return status;
    if (a->heap && !a->record.heap) command_fail("no heap was captured: %s", a->why.text);
    if (strcmp(a->to, "-") == 0) return status;
    if (!command_unheard()) say_what(a);
    return a->report ? report_print(a->to) : EXIT_DONE;
}

/* In the target, and out of it again. */
static int visit(attach_t *a, const char *agent, err_t *e) {
    char what[64];
    snprintf(what, sizeof what, "bringing the agent into process %d", (int)a->pid);
    progress_begin(what);
    int status = attach_tree_open(&a->tree, a->pid, &a->record, agent, &a->profile, e);
    if (!status) status = agent_talk_open(&a->talk, a->pid, agent, a->timeout_ms, e);
    a->talk.tells = true;
    if (!status) status = begin_profile(a, e);
    if (!status) {
        snprintf(what, sizeof what, "watching process %d; Ctrl-C ends early", (int)a->pid);
        progress_say(what);
        watch(a);
        progress_say("reading the heap");
        end_profile(a);
        progress_say("leaving");
    }
    agent_talk_close(&a->talk);
    if (!status) attach_tree_leave(&a->tree);
    attach_tree_close(&a->tree);
    progress_end();
    return status;
}

static int attach(attach_t *a) {
    char agent[4096];
    err_t e;
    if (agent_file_find(agent, sizeof agent, &e)) return command_fail("%s", e.text);
    interrupt_defer();
    if (record_open(&a->record, a->to, true, &e)) return command_fail("%s", e.text);
    a->record.output.fresh = a->fresh ? a->pid : 0;
    a->record.collect.peaks = a->peaks;
    int status = visit(a, agent, &e);
    if (status) {
        record_abandon(&a->record);
        status = interrupt_signal() ? interrupt_status() : command_fail("%s", e.text);
    } else {
        status = finish(a);
    }
    record_close(&a->record);
    return status;
}

static int attach_exec(const command_t *self, int argc, char **argv) {
    static const struct option longs[] = {{"output", required_argument, NULL, 'o'},
                                          {"for", required_argument, NULL, 'f'},
                                          {"exact", no_argument, NULL, 'e'},
                                          {"interval", required_argument, NULL, 'i'},
                                          {"native", no_argument, NULL, 'N'},
                                          {"no-heap", no_argument, NULL, 'H'},
                                          {"report", no_argument, NULL, 'r'},
                                          {"no-values", no_argument, NULL, 'n'},
                                          {"timeout", required_argument, NULL, 't'},
                                          {"no-children", no_argument, NULL, 'C'},
                                          {"peak-snapshot", no_argument, NULL, 'k'},
                                          {"no-peak-snapshot", no_argument, NULL, 'K'},
                                          {0}};
    static attach_t a = {.heap = true,
                         .values = true,
                         .peaks = true,
                         .for_ms = FOR_MS_DEFAULT,
                         .timeout_ms = TIMEOUT_MS_DEFAULT,
                         .heap_ms = HEAP_MS_DEFAULT,
                         .profile = {.mode = REGION_SAMPLED, .flags = CTL_PROFILE_CHILDREN},
                         .talk = {.sock = -1},
                         .tree = {.listen = {.sock = -1}}};
    static char name[64];
    int status, got;
    while ((got = command_getopt(self, argc, argv, "o:", longs, &status)) != COMMAND_END) {
        if (got == COMMAND_STOP) return status;
        if (got == 'o') a.to = optarg;
        if (got == 'e') a.profile.mode = REGION_EXACT;
        if (got == 'N') a.profile.flags |= CTL_PROFILE_NATIVE;
        if (got == 'H') a.heap = false;
        if (got == 'C') a.profile.flags &= ~(uint32_t)CTL_PROFILE_CHILDREN;
        if (got == 'k' || got == 'K') a.peaks = got == 'k';
        if (got == 'r') a.report = true;
        if (got == 'n') a.values = false;
        if (got == 'i' && !arguments_interval(optarg, &a.profile.interval_bytes))
            return command_usage(self, "--interval takes bytes like 512K, from 1K to 1G, not '%s'",
                                 optarg);
        if ((got == 'f' && !arguments_span(optarg, &a.for_ms)) ||
            (got == 't' && !arguments_span(optarg, &a.timeout_ms)))
            return command_usage(self, "--%s takes a time like 30s or 500ms, not '%s'",
                                 got == 'f' ? "for" : "timeout", optarg);
        if (got == 't') a.heap_ms = a.timeout_ms;
    }
    bool exact = a.profile.mode == REGION_EXACT;
    if (!arguments_mode(self, exact, a.profile.interval_bytes, &status) ||
        !arguments_process(self, argc, argv, &a.pid, &status))
        return status;
    a.fresh = !a.to;
    if (a.fresh) a.to = output_fresh_name(a.pid, name, sizeof name);
    if (strcmp(a.to, "-") == 0 && isatty(STDOUT_FILENO))
        return command_usage(self,
                             "a recording is not for a terminal; redirect it, or name a file");
    return attach(&a);
}

const command_t command_attach = {
    .name = "attach",
    .args = "PID [--for 30s] [-o F.tide] [--exact] [--no-heap] [--report]",
    .summary = "Watches what a live Python process allocates, for a while",
    .help = "The process needs no preparation. Its allocations are sampled for a while, and\n"
            "those of all Pythons below it; its heap is captured, and all are left as they\n"
            "were. Ctrl-C ends it early, and what was recorded is kept; so it is when the\n"
            "process ends. Another Ctrl-C ends the waiting for a process that is slow to\n"
            "answer.\n"
            "\n"
            "  --for T          how long (30s, 500ms, 2m)\n"
            "  -o, --output F   where the recording goes, - for standard output; else\n"
            "                   lowtide-PID.tide, or lowtide-PID-2.tide and so on\n"
            "                   where that is taken\n"
            "  --exact          count every allocation instead of sampling\n"
            "  --interval N     bytes between two samples, in the mean (512K)\n"
            "  --native         record the C functions on the stacks, too\n"
            "  --no-children    leave the processes below it alone\n"
            "  --no-heap        capture no heap at the end; the ledger is asked for all the same,\n"
            "                   which takes the GIL for a moment\n"
            "  --no-peak-snapshot\n"
            "                   do not capture the heap at its peaks, too, as is done where it\n"
            "                   costs below a hundredth of the time (--peak-snapshot)\n"
            "  --report         print the report, too\n"
            "  --no-values      leave out what strings, numbers and bytes say\n"
            "  --timeout T      how long to wait for the process to let go of the GIL (30s; for\n"
            "                   the heap at the end 10s)\n"
            "\n"
            "Example:\n"
            "  lowtide attach 4711 --for 60s -o slow.tide && lowtide report slow.tide\n",
    .exec = attach_exec,
};
