/* The command table and what all commands share.
 *
 * A command is one file, src/cli/<name>.c, that defines one row, `const command_t command_<name>`,
 * and is listed in main.c's table and in CMakeLists.txt. main() finds the row, answers `--help`
 * where it stands directly behind the command's name, and calls exec with argv[0] = the command's
 * name; the command parses the rest with command_getopt.
 *
 * Exit statuses: 0 done, 1 the tool could not do it, 2 wrong usage, 130 interrupted; `lowtide run`
 * passes the program's own status on. An error is one line on standard error, "lowtide: cause;
 * mend". A reader that goes away
 * (`lowtide report | head`) has what it wanted: no line, status 0.
 *
 * Signals: SIGPIPE and SIGXFSZ are ignored, writes fail with EPIPE and EFBIG. SIGINT, SIGTERM and SIGHUP end the process
 * at once with 128 + signal and remove the half-written output of output.h. A command that has
 * something to tidy up elsewhere (an agent in a target) calls interrupt_defer() first and looks at
 * interrupt_signal() where it may stop.
 */
#ifndef LOWTIDE_CLI_COMMAND_H
#define LOWTIDE_CLI_COMMAND_H

#include <getopt.h>
#include <stdbool.h>

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

typedef struct command {
    const char *name;
    const char *args;    /* behind the name in the usage line: "[F] [--json] [-o O]" */
    const char *summary; /* one line, no full stop */
    const char *help; /* what it does, its options, and at the end an example; lines of at most 80
                         columns */
    int (*exec)(const struct command *self, int argc, char **argv);
} command_t;

/* Prints usage, summary and help to standard output; returns EXIT_DONE. */
int command_help(const command_t *c);
/* Standard output was closed when lowtide began: what is only news beside a file need not be printed. */
bool command_unheard(void);
/* One line "lowtide: …" to standard error; returns EXIT_FAILED. */
int command_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* One line "lowtide: …; see `lowtide <name> --help`" to standard error; returns EXIT_USAGE. */
int command_usage(const command_t *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* getopt_long, with wrong options answered by command_usage. -h and --help need no entry. Returns
 * the option's value, COMMAND_END behind the last option, or COMMAND_STOP with *status set where
 * the command is to return at once. `shorts` as for getopt, e.g. "o:" ("+o:" stops at the first
 * argument that is no option). */
enum { COMMAND_END = -1, COMMAND_STOP = -2 };
int command_getopt(const command_t *c, int argc, char **argv, const char *shorts,
                   const struct option *longs, int *status);

/* A positive number, e.g. of --top; else command_usage and false with *status set. */
bool command_number(const command_t *c, const char *option, const char *text, long max, long *out,
                    int *status);

/* In a child of ours: those that are ignored here as they were. */
void signals_restore(void);
/* From here on SIGINT, SIGTERM and SIGHUP only interrupt system calls and are remembered. */
void interrupt_defer(void);
/* The signal that came since interrupt_defer(), or 0. */
int interrupt_signal(void);
/* It was heeded: what comes from here on is another one. */
void interrupt_forget(void);
/* 128 + signal: what a command returns that stopped for it. */
int interrupt_status(void);

/* Prints the text report of the recording at `path` to standard output, as `lowtide report` does:
 * what `lowtide run` ends with. */
int report_print(const char *path);

#endif
