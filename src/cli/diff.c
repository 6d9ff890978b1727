#define _GNU_SOURCE
#include "cli/command.h"
#include "cli/load.h"
#include "cli/output.h"
#include "view/diff_view.h"

enum { RECORDINGS_MAX = 64, TOP_MAX = 10000, TOP_TEXT = 10, TOP_JSON = 100 };

typedef struct diff_options {
    const char *const *files;
    int count;
    bool json;
    const char *to;
    uint32_t top;
} diff_options_t;

static int print(const diff_options_t *options, const model_t *const *models,
                 const model_diff_t *diff) {
    diff_view_t d = {models, options->files, diff, options->top};
    err_t e;
    output_t o;
    if (output_open(&o, options->to, &e) || !output_file(&o, &e)) return command_fail("%s", e.text);
    if (options->json) {
        diff_json(&d, o.file);
    } else {
        screen_t s;
        screen_init(&s, o.file, o.fd);
        diff_text(&d, &s);
    }
    return output_finish(&o);
}

static int compare(const diff_options_t *options) {
    load_t loads[RECORDINGS_MAX] = {0};
    const model_t *models[RECORDINGS_MAX];
    model_diff_t diff = {0};
    err_t e;
    int status = 0;
    for (int i = 0; i < options->count && !status; i++) {
        status = load_open(options->files[i], &loads[i], &e);
        models[i] = loads[i].model;
    }
    if (!status) status = model_diff(models, (uint32_t)options->count, &diff, &e);
    status = status ? command_fail("%s", e.text) : print(options, models, &diff);
    model_diff_free(&diff);
    for (int i = 0; i < options->count; i++) load_close(&loads[i]);
    return status;
}

static int exec_diff(const command_t *self, int argc, char **argv) {
    enum { JSON = 1, TOP };
    static const struct option longs[] = {{"json", no_argument, NULL, JSON},
                                          {"output", required_argument, NULL, 'o'},
                                          {"top", required_argument, NULL, TOP},
                                          {0}};
    diff_options_t options = {0};
    long top = 0;
    int option, status;
    while ((option = command_getopt(self, argc, argv, "o:", longs, &status)) != COMMAND_END) {
        if (option == COMMAND_STOP) return status;
        if (option == JSON) options.json = true;
        if (option == 'o') options.to = optarg;
        if (option == TOP && !command_number(self, "--top", optarg, TOP_MAX, &top, &status))
            return status;
    }
    options.count = argc - optind;
    if (options.count < 2) return command_usage(self, "diff takes two recordings or more");
    if (options.count > RECORDINGS_MAX)
        return command_usage(self, "diff takes %d recordings at most", RECORDINGS_MAX);
    options.files = (const char *const *)argv + optind;
    options.top = top ? (uint32_t)top : options.json ? TOP_JSON : TOP_TEXT;
    return compare(&options);
}

const command_t command_diff = {
    "diff",
    "A B [C ...] [--json] [-o O] [--top N]",
    "Tells what grew between recordings, by type and by path, in retained bytes",
    "A, B, ... are recordings of one program, oldest first. With three or more, what grew from\n"
    "each to the next is marked \"every time\": a leak grows steadily, a warm-up does not.\n"
    "\n"
    "  --json         one JSON object (docs/report.md)\n"
    "  -o, --output O write to the file O; - is standard output\n"
    "  --top N        at most N lines in each list (10; with --json 100)\n"
    "\n"
    "Example: what a service gathered within an hour\n"
    "  lowtide diff lowtide-4711.tide lowtide-4711-2.tide\n",
    exec_diff,
};
