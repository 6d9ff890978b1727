#define _GNU_SOURCE
#include "cli/agent_talk.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "view/json.h"
#include "view/screen.h"
#include "view/units.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void print_json(pid_t pid, bool dry, const answer_t *a) {
    json_t j;
    json_init(&j, stdout);
    json_open(&j, NULL, '{');
    json_int(&j, "schema", 1);
    json_open(&j, "process", '{');
    json_int(&j, "pid", pid);
    json_close(&j);
    json_bool(&j, "dry_run", dry);
    json_uint(&j, "returned_bytes", a->result.bytes);
    json_real(&j, "pause_ms", (double)a->result.pause_us / 1e3);
    json_open(&j, "layers", '[');
    for (unsigned i = 0; i < a->count; i++) {
        json_open(&j, NULL, '{');
        json_text(&j, "name", a->lines[i].name);
        json_uint(&j, "returned_bytes", a->lines[i].bytes);
        json_text(&j, "note", a->lines[i].note);
        json_close(&j);
    }
    json_close(&j);
    json_close(&j);
}

enum { NOTE_AT = 14 };

static void print_text(pid_t pid, bool dry, const answer_t *a) {
    char size[UNITS_BYTES], span[UNITS_BYTES];
    screen_t s;
    screen_init(&s, stdout, STDOUT_FILENO);
    for (unsigned i = 0; i < a->count; i++) {
        const ctl_line_t *l = &a->lines[i];
        char text[sizeof l->name + sizeof l->note + 4];
        snprintf(text, sizeof text, "%s%s%s", l->name, l->note[0] ? ": " : "", l->note);
        printf("%12s  ", units_size(size, l->bytes));
        screen_wrapped(&s, text, NOTE_AT, s.width - NOTE_AT);
    }
    printf("%12s  %s; process %d stood still for %s\n", units_size(size, a->result.bytes),
           dry ? "would go back to the system" : "went back to the system", (int)pid,
           units_span(span, (double)a->result.pause_us / 1e6));
}

static int free_exec(const command_t *self, int argc, char **argv) {
    static const struct option longs[] = {{"dry-run", no_argument, NULL, 'n'},
                                          {"collect", no_argument, NULL, 'c'},
                                          {"max-pause", required_argument, NULL, 'p'},
                                          {"timeout", required_argument, NULL, 't'},
                                          {"json", no_argument, NULL, 'j'},
                                          {0}};
    static answer_t answer;
    ctl_msg_t ask = {.type = CTL_FREE, .free = {.timeout_ms = 30000}};
    bool json = false, dry = false, collect = false;
    pid_t pid;
    err_t e;
    int status, got;
    while ((got = command_getopt(self, argc, argv, "", longs, &status)) != COMMAND_END) {
        if (got == COMMAND_STOP) return status;
        if (got == 'j') json = true;
        if (got == 'n') dry = true;
        if (got == 'c') collect = true;
        if (got == 'p' && !arguments_span(optarg, &ask.free.pause_ms_max))
            return command_usage(self, "--max-pause takes a time like 100ms, not '%s'", optarg);
        if (got == 't' && !arguments_span(optarg, &ask.free.timeout_ms))
            return command_usage(self, "--timeout takes a time like 30s or 500ms, not '%s'",
                                 optarg);
    }
    if (!arguments_process(self, argc, argv, &pid, &status)) return status;
    ask.free.flags = (dry ? CTL_DRY_RUN : 0) | (collect ? CTL_COLLECT : 0);
    status = agent_talk_once(pid, &ask, &answer, &e);
    if (interrupt_signal()) return interrupt_status();
    if (status) return command_fail("%s", e.text);
    if (json)
        print_json(pid, dry, &answer);
    else
        print_text(pid, dry, &answer);
    return EXIT_DONE;
}

const command_t command_free = {
    .name = "free",
    .args = "PID [--dry-run] [--collect] [--max-pause 100ms] [--json] [--timeout 30s]",
    .summary = "Gives back what a live Python process holds and does not need",
    .help = "Empty pools in pymalloc's arenas and what malloc holds free go back to the\n"
            "system; no object is moved. The program stands still while the pools are\n"
            "trimmed (about 100 ms a GB given back). What only a collection would free\n"
            "stays, unless you ask for one.\n"
            "\n"
            "  --dry-run        only say what each step would give back\n"
            "  --collect        collect garbage first, in the program's main thread; this\n"
            "                   runs its finalizers, and no --max-pause can end it\n"
            "  --max-pause T    end the pause after this time, done or not (100ms)\n"
            "  --json           print one JSON object\n"
            "  --timeout T      how long to wait for the process to let go of the GIL\n"
            "\n"
            "Example:\n"
            "  lowtide free 4711 --dry-run && lowtide free 4711\n",
    .exec = free_exec,
};
