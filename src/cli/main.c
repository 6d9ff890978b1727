#define _GNU_SOURCE
#include "cli/command.h"
#include "cli/native_names.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "view/screen.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* LOWTIDE_COMMANDS comes from CMakeLists.txt: ROW(run) ROW(dump) … in the order of the overview. */
#define ROW(name) extern const command_t command_##name;
LOWTIDE_COMMANDS
#undef ROW
#define ROW(name) &command_##name,
static const command_t *const table[] = {LOWTIDE_COMMANDS};
#undef ROW
enum { TABLE_ROWS = sizeof table / sizeof table[0], NAME_MAX_BYTES = 32 };

static volatile sig_atomic_t deferred, came;

static void on_signal(int signal) {
    came = signal;
    if (deferred) return;
    progress_interrupted();
    output_interrupted();
    _exit(128 + signal);
}

/* Their writes fail with EPIPE and EFBIG, which is said. */
static const int of_writes[] = {SIGPIPE, SIGXFSZ};
static struct sigaction before[sizeof of_writes / sizeof of_writes[0]];

void signals_restore(void) {
    for (size_t i = 0; i < sizeof of_writes / sizeof of_writes[0]; i++)
        sigaction(of_writes[i], &before[i], NULL);
}

static void signals_set(void) {
    struct sigaction act = {.sa_handler = SIG_IGN}, old;
    for (size_t i = 0; i < sizeof of_writes / sizeof of_writes[0]; i++)
        sigaction(of_writes[i], &act, &before[i]);
    act.sa_handler = on_signal;
    const int ends[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        /* nohup and `&` in a script ask that a signal stays ignored. */
        if (sigaction(ends[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(ends[i], &act, NULL);
    }
}

void interrupt_defer(void) {
    deferred = 1;
}
int interrupt_signal(void) {
    return came;
}
void interrupt_forget(void) {
    came = 0;
}
int interrupt_status(void) {
    return 128 + came;
}

/* One line, whatever a file's name holds. */
static void say(const char *fmt, va_list ap) {
    screen_t s;
    char *text;
    if (vasprintf(&text, fmt, ap) < 0) return;
    screen_init(&s, stderr, STDERR_FILENO);
    fputs("lowtide: ", stderr);
    screen_text(&s, text, strlen(text), INT_MAX);
    free(text);
}

int command_fail(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    say(fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return EXIT_FAILED;
}

int command_usage(const command_t *c, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    say(fmt, ap);
    va_end(ap);
    fprintf(stderr, "; see `lowtide %s --help`\n", c->name);
    return EXIT_USAGE;
}

static bool unheard;

bool command_unheard(void) {
    return unheard;
}

/* What was printed is worth nothing if it did not arrive: a full disk behind `>` is a failure. */
static int stdout_close(int status) {
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return status;
    if (errno == EPIPE) return status;
    command_fail("cannot write standard output: %s", strerror(errno ? errno : EIO));
    return status == EXIT_DONE ? EXIT_FAILED : status;
}

int command_help(const command_t *c) {
    printf("usage: lowtide %s %s\n\n%s.\n\n%s", c->name, c->args, c->summary, c->help);
    return EXIT_DONE;
}

int command_getopt(const command_t *c, int argc, char **argv, const char *shorts,
                   const struct option *longs, int *status) {
    char all[64];
    bool stay = shorts[0] == '+';
    snprintf(all, sizeof all, "%s:h%s", stay ? "+" : "", shorts + stay);
    opterr = 0;
    int got = getopt_long(argc, argv, all, longs, NULL);
    if (got == -1) return COMMAND_END;
    if (got == 'h') {
        *status = command_help(c);
        return COMMAND_STOP;
    }
    if (got != '?' && got != ':') return got;
    const char *word = argv[optind - 1];
    if (strcmp(word, "--help") == 0) {
        *status = command_help(c);
    } else if (got == ':') {
        *status = command_usage(c, "%s needs a value", word);
    } else if (strncmp(word, "--", 2) == 0) {
        *status = command_usage(c, "%s has no option %s", c->name, word);
    } else {
        *status = command_usage(c, "%s has no option -%c", c->name, optopt);
    }
    return COMMAND_STOP;
}

bool command_number(const command_t *c, const char *option, const char *text, long max, long *out,
                    int *status) {
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    if (!errno && end != text && !*end && n > 0 && n <= max) {
        *out = n;
        return true;
    }
    *status = command_usage(c, "%s takes a number from 1 to %ld, not '%s'", option, max, text);
    return false;
}

static int distance(const char *a, const char *b) {
    int row[NAME_MAX_BYTES + 1];
    int n = (int)strlen(b);
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 0; a[i]; i++) {
        int diagonal = row[0];
        row[0] = i + 1;
        for (int j = 0; j < n; j++) {
            int replace = diagonal + (a[i] != b[j]);
            int other = 1 + (row[j] < row[j + 1] ? row[j] : row[j + 1]);
            diagonal = row[j + 1];
            row[j + 1] = replace < other ? replace : other;
        }
    }
    return row[n];
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n > m && strcmp(s + n - m, tail) == 0;
}

static int unknown_command(const char *word) {
    const char *nearest = NULL;
    int best = 3;
    for (int i = 0; i < TABLE_ROWS && strlen(word) < NAME_MAX_BYTES; i++) {
        int d = distance(word, table[i]->name);
        if (d < best && d < (int)strlen(word)) {
            best = d;
            nearest = table[i]->name;
        }
    }
    if (ends_with(word, ".py"))
        command_fail("'%s' is not a command; to run a program: lowtide run %s", word, word);
    else if (ends_with(word, ".tide"))
        command_fail("'%s' is not a command; to read a recording: lowtide report %s", word, word);
    else if (nearest)
        command_fail("'%s' is not a command; did you mean `lowtide %s`?", word, nearest);
    else
        command_fail("'%s' is not a command; `lowtide --help` lists them", word);
    return EXIT_USAGE;
}

static void overview(FILE *f) {
    fputs("usage: lowtide COMMAND [ARGUMENTS]\n\n"
          "Shows what holds the memory of a Python process, and what to do about it.\n\n",
          f);
    for (int i = 0; i < TABLE_ROWS; i++)
        fprintf(f, "  lowtide %-8s %s\n", table[i]->name, table[i]->summary);
    fputs("\n`lowtide COMMAND --help` tells a command's options and ends with an example.\n\n"
          "Example: a running process, seen within seconds\n"
          "  lowtide dump 4711 && lowtide report\n",
          f);
}

static const command_t *command_find(const char *name) {
    for (int i = 0; i < TABLE_ROWS; i++)
        if (strcmp(table[i]->name, name) == 0) return table[i];
    return NULL;
}

static int dispatch(int argc, char **argv) {
    if (argc < 2) {
        overview(stderr);
        return EXIT_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        puts("lowtide " LOWTIDE_VERSION);
        return EXIT_DONE;
    }
    bool help = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
    if (help && argc < 3) {
        overview(stdout);
        return EXIT_DONE;
    }
    if (help) word = argv[2];
    if (word[0] == '-') {
        command_fail("no option %s; `lowtide --help` lists the commands", word);
        return EXIT_USAGE;
    }
    const command_t *c = command_find(word);
    if (!c) return unknown_command(word);
    if (help || (argc > 2 && strcmp(argv[2], "--help") == 0)) return command_help(c);
    return c->exec(c, argc - 1, argv + 1);
}

/* Where standard streams are closed, a file that is opened would take their place, and an error line go into it. */
static void streams_set(void) {
    for (int fd = 0; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) continue;
        /* The wrong way round, so that using it still fails; and closed again for a program that is run. */
        if (open("/dev/null", (fd ? O_RDONLY : O_WRONLY) | O_CLOEXEC) != fd) _exit(EXIT_FAILED);
        if (fd == STDOUT_FILENO) unheard = true;
    }
}

int main(int argc, char **argv) {
    streams_set();
    /* Only the character set matters here; numbers are written one way everywhere. */
    setlocale(LC_CTYPE, "");
    signals_set();
    int status = dispatch(argc, argv);
    native_names_close();
    return stdout_close(status);
}
