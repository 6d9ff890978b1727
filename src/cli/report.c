#define _GNU_SOURCE
#include "cli/command.h"
#include "cli/load.h"
#include "cli/native_names.h"
#include "cli/output.h"
#include "view/report_view.h"

#include <string.h>

enum { TOP_MAX = 10000 };

static const struct {
    const char *name;
    int by;
} groups[] = {
    {"class", MODEL_BY_CLASS},   {"module", MODEL_BY_MODULE}, {"package", MODEL_BY_PACKAGE},
    {"thread", MODEL_BY_THREAD}, {"task", MODEL_BY_TASK},
};

static bool read_group(const command_t *c, const char *text, report_options_t *out, int *status) {
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        if (strcmp(groups[i].name, text) != 0) continue;
        out->grouped = true;
        out->by = groups[i].by;
        out->by_name = groups[i].name;
        return true;
    }
    *status = command_usage(c, "--by takes class, module, package, thread or task, not '%s'", text);
    return false;
}

enum form { TEXT, JSON, HTML };

static int print(const char *path, const report_options_t *options, enum form form,
                 const char *to) {
    err_t e;
    load_t l;
    report_t r;
    output_t o;
    if (load_open(path, &l, &e)) return command_fail("%s", e.text);
    int status = EXIT_FAILED;
    if (report_build(l.model, options, &r, &e)) {
        command_fail("%s", e.text);
        goto unload;
    }
    if (output_open(&o, to, &e) || !output_file(&o, &e)) {
        command_fail("%s", e.text);
        goto free_report;
    }
    if (form == JSON) {
        report_json(&r, o.file);
    } else if (form == HTML && report_html(&r, o.file, &e)) {
        command_fail("%s", e.text);
        output_abandon(&o);
        goto free_report;
    } else if (form == TEXT) {
        screen_t s;
        screen_init(&s, o.file, o.fd);
        report_text(&r, &s);
    }
    status = output_finish(&o);
free_report:
    report_free(&r);
unload:
    load_close(&l);
    return status;
}

int report_print(const char *path) {
    return print(path, &(report_options_t){.top = REPORT_TEXT_TOP}, TEXT, NULL);
}

static int exec_report(const command_t *self, int argc, char **argv) {
    enum { TO_JSON = 1, TO_HTML, TOP, BY, DEBUG_PATH };
    static const struct option longs[] = {{"json", no_argument, NULL, TO_JSON},
                                          {"html", required_argument, NULL, TO_HTML},
                                          {"output", required_argument, NULL, 'o'},
                                          {"top", required_argument, NULL, TOP},
                                          {"by", required_argument, NULL, BY},
                                          {"debug-path", required_argument, NULL, DEBUG_PATH},
                                          {0}};
    enum form form = TEXT;
    const char *to = NULL;
    report_options_t options = {0};
    long top = 0;
    int option, status;
    while ((option = command_getopt(self, argc, argv, "o:", longs, &status)) != COMMAND_END) {
        if (option == COMMAND_STOP) return status;
        if (option == DEBUG_PATH) native_names_debug_path(optarg);
        if (option == TO_JSON) form = JSON;
        if (option == TO_HTML) {
            form = HTML;
            to = optarg;
        }
        if (option == 'o') to = optarg;
        if (option == TOP && !command_number(self, "--top", optarg, TOP_MAX, &top, &status))
            return status;
        if (option == BY && !read_group(self, optarg, &options, &status)) return status;
    }
    if (argc - optind > 1) return command_usage(self, "report takes one recording");
    options.top = top ? (uint32_t)top : form == TEXT ? REPORT_TEXT_TOP : REPORT_JSON_TOP;
    return print(argv[optind], &options, form, to);
}

const command_t command_report = {
    "report",
    "[F] [--json | --html O] [-o O] [--top N] [--by KIND] [--debug-path DIR]",
    "Tells what a recording holds: findings first, then memory, types and holders",
    "F is a recording; left out, the newest lowtide-*.tide of this directory.\n"
    "The first line says what to change and how many bytes that returns.\n"
    "\n"
    "  --json         one JSON object, schema 1 (docs/report.md)\n"
    "  --html O       one page for a browser, in the file O, with nothing to fetch\n"
    "  -o, --output O write to the file O; - is standard output\n"
    "  --top N        at most N lines in each list (10; with --json 100)\n"
    "  --by KIND      add who holds how much by class, module, package, thread or task\n"
    "  --debug-path DIR  where debug files of C libraries are looked for, by build id; the\n"
    "                 variable LOWTIDE_DEBUG_PATH says it, too (before /usr/lib/debug)\n"
    "\n"
    "Example: what holds the memory of process 4711\n"
    "  lowtide dump 4711 && lowtide report\n",
    exec_report,
};
