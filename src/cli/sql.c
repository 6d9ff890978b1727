#define _GNU_SOURCE
#include "cli/command.h"
#include "cli/load.h"
#include "cli/native_names.h"
#include "cli/output.h"
#include "view/sql_view.h"

#include <errno.h>

typedef struct sql_options {
    const char *file, *query, *to;
    int format;
} sql_options_t;

static int print(const sql_options_t *options, const model_t *m) {
    err_t e;
    output_t o;
    screen_t s;
    if (output_open(&o, options->to, &e) || !output_file(&o, &e)) return command_fail("%s", e.text);
    screen_init(&s, o.file, o.fd);
    int status = 0;
    if (options->query)
        status = sql_query(m, options->query, options->format, &s, &e);
    else
        sql_schema(options->format, &s);
    if (!status) return output_finish(&o);
    output_abandon(&o);
    command_fail("%s", e.text);
    return EXIT_FAILED;
}

static int ask(const sql_options_t *options) {
    err_t e;
    load_t l;
    if (load_open(options->file, &l, &e)) return command_fail("%s", e.text);
    int status = print(options, l.model);
    load_close(&l);
    return status;
}

static int exec_sql(const command_t *self, int argc, char **argv) {
    enum { JSON = 1, CSV, DEBUG_PATH };
    static const struct option longs[] = {{"json", no_argument, NULL, JSON},
                                          {"csv", no_argument, NULL, CSV},
                                          {"output", required_argument, NULL, 'o'},
                                          {"debug-path", required_argument, NULL, DEBUG_PATH},
                                          {0}};
    sql_options_t options = {.format = SQL_TEXT};
    int option, status;
    while ((option = command_getopt(self, argc, argv, "o:", longs, &status)) != COMMAND_END) {
        if (option == COMMAND_STOP) return status;
        if (option == DEBUG_PATH) native_names_debug_path(optarg);
        if (option == JSON) options.format = SQL_JSON;
        if (option == CSV) options.format = SQL_CSV;
        if (option == 'o') options.to = optarg;
    }
    if (argc - optind < 1 || argc - optind > 2)
        return command_usage(self, "sql takes a recording and one query");
    options.file = argv[optind];
    options.query = argv[optind + 1];
    return ask(&options);
}

const command_t command_sql = {
    "sql",
    "F [\"select ...\"] [--json | --csv] [-o O] [--debug-path DIR]",
    "Answers SQL over a recording",
    "F is a recording; its objects, refs, types, dominators, paths, modules, threads and frames, "
    "the\n"
    "sites, stacks, samples, timeline, events and processes of its profile, and its ledger are "
    "SQLite\n"
    "tables, read straight from it (docs/sql.md). Without a query the tables and their columns "
    "are\n"
    "listed. Nothing is written but the answer.\n"
    "\n"
    "  --json         one JSON object: columns, and rows as lists\n"
    "  --csv          comma-separated values with a line of names\n"
    "  -o, --output O write to the file O; - is standard output\n"
    "  --debug-path DIR  where debug files of C libraries are looked for, by build id; the\n"
    "                 variable LOWTIDE_DEBUG_PATH says it, too (before /usr/lib/debug)\n"
    "\n"
    "Example: the longest strings, and how to get at them\n"
    "  lowtide sql lowtide-4711.tide \"select size, path from objects join paths using (id)\n"
    "    where type = 'str' order by size desc limit 5\"\n",
    exec_sql,
};
