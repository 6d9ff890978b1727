#define _GNU_SOURCE
#include "cli/agent_file.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/rss_print.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SILENT_MS = 10000, OWNERS_MAX = 100 };

static uint64_t number(const lowtide_recording *rec, const char *key, double unit) {
    const char *text = lowtide_meta(rec, key);
    double v = text ? strtod(text, NULL) * unit : 0;
    return v > 0 && v < 9e18 ? (uint64_t)v : 0;
}

/* The ledger of a recording, as the agent would have told it then. */
static int read_lines(rss_found_t *f, err_t *e) {
    lowtide_recording *rec = f->load.rec;
    answer_t *a = &f->answer;
    lowtide_table *t;
    lowtide_error error;
    if (lowtide_table_load(rec, "ledger", &t, &error)) return err_set(e, -EIO, "%s", error.text);
    uint32_t name = lowtide_table_column(t, "name"), note = lowtide_table_column(t, "note");
    uint32_t bytes = lowtide_table_column(t, "bytes");
    uint32_t back = lowtide_table_column(t, "returnable_bytes");
    for (uint32_t i = 0; i < lowtide_table_rows(t) && a->count < ANSWER_LINES_MAX; i++) {
        ctl_line_t *line = &a->lines[a->count++];
        line->bytes = lowtide_table_number(t, bytes, i);
        line->returnable_bytes = lowtide_table_number(t, back, i);
        snprintf(line->name, sizeof line->name, "%s", lowtide_table_text(t, name, i));
        snprintf(line->note, sizeof line->note, "%s", lowtide_table_text(t, note, i));
        a->result.bytes += line->bytes;
    }
    lowtide_table_free(t);
    a->result.objects = number(rec, "swap_bytes", 1);
    a->result.references = number(rec, "huge_page_bytes", 1);
    a->result.pause_us = number(rec, "pause_ms", 1e3);
    f->pid = (pid_t)number(rec, "pid", 1);
    if (a->count) return 0;
    return err_set(e, -ENODATA,
                   "the recording has no ledger: the process had ended, or did not answer, when it "
                   "was to be read; `lowtide rss PID` tells it of a live one");
}

/* One that is damaged is as good as none. */
static void read_profile(rss_found_t *f) {
    const model_t *m = f->load.model;
    err_t e;
    if (profile_build(f->load.rec, model_namer(m), &f->profile, &e))
        f->profile = NULL;
    else if (!f->profile->sample_count || profile_join(f->profile, m, NULL, &e)) {
        profile_free(f->profile);
        f->profile = NULL;
    }
}

static int read_recorded(rss_found_t *f, const char *path, err_t *e) {
    int status = load_open(path, &f->load, e);
    if (!status) status = read_lines(f, e);
    if (!status) status = model_owners(f->load.model, OWNERS_MAX, &f->owners, e);
    if (!status) status = model_pins(f->load.model, OWNERS_MAX, &f->pins, e);
    if (!status && f->pins.count) read_profile(f);
    return status;
}

static void heard(void *arg, const ctl_msg_t *m) {
    (void)arg;
    if (m->type == CTL_PROGRESS)
        progress_say(m->progress.phase == CTL_PHASE_GIL ? "waiting for the GIL"
                                                        : "reading the heap");
}

/* The heap says who owns what: a recording that nobody keeps. */
static int record(pid_t pid, uint32_t timeout_ms, int fd, err_t *e) {
    ctl_msg_t m = {
        .type = CTL_CAPTURE,
        .capture = {.flags = CTL_NO_VALUES, .timeout_ms = timeout_ms, .pid = (uint32_t)pid}};
    char agent[4096];
    agent_talk_t t;
    ctl_result_t result = {0};
    int status = agent_file_find(agent, sizeof agent, e);
    if (status) return status;
    interrupt_defer();
    progress_begin("bringing the agent in");
    status = agent_talk_open(&t, pid, agent, timeout_ms, e);
    if (!status) {
        status = agent_talk_work(&t, &m, fd, heard, NULL, timeout_ms + SILENT_MS, &result, e);
        agent_talk_close(&t);
    }
    progress_end();
    return interrupt_signal() ? err_set(e, -EINTR, "interrupted") : status;
}

static int ask_with_owners(rss_found_t *f, pid_t pid, uint32_t timeout_ms, err_t *e) {
    char path[64];
    int fd = memfd_create("lowtide", MFD_CLOEXEC);
    if (fd < 0) return err_sys(e, -errno, "cannot make room for a recording");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int status = record(pid, timeout_ms, fd, e);
    if (!status) status = read_recorded(f, path, e);
    close(fd);
    f->pid = pid;
    return status;
}

static int find_out(rss_found_t *f, const char *word, bool owners, uint32_t timeout_ms, err_t *e) {
    const ctl_msg_t ask = {.type = CTL_RSS, .free = {.timeout_ms = timeout_ms}};
    if (!arguments_pid(word, &f->pid)) return read_recorded(f, word, e);
    pid_t pid = f->pid;
    f->live = true;
    int status =
        owners ? ask_with_owners(f, pid, timeout_ms, e) : agent_talk_once(pid, &ask, &f->answer, e);
    if (!status) f->gpu_count = gpu_read(pid, f->gpus);
    return status;
}

static int rss_exec(const command_t *self, int argc, char **argv) {
    static const struct option longs[] = {{"timeout", required_argument, NULL, 't'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"owners", no_argument, NULL, 'o'},
                                          {0}};
    static rss_found_t found;
    uint32_t timeout_ms = 30000;
    bool json = false, owners = false;
    pid_t pid;
    err_t e;
    int status, got;
    while ((got = command_getopt(self, argc, argv, "", longs, &status)) != COMMAND_END) {
        if (got == COMMAND_STOP) return status;
        if (got == 'j') json = true;
        if (got == 'o') owners = true;
        if (got == 't' && !arguments_span(optarg, &timeout_ms))
            return command_usage(self, "--timeout takes a time like 30s or 500ms, not '%s'",
                                 optarg);
    }
    bool recording = optind + 1 == argc && access(argv[optind], F_OK) == 0;
    if (!recording && !arguments_process(self, argc, argv, &pid, &status)) return status;
    status = find_out(&found, argv[optind], owners, timeout_ms, &e);
    if (interrupt_signal())
        status = interrupt_status();
    else if (status)
        status = command_fail("%s", e.text);
    else if (json)
        rss_print_json(&found);
    else
        rss_print_text(&found);
    profile_free(found.profile);
    model_owners_free(&found.owners);
    model_pins_free(&found.pins);
    load_close(&found.load);
    return status;
}

const command_t command_rss = {
    .name = "rss",
    .args = "PID | F [--owners] [--json] [--timeout 30s]",
    .summary = "Says where every resident byte of a live Python process is",
    .help = "Lines that add up to the process's resident memory: Python's objects, what\n"
            "its allocator holds free, libc's heap in use and free, stacks, code by\n"
            "library, files, shared memory, and what is unexplained; and what of each\n"
            "could go back to the system now. F is a recording: as it was then.\n"
            "\n"
            "  --owners         also which objects own large blocks and mappings: forks\n"
            "                   the process and walks its heap, as `lowtide dump` does\n"
            "  --json           print one JSON object\n"
            "  --timeout T      how long to wait for the process to let go of the GIL\n"
            "\n"
            "Example:\n"
            "  lowtide rss 4711 --owners\n",
    .exec = rss_exec,
};
