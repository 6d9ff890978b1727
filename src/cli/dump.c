#define _GNU_SOURCE
#include "base/err.h"
#include "cli/agent_file.h"
#include "cli/agent_talk.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "collect/gpu.h"
#include "view/json.h"
#include "view/units.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { SILENT_MS = 10000 };

typedef struct dump {
    pid_t pid;
    const char *to; /* "-": standard output */
    bool fresh;     /* nobody named it */
    bool json, values;
    uint32_t timeout_ms;
    int out;
} dump_t;

static void heard(void *arg, const ctl_msg_t *m) {
    const dump_t *d = arg;
    const ctl_progress_t *p = &m->progress;
    if (m->type != CTL_PROGRESS) return;
    char size[UNITS_BYTES], line[96];
    /* The agent's child writes through the same open file, so its place in it is ours to see. */
    off_t at = lseek(d->out, 0, SEEK_CUR);
    if (p->phase == CTL_PHASE_GIL)
        snprintf(line, sizeof line, "waiting for the GIL of process %d", (int)d->pid);
    else if (at > 0)
        snprintf(line, sizeof line, "reading the heap, %s written", units_size(size, (uint64_t)at));
    else
        snprintf(line, sizeof line, "reading the heap");
    progress_say(line);
}

static int capture(dump_t *d, const char *agent, int out, ctl_result_t *result, err_t *e) {
    ctl_msg_t m = {.type = CTL_CAPTURE,
                   .capture = {.flags = d->values ? 0 : CTL_NO_VALUES,
                               .timeout_ms = d->timeout_ms,
                               .pid = (uint32_t)d->pid}};
    agent_talk_t t;
    int status = agent_talk_open(&t, d->pid, agent, d->timeout_ms, e);
    if (status) return status;
    d->out = out;
    status = agent_talk_work(&t, &m, out, heard, d, d->timeout_ms + SILENT_MS, result, e);
    agent_talk_close(&t);
    return status;
}

/* The driver is asked from here: nothing of it is loaded into the process. */
static int add_gpus(const dump_t *d, const output_t *o, ctl_result_t *r, err_t *e) {
    gpu_row_t rows[GPU_DEVICES];
    unsigned count = o->beside ? gpu_rows(d->pid, rows) : 0;
    if (!count) return 0;
    int fd = output_again(o);
    if (fd < 0) return err_sys(e, -errno, "cannot go on with the recording");
    int status = gpu_append(fd, rows, count, e);
    off_t end = lseek(fd, 0, SEEK_END);
    if (end > 0) r->bytes = (uint64_t)end;
    close(fd);
    return status;
}

static void print_json(const dump_t *d, const ctl_result_t *r) {
    json_t j;
    json_init(&j, stdout);
    json_open(&j, NULL, '{');
    json_int(&j, "schema", 1);
    json_text(&j, "file", strcmp(d->to, "-") == 0 ? NULL : d->to);
    json_open(&j, "process", '{');
    json_int(&j, "pid", d->pid);
    json_close(&j);
    json_open(&j, "capture", '{');
    json_text(&j, "mode", r->mode == CTL_MODE_IN_PLACE ? "in-place" : "fork");
    json_real(&j, "pause_ms", (double)r->pause_us / 1e3);
    json_uint(&j, "objects", r->objects);
    json_uint(&j, "edges", r->references);
    json_real(&j, "duration_s", (double)r->walk_us / 1e6);
    json_uint(&j, "file_bytes", r->bytes);
    json_close(&j);
    json_close(&j);
}

static void print_line(const dump_t *d, const ctl_result_t *r) {
    char objects[UNITS_BYTES], size[UNITS_BYTES], pause[UNITS_BYTES];
    bool to_stdout = strcmp(d->to, "-") == 0;
    FILE *f = to_stdout ? stderr : stdout;
    if (r->text[0]) command_fail("%s", r->text);
    fprintf(f, "%s: %s objects", to_stdout ? "standard output" : d->to,
            units_count(objects, r->objects));
    if (r->bytes) fprintf(f, ", %s", units_size(size, r->bytes));
    fprintf(f, "; process %d stood still for %s\n", (int)d->pid,
            units_span(pause, (double)r->pause_us / 1e6));
}

static int dump(dump_t *d) {
    char agent[4096];
    err_t e;
    output_t o;
    ctl_result_t result = {0};
    if (agent_file_find(agent, sizeof agent, &e)) return command_fail("%s", e.text);
    interrupt_defer();
    if (output_open(&o, d->to, &e)) return command_fail("%s", e.text);
    o.fresh = d->fresh ? d->pid : 0;
    char what[64];
    snprintf(what, sizeof what, "bringing the agent into process %d", (int)d->pid);
    progress_begin(what);
    int status = capture(d, agent, o.fd, &result, &e);
    if (!status) status = add_gpus(d, &o, &result, &e);
    progress_end();
    if (interrupt_signal()) status = -ECANCELED;
    if (status) {
        output_abandon(&o);
        if (interrupt_signal()) return interrupt_status();
        return status == -EPIPE ? EXIT_DONE : command_fail("%s", e.text);
    }
    status = output_finish(&o);
    if (status != EXIT_DONE) return status;
    if (d->fresh) d->to = o.path;
    if (d->json && strcmp(d->to, "-") != 0)
        print_json(d, &result);
    else if (!command_unheard() || strcmp(d->to, "-") == 0)
        print_line(d, &result);
    return EXIT_DONE;
}

static int dump_exec(const command_t *self, int argc, char **argv) {
    static const struct option longs[] = {{"output", required_argument, NULL, 'o'},
                                          {"no-values", no_argument, NULL, 'n'},
                                          {"timeout", required_argument, NULL, 't'},
                                          {"json", no_argument, NULL, 'j'},
                                          {0}};
    dump_t d = {.values = true, .timeout_ms = 30000};
    char name[64];
    int status, got;
    while ((got = command_getopt(self, argc, argv, "o:", longs, &status)) != COMMAND_END) {
        if (got == COMMAND_STOP) return status;
        if (got == 'o') d.to = optarg;
        if (got == 'n') d.values = false;
        if (got == 'j') d.json = true;
        if (got == 't' && !arguments_span(optarg, &d.timeout_ms))
            return command_usage(self, "--timeout takes a time like 30s or 500ms, not '%s'",
                                 optarg);
    }
    if (!arguments_process(self, argc, argv, &d.pid, &status)) return status;
    d.fresh = !d.to;
    if (d.fresh) d.to = output_fresh_name(d.pid, name, sizeof name);
    if (strcmp(d.to, "-") == 0 && isatty(STDOUT_FILENO))
        return command_usage(self,
                             "a recording is not for a terminal; redirect it, or name a file");
    return dump(&d);
}

const command_t command_dump = {
    .name = "dump",
    .args = "PID [-o F.tide] [--no-values] [--timeout 30s] [--json]",
    .summary = "Writes a snapshot of a live Python process's heap to a recording",
    .help = "The process needs no preparation, and goes on as it was: it stands still only\n"
            "while it is forked (about 25 ms a GB), and its fork is read.\n"
            "\n"
            "  -o, --output F   where the recording goes, - for standard output; else\n"
            "                   lowtide-PID.tide, or lowtide-PID-2.tide and so on\n"
            "                   where that is taken. A file appears when it is whole.\n"
            "  --no-values      leave out what strings, numbers and bytes say\n"
            "  --timeout T      how long to wait for the process to let go of the GIL\n"
            "                   (30s, 500ms, 2m); it then is left as it was\n"
            "  --json           print the figures as one JSON object\n"
            "\n"
            "Example:\n"
            "  lowtide dump 4711 && lowtide report\n",
    .exec = dump_exec,
};
