#define _GNU_SOURCE
#include "cli/agent_talk.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "collect/gpu.h"
#include "view/json.h"
#include "view/screen.h"
#include "view/units.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PIN_SAID_MIN = 1 << 20 };

/* What the driver says of the process; only the devices that it uses, or may use. */
static void gpu_json(json_t *j, const gpu_device_t *devices, unsigned count) {
    json_open(j, "gpu", '[');
    for (unsigned i = 0; i < count; i++) {
        const gpu_device_t *d = &devices[i];
        json_open(j, NULL, '{');
        json_uint(j, "device", d->index);
        json_text(j, "name", d->name);
        if (d->known)
            json_uint(j, "process_bytes", d->process_bytes);
        else
            json_null(j, "process_bytes");
        json_uint(j, "used_bytes", d->used_bytes);
        json_uint(j, "total_bytes", d->total_bytes);
        json_close(j);
    }
    json_close(j);
}

static void gpu_text(const gpu_device_t *devices, unsigned count) {
    char size[UNITS_BYTES], used[UNITS_BYTES], total[UNITS_BYTES];
    for (unsigned i = 0; i < count; i++) {
        const gpu_device_t *d = &devices[i];
        if (!d->has_process) continue;
        printf("%12s %12s  on GPU %u, %s: %s of %s in use by all\n",
               d->known ? units_size(size, d->process_bytes) : "?", "", d->index, d->name,
               units_size(used, d->used_bytes), units_size(total, d->total_bytes));
    }
}

static void print_json(pid_t pid, const answer_t *a) {
    gpu_device_t devices[GPU_DEVICES];
    unsigned gpus = gpu_read(pid, devices);
    json_t j;
    json_init(&j, stdout);
    json_open(&j, NULL, '{');
    json_int(&j, "schema", 1);
    json_open(&j, "process", '{');
    json_int(&j, "pid", pid);
    json_close(&j);
    json_open(&j, "memory", '{');
    json_uint(&j, "rss_bytes", a->result.bytes);
    json_uint(&j, "swap_bytes", a->result.objects);
    json_uint(&j, "huge_page_bytes", a->result.references);
    json_close(&j);
    json_real(&j, "pause_ms", (double)a->result.pause_us / 1e3);
    json_open(&j, "ledger", '[');
    for (unsigned i = 0; i < a->count; i++) {
        json_open(&j, NULL, '{');
        json_text(&j, "name", a->lines[i].name);
        json_uint(&j, "bytes", a->lines[i].bytes);
        json_uint(&j, "returnable_bytes", a->lines[i].returnable_bytes);
        json_text(&j, "note", a->lines[i].note);
        json_close(&j);
    }
    json_close(&j);
    json_open(&j, "pins", '[');
    for (unsigned i = 0; i < a->pin_count; i++) {
        json_open(&j, NULL, '{');
        json_text(&j, "type", a->pins[i].type);
        json_uint(&j, "objects", a->pins[i].objects);
        json_uint(&j, "arenas", a->pins[i].arenas);
        json_uint(&j, "bytes", a->pins[i].bytes);
        json_uint(&j, "returnable_bytes", a->pins[i].returnable_bytes);
        json_close(&j);
    }
    json_close(&j);
    gpu_json(&j, devices, gpus);
    json_close(&j);
}

static void print_pins(const screen_t *s, const answer_t *a) {
    char size[UNITS_BYTES], back[UNITS_BYTES], count[UNITS_BYTES];
    for (unsigned i = 0; i < a->pin_count; i++) {
        const ctl_pin_t *p = &a->pins[i];
        if (p->bytes < PIN_SAID_MIN) continue;
        if (!i) fputs("\nNearly empty arenas, and what keeps each:\n", stdout);
        printf("%12s %12s  %u %s: %s ", units_size(size, p->bytes),
               p->returnable_bytes ? units_size(back, p->returnable_bytes) : "", p->arenas,
               p->arenas == 1 ? "arena" : "arenas", units_count(count, p->objects));
        screen_text(s, p->type, strlen(p->type), INT_MAX);
        fputc('\n', stdout);
    }
}

static void print_text(pid_t pid, const answer_t *a) {
    gpu_device_t devices[GPU_DEVICES];
    char size[UNITS_BYTES], back[UNITS_BYTES];
    screen_t s;
    uint64_t returnable = 0;
    screen_init(&s, stdout, STDOUT_FILENO);
    printf("%12s %12s\n", "resident", "returnable");
    for (unsigned i = 0; i < a->count; i++) {
        const ctl_line_t *l = &a->lines[i];
        returnable += l->returnable_bytes;
        printf("%12s %12s  ", units_size(size, l->bytes),
               l->returnable_bytes ? units_size(back, l->returnable_bytes) : "");
        screen_text(&s, l->name, strlen(l->name), INT_MAX);
        fputc('\n', stdout);
        if (!l->note[0] || !l->bytes) continue;
        printf("%27s", "");
        screen_text(&s, l->note, strlen(l->note), INT_MAX);
        fputc('\n', stdout);
    }
    printf("%12s %12s  all of process %d\n", units_size(size, a->result.bytes),
           units_size(back, returnable), (int)pid);
    if (a->result.objects)
        printf("%12s %12s  swapped out\n", units_size(size, a->result.objects), "");
    if (a->result.references)
        printf("%12s %12s  of it in huge pages\n", units_size(size, a->result.references), "");
    gpu_text(devices, gpu_read(pid, devices));
    print_pins(&s, a);
    if (returnable >= 1 << 20)
        printf("\n`lowtide free %d` gives %s back.\n", (int)pid, units_size(back, returnable));
}

static int rss_exec(const command_t *self, int argc, char **argv) {
    static const struct option longs[] = {
        {"timeout", required_argument, NULL, 't'}, {"json", no_argument, NULL, 'j'}, {0}};
    static answer_t answer;
    ctl_msg_t ask = {.type = CTL_RSS, .free = {.timeout_ms = 30000}};
    bool json = false;
    pid_t pid;
    err_t e;
    int status, got;
    while ((got = command_getopt(self, argc, argv, "", longs, &status)) != COMMAND_END) {
        if (got == COMMAND_STOP) return status;
        if (got == 'j') json = true;
        if (got == 't' && !arguments_span(optarg, &ask.free.timeout_ms))
            return command_usage(self, "--timeout takes a time like 30s or 500ms, not '%s'",
                                 optarg);
    }
    if (!arguments_process(self, argc, argv, &pid, &status)) return status;
    status = agent_talk_once(pid, &ask, &answer, &e);
    if (interrupt_signal()) return interrupt_status();
    if (status) return command_fail("%s", e.text);
    if (json)
        print_json(pid, &answer);
    else
        print_text(pid, &answer);
    return EXIT_DONE;
}

const command_t command_rss = {
    .name = "rss",
    .args = "PID [--json] [--timeout 30s]",
    .summary = "Says where every resident byte of a live Python process is",
    .help = "Lines that add up to the process's resident memory: Python's objects, what\n"
            "its allocator holds free, libc's heap in use and free, stacks, code by\n"
            "library, files, shared memory, and what is unexplained; and what of each\n"
            "could go back to the system now.\n"
            "\n"
            "  --json           print one JSON object\n"
            "  --timeout T      how long to wait for the process to let go of the GIL\n"
            "\n"
            "Example:\n"
            "  lowtide rss 4711\n",
    .exec = rss_exec,
};
