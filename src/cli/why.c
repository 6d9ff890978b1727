#define _GNU_SOURCE
#include "cli/command.h"
#include "cli/load.h"
#include "cli/output.h"
#include "view/json.h"
#include "view/why_view.h"

#include <errno.h>
#include <stdlib.h>

enum { PATHS_DEFAULT = 5, PATHS_MAX = 100000, AVOID_MAX = 64 };

typedef struct why_options {
    const char *file, *what, *to;
    const char *avoid[AVOID_MAX];
    int avoid_count;
    uint32_t most;
    bool json;
} why_options_t;

/* What stands behind --avoid may name objects or types, as WHAT does. */
static int find_avoided(const why_options_t *o, const model_t *m, model_found_t *found,
                        uint32_t *ids, uint32_t *types, model_avoid_t *avoid, err_t *e) {
    *avoid = (model_avoid_t){.ids = ids, .types = types};
    for (int i = 0; i < o->avoid_count; i++) {
        int status = model_find(m, o->avoid[i], &found[i], e);
        if (status) return status;
        if (found[i].what == MODEL_WHAT_TYPE)
            types[avoid->type_count++] = found[i].type;
        else
            ids[avoid->id_count++] = found[i].ids[0];
    }
    return 0;
}

static int print(const why_t *w, const why_options_t *options) {
    err_t e;
    output_t o;
    if (output_open(&o, options->to, &e) || !output_file(&o, &e)) return command_fail("%s", e.text);
    if (options->json) {
        if (why_json(w, o.file, &e)) {
            output_abandon(&o);
            return command_fail("%s", e.text);
        }
    } else {
        screen_t s;
        screen_init(&s, o.file, o.fd);
        why_text(w, &s);
    }
    return output_finish(&o);
}

static int answer(const why_options_t *options) {
    err_t e;
    load_t l;
    why_t w = {.what = options->what, .most = options->most};
    model_found_t avoided[AVOID_MAX] = {0};
    uint32_t ids[AVOID_MAX], types[AVOID_MAX];
    model_avoid_t avoid;
    if (load_open(options->file, &l, &e)) return command_fail("%s", e.text);
    w.model = l.model;
    int status = model_find(l.model, options->what, &w.found, &e);
    if (!status) status = find_avoided(options, l.model, avoided, ids, types, &avoid, &e);
    if (!status) status = why_build(&w, &avoid, &e);
    status = status ? command_fail("%s", e.text) : print(&w, options);
    why_free(&w);
    model_found_free(&w.found);
    for (int i = 0; i < options->avoid_count; i++) model_found_free(&avoided[i]);
    load_close(&l);
    return status;
}

static int exec_why(const command_t *self, int argc, char **argv) {
    enum { JSON = 1, AVOID, PATHS };
    static const struct option longs[] = {{"json", no_argument, NULL, JSON},
                                          {"output", required_argument, NULL, 'o'},
                                          {"avoid", required_argument, NULL, AVOID},
                                          {"paths", required_argument, NULL, PATHS},
                                          {0}};
    why_options_t options = {0};
    long most = PATHS_DEFAULT;
    int option, status;
    while ((option = command_getopt(self, argc, argv, "o:", longs, &status)) != COMMAND_END) {
        if (option == COMMAND_STOP) return status;
        if (option == JSON) options.json = true;
        if (option == 'o') options.to = optarg;
        if (option == AVOID) {
            if (options.avoid_count == AVOID_MAX)
                return command_usage(self, "--avoid may be given %d times", AVOID_MAX);
            options.avoid[options.avoid_count++] = optarg;
        }
        if (option == PATHS && !command_number(self, "--paths", optarg, PATHS_MAX, &most, &status))
            return status;
    }
    if (argc - optind != 2) return command_usage(self, "why takes a recording and WHAT");
    options.file = argv[optind];
    options.what = argv[optind + 1];
    options.most = (uint32_t)most;
    return answer(&options);
}

const command_t command_why = {
    "why",
    "F WHAT [--avoid X]... [--paths N] [--json] [-o O]",
    "Tells what keeps an object, or the instances of a type, alive",
    "F is a recording. WHAT is a path as the report prints it, the name of a type, or an\n"
    "address; quote it for the shell. An object is answered by disjoint paths from the roots,\n"
    "shortest first; a type by the kinds of path that its instances have.\n"
    "\n"
    "  --avoid X      pass neither through the object nor through the type X; may be repeated\n"
    "  --paths N      at most N paths, or kinds of path (5)\n"
    "  --json         one JSON object (docs/report.md)\n"
    "  -o, --output O write to the file O; - is standard output\n"
    "\n"
    "Example: what besides the cache keeps sessions alive\n"
    "  lowtide why lowtide-4711.tide app.Session --avoid app.cache\n",
    exec_why,
};
