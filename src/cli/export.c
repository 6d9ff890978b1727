#define _GNU_SOURCE
#include "cli/command.h"
#include "cli/load.h"
#include "cli/native_names.h"
#include "cli/output.h"
#include "explain/profile_fold.h"
#include "view/export_view.h"
#include "view/units.h"

#include <inttypes.h>
#include <string.h>

static const struct {
    const char *name;
    export_fn *write;
    bool timeline; /* shows that, and needs no allocations */
    bool stacks;   /* shows those, as many as there are */
} formats[] = {
    {"pprof", export_pprof, false, true},         {"speedscope", export_speedscope, false, true},
    {"collapsed", export_collapsed, false, true}, {"csv", export_csv, false, false},
    {"perfetto", export_perfetto, true, false},
};
enum { FORMATS = sizeof formats / sizeof *formats };
enum { STACKS_MOST = 50000 }; /* readers take seconds for so many, and minutes for a million */

static const char *const figures[PROFILE_FIGURES] = {"end", "peak", "rss-peak", "total", "gone"};

typedef struct export_options {
    const char *file, *to;
    int format, figure;
    bool all; /* stacks, however many */
} export_options_t;

static int find(const char *text, int count, const char *(*name)(int)) {
    for (int i = 0; i < count; i++)
        if (strcmp(name(i), text) == 0) return i;
    return -1;
}
static const char *format_name(int i) {
    return formats[i].name;
}
static const char *figure_name(int i) {
    return figures[i];
}

static int write_to(const export_options_t *options, const export_what_t *what) {
    err_t e;
    output_t o;
    if (output_open(&o, options->to, &e) || !output_file(&o, &e)) return command_fail("%s", e.text);
    if (formats[options->format].write(what, o.file, &e)) {
        output_abandon(&o);
        return command_fail("%s", e.text);
    }
    return output_finish(&o);
}

/* Of too many stacks the small ones count for their callers; said aloud. */
static int fold(const export_options_t *options, profile_t *p, err_t *e) {
    char before[UNITS_BYTES], least[UNITS_BYTES];
    uint64_t parts;
    if (options->all || !formats[options->format].stacks) return 0;
    units_count(before, p->stack_count);
    int status = profile_fold(p, STACKS_MOST, &parts, e);
    if (status || !parts) return status;
    uint64_t bytes = p->sums.bytes[options->figure] / parts;
    fprintf(stderr,
            "lowtide: of %s stacks, those below 1/%" PRIu64
            " of the whole (here %s) in each figure "
            "count for their callers; --all keeps all\n",
            before, parts, units_size(least, bytes));
    return 0;
}

static int export_recording(const export_options_t *options) {
    err_t e;
    lowtide_error error;
    lowtide_recording *rec;
    profile_t *profile = NULL;
    char newest[4096];
    const char *file = options->file;
    if (!file) {
        if (load_newest(newest, sizeof newest, &e)) return command_fail("%s", e.text);
        file = newest;
    }
    if (lowtide_open(file, &rec, &error)) return command_fail("%s", error.text);
    int status = EXIT_FAILED;
    if (profile_build(rec, native_names(), &profile, &e)) {
        command_fail("%s", e.text);
    } else if (formats[options->format].timeline ? !profile->point_count
                                                 : profile->mode == PROFILE_NONE) {
        command_fail("%s holds no allocation profile; make one with `lowtide run app.py` or "
                     "`lowtide attach PID`",
                     file);
    } else if (fold(options, profile, &e)) {
        command_fail("%s", e.text);
    } else {
        status = write_to(options, &(export_what_t){rec, profile, options->figure});
    }
    profile_free(profile);
    lowtide_close(rec);
    return status;
}

static int exec_export(const command_t *self, int argc, char **argv) {
    enum { AT = 1, DEBUG_PATH, ALL };
    static const struct option longs[] = {{"format", required_argument, NULL, 'f'},
                                          {"output", required_argument, NULL, 'o'},
                                          {"at", required_argument, NULL, AT},
                                          {"debug-path", required_argument, NULL, DEBUG_PATH},
                                          {"all", no_argument, NULL, ALL},
                                          {0}};
    export_options_t options = {.format = -1, .figure = PROFILE_LIVE};
    int option, status;
    while ((option = command_getopt(self, argc, argv, "f:o:", longs, &status)) != COMMAND_END) {
        if (option == COMMAND_STOP) return status;
        if (option == DEBUG_PATH) native_names_debug_path(optarg);
        if (option == 'o') options.to = optarg;
        if (option == ALL) options.all = true;
        if (option == 'f' && (options.format = find(optarg, FORMATS, format_name)) < 0)
            return command_usage(
                self, "--format takes pprof, speedscope, collapsed, csv or perfetto, not '%s'",
                optarg);
        if (option == AT && (options.figure = find(optarg, PROFILE_FIGURES, figure_name)) < 0)
            return command_usage(self, "--at takes end, peak, rss-peak, total or gone, not '%s'",
                                 optarg);
    }
    if (options.format < 0) return command_usage(self, "export needs --format");
    if (argc - optind > 1) return command_usage(self, "export takes one recording");
    options.file = argv[optind];
    return export_recording(&options);
}

const command_t command_export = {
    "export",
    "[F] --format X [--at WHEN] [--all] [-o O] [--debug-path DIR]",
    "Writes an allocation profile for other tools",
    "F is a recording; left out, the newest lowtide-*.tide of this directory.\n"
    "\n"
    "  -f, --format X pprof (go tool pprof), speedscope, collapsed (flame graphs),\n"
    "                 csv (a line a site), perfetto (the timeline, as a trace)\n"
    "  --at WHEN      what the stacks weigh: end (what is alive there; the default),\n"
    "                 peak (alive at the highest heap), rss-peak, total (all made),\n"
    "                 gone (alive when their process ended)\n"
    "  --all          keep all stacks; of more than 50,000 the small ones else count for their\n"
    "                 callers, and a line says below which size\n"
    "  -o, --output O write to the file O; - is standard output\n"
    "  --debug-path DIR  where debug files of C libraries are looked for, by build id; the\n"
    "                 variable LOWTIDE_DEBUG_PATH says it, too (before /usr/lib/debug)\n"
    "\n"
    "Example: what was alive at the peak, in pprof\n"
    "  lowtide export lowtide-4711.tide --format pprof --at peak -o peak.pb.gz\n"
    "  go tool pprof -top peak.pb.gz\n",
    exec_export,
};
