#define _GNU_SOURCE
#include "cli/command.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORDS_MAX = 64 };

typedef struct pipe_words {
    char *words[WORDS_MAX]; /* options for python -m lowtide._stream_cli, each in one word */
    int count;
} pipe_words_t;

/* "--name=value" as one word, so that no value is taken for an option. */
static bool words_add(pipe_words_t *w, const char *name, const char *value) {
    if (w->count == WORDS_MAX) return false;
    char *word = NULL;
    if (asprintf(&word, value ? "--%s=%s" : "--%s", name, value) < 0) return false;
    w->words[w->count++] = word;
    return true;
}

static void words_free(pipe_words_t *w) {
    for (int i = 0; i < w->count; i++) free(w->words[i]);
}

/* The virtual environment's Python, else the one beside this executable (a wheel's), else PATH's. */
static const char *find_python(char *room, size_t n) {
    const char *venv = getenv("VIRTUAL_ENV");
    if (venv && *venv) {
        snprintf(room, n, "%s/bin/python3", venv);
        if (access(room, X_OK) == 0) return room;
    }
    ssize_t got = readlink("/proc/self/exe", room, n - 1);
    if (got > 0) {
        room[got] = '\0';
        char *slash = strrchr(room, '/');
        if (slash && (size_t)(slash - room) + sizeof "/python3" <= n) {
            memcpy(slash, "/python3", sizeof "/python3");
            if (access(room, X_OK) == 0) return room;
        }
    }
    return "python3";
}

/* As -m lowtide._stream_cli, but that a Python without lowtide is told in our words. */
static const char BEGIN[] = "import sys\n"
                            "try:\n"
                            "    from importlib.util import find_spec\n"
                            "    found = find_spec('lowtide._stream_cli')\n"
                            "except ImportError:\n"
                            "    found = None\n"
                            "if not found:\n"
                            "    sys.exit('lowtide: ' + sys.executable + ' has no lowtide, or not "
                            "this one; name a Python'\n"
                            "             ' that has it with --python')\n"
                            "del found, find_spec\n"
                            "import runpy\n"
                            "runpy._run_module_as_main('lowtide._stream_cli')\n";

static int become_python(const char *python, const pipe_words_t *w, char **rest, int rest_count) {
    char **argv = calloc((size_t)(w->count + rest_count) + 5, sizeof *argv);
    if (!argv) return command_fail("out of memory");
    int n = 0;
    argv[n++] = (char *)python;
    argv[n++] = "-c";
    argv[n++] = (char *)BEGIN;
    for (int i = 0; i < w->count; i++) argv[n++] = w->words[i];
    argv[n++] = "--";
    for (int i = 0; i < rest_count; i++) argv[n++] = rest[i];
    execvp(python, argv);
    free(argv);
    return command_fail("cannot run %s: %s; name a Python with --python", python, strerror(errno));
}

static int pipe_run(const command_t *self, const char *python, const char *output,
                    pipe_words_t *words, int argc, char **argv) {
    char room[PATH_MAX];
    if (argc < 2) return command_usage(self, "pipe takes module:function and what to read");
    if (!output) return command_usage(self, "pipe needs -o OUT");
    if (!words_add(words, "output", output)) return command_usage(self, "too many options");
    if (!python) python = find_python(room, sizeof room);
    return become_python(python, words, argv, argc);
}

static int exec_pipe(const command_t *self, int argc, char **argv) {
    /* From HANDED on an option goes to Python as it is. */
    enum { PYTHON = 1, HANDED = 256 };
    static const struct option longs[] = {{"memory", required_argument, NULL, HANDED},
                                          {"workers", required_argument, NULL, HANDED + 1},
                                          {"resume", optional_argument, NULL, HANDED + 2},
                                          {"errors", required_argument, NULL, HANDED + 3},
                                          {"chunks", no_argument, NULL, HANDED + 4},
                                          {"format", required_argument, NULL, HANDED + 5},
                                          {"to", required_argument, NULL, HANDED + 6},
                                          {"delimiter", required_argument, NULL, HANDED + 7},
                                          {"no-header", no_argument, NULL, HANDED + 8},
                                          {"columns", required_argument, NULL, HANDED + 9},
                                          {"checkpoint", required_argument, NULL, HANDED + 10},
                                          {"json", no_argument, NULL, HANDED + 11},
                                          {"output", required_argument, NULL, 'o'},
                                          {"python", required_argument, NULL, PYTHON},
                                          {0}};
    pipe_words_t words = {0};
    const char *python = NULL, *output = NULL;
    int option, status;
    while ((option = command_getopt(self, argc, argv, "o:", longs, &status)) != COMMAND_END) {
        if (option == COMMAND_STOP) goto cleanup;
        if (option == PYTHON) python = optarg;
        if (option == 'o') output = optarg;
        if (option < HANDED) continue;
        const struct option *row = &longs[option - HANDED];
        if (!words_add(&words, row->name, row->has_arg ? optarg : NULL)) {
            status = command_usage(self, "too many options");
            goto cleanup;
        }
    }
    status = pipe_run(self, python, output, &words, argc - optind, argv + optind);
cleanup:
    words_free(&words);
    return status;
}

const command_t command_pipe = {
    "pipe",
    "module:function IN... -o OUT [--memory 512M] [--workers N] [--resume] [options]",
    "Runs a function over big files in chunks, below a ceiling of memory",
    "The function takes a record and gives a record, None to drop it, or many by\n"
    "yield. IN and OUT are text, CSV, JSON Lines, Parquet or Arrow by their suffix, and\n"
    "compressed by .gz, .bz2, .xz or .zst; - is standard input or output. OUT has its name\n"
    "once it is whole.\n"
    "\n"
    "  -o, --output OUT    where the records go, in the order of IN\n"
    "  --memory SIZE       the ceiling of all processes together; else 512MiB\n"
    "  --workers N         processes that do the work; else it is done in one\n"
    "  --resume[=changed]  go on where a run was stopped; with =changed even if the\n"
    "                      function is another now\n"
    "  --errors WHAT       raise: stop at a record that fails (the default); skip; or a\n"
    "                      file of JSON Lines where such records are set aside\n"
    "  --chunks            hand the function lists of records (tables of Parquet)\n"
    "  --format F, --to F  formats of IN and OUT, instead of their suffixes: text,\n"
    "                      bytes, csv, jsonl, parquet, arrow\n"
    "  --delimiter C       between the fields of a CSV that is read\n"
    "  --no-header         CSV without a line of names: records are lists\n"
    "  --columns A,B       of Parquet and Arrow, what to read\n"
    "  --checkpoint F      where to keep what is done; else beside OUT\n"
    "  --json              print the summary as one JSON object\n"
    "  --python P          the Python to use; else the virtual environment's, or the one\n"
    "                      that lowtide is installed for\n"
    "\n"
    "Example: def fix(row) in clean.py, over a file of any size\n"
    "  lowtide pipe clean:fix big.csv -o clean.jsonl --memory 512M --workers 2 --resume\n",
    exec_pipe,
};
