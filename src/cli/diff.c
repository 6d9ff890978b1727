#define _GNU_SOURCE
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/load.h"
#include "cli/native_names.h"
#include "cli/output.h"
#include "view/diff_view.h"

#include <inttypes.h>

enum { RECORDINGS_MAX = 64, TOP_MAX = 10000, TOP_TEXT = 10, TOP_JSON = 100 };

typedef struct diff_options {
    const char *const *files;
    int count;
    bool json;
    const char *to;
    uint32_t top;
    uint64_t fail_above; /* 0: never */
} diff_options_t;

static int print(const diff_options_t *options, const model_t *const *models,
                 const model_diff_t *diff, const profile_diff_t *lines) {
    diff_view_t d = {models, options->files, diff, lines, options->top};
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

/* Lines are compared where each recording has a profile. */
static int compare_lines(profile_t **profiles, int count, const load_t *loads, profile_diff_t *out,
                         err_t *e) {
    bool all = true;
    int status = 0;
    for (int i = 0; i < count && !status; i++) {
        status = profile_build(model_recording(loads[i].model), model_namer(loads[i].model),
                               &profiles[i], e);
        if (!status) all = all && profiles[i]->mode != PROFILE_NONE;
    }
    if (status || !all) return status;
    return profile_diff((const profile_t *const *)profiles, (uint32_t)count, out, e);
}

/* More than was allowed is a failure: for a check in CI. */
static int judge(const diff_options_t *options, const model_t *const *models,
                 const profile_diff_t *lines) {
    int64_t grown = lines->count
                        ? lines->all.grown_bytes[PROFILE_LIVE]
                        : (int64_t)(model_totals(models[options->count - 1])->shallow_bytes -
                                    model_totals(models[0])->shallow_bytes);
    uint64_t off = lines->count ? lines->all.error_bytes[PROFILE_LIVE] : 0;
    if (!options->fail_above || grown <= 0) return EXIT_DONE;
    if ((uint64_t)grown <= off || (uint64_t)grown - off <= options->fail_above) return EXIT_DONE;
    return command_fail("%" PRId64 " bytes more are alive at the end, which is above %" PRIu64
                        " and not by chance",
                        grown, options->fail_above);
}

static int compare(const diff_options_t *options) {
    load_t loads[RECORDINGS_MAX] = {0};
    const model_t *models[RECORDINGS_MAX];
    model_diff_t diff = {0};
    profile_t *profiles[RECORDINGS_MAX] = {0};
    profile_diff_t lines = {0};
    err_t e;
    int status = 0;
    for (int i = 0; i < options->count && !status; i++) {
        status = load_open(options->files[i], &loads[i], &e);
        models[i] = loads[i].model;
    }
    if (!status) status = model_diff(models, (uint32_t)options->count, &diff, &e);
    if (!status) status = compare_lines(profiles, options->count, loads, &lines, &e);
    status = status ? command_fail("%s", e.text) : print(options, models, &diff, &lines);
    if (!status) status = judge(options, models, &lines);
    model_diff_free(&diff);
    profile_diff_free(&lines);
    for (int i = 0; i < options->count; i++) profile_free(profiles[i]);
    for (int i = 0; i < options->count; i++) load_close(&loads[i]);
    return status;
}

static int exec_diff(const command_t *self, int argc, char **argv) {
    enum { JSON = 1, TOP, FAIL_ABOVE, DEBUG_PATH };
    static const struct option longs[] = {{"json", no_argument, NULL, JSON},
                                          {"output", required_argument, NULL, 'o'},
                                          {"top", required_argument, NULL, TOP},
                                          {"fail-above", required_argument, NULL, FAIL_ABOVE},
                                          {"debug-path", required_argument, NULL, DEBUG_PATH},
                                          {0}};
    diff_options_t options = {0};
    long top = 0;
    int option, status;
    while ((option = command_getopt(self, argc, argv, "o:", longs, &status)) != COMMAND_END) {
        if (option == COMMAND_STOP) return status;
        if (option == DEBUG_PATH) native_names_debug_path(optarg);
        if (option == JSON) options.json = true;
        if (option == 'o') options.to = optarg;
        if (option == TOP && !command_number(self, "--top", optarg, TOP_MAX, &top, &status))
            return status;
        if (option == FAIL_ABOVE && !arguments_size(optarg, &options.fail_above))
            return command_usage(self, "--fail-above takes bytes like 10M, not '%s'", optarg);
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
    "A B [C ...] [--json] [-o O] [--top N] [--fail-above SIZE] [--debug-path DIR]",
    "Tells what grew between recordings: by line, by path and by type",
    "A, B, ... are recordings of one program, oldest first. With three or more, what grew from\n"
    "each to the next is marked \"every time\": a leak grows steadily, a warm-up does not.\n"
    "Lines are compared where all recordings have a profile (lowtide run, attach), each growth\n"
    "with its error; a line that moved is found again by its function and text.\n"
    "\n"
    "  --json         one JSON object (docs/report.md)\n"
    "  -o, --output O write to the file O; - is standard output\n"
    "  --top N        at most N lines in each list (10; with --json 100)\n"
    "  --fail-above SIZE  exit status 1 where so much more is alive at the end, the error\n"
    "                 taken off\n"
    "  --debug-path DIR  where debug files of C libraries are looked for, by build id; the\n"
    "                 variable LOWTIDE_DEBUG_PATH says it, too (before /usr/lib/debug)\n"
    "\n"
    "Example: what a service gathered within an hour\n"
    "  lowtide diff lowtide-4711.tide lowtide-4711-2.tide\n",
    exec_diff,
};
