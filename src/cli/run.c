#define _GNU_SOURCE
#include "base/err.h"
#include "cli/agent_file.h"
#include "cli/command.h"
#include "cli/output.h"
#include "cli/run_listen.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WAIT_MS = 20, STATUS_NOT_FOUND = 127, STATUS_NOT_EXECUTABLE = 126 };

typedef struct run {
    const char *to, *python, *script; /* script: the file that Python is to run, or NULL */
    bool json, report, values,
        missing; /* missing: Python itself says that there is no such script */
    char **argv; /* of the program */
    char agent[4096];
    run_listen_t listen;
    output_t output;
    pid_t child;
} run_t;

/* ── Signals: the program's, not ours ── */

static volatile sig_atomic_t child_pid;

/* What the terminal sends reaches the program by itself; what somebody sends to us is meant for it. */
static void pass_on(int signal, siginfo_t *info, void *context) {
    int code = errno;
    (void)context;
    if (child_pid > 0 && info->si_code <= 0) kill((pid_t)child_pid, signal);
    errno = code;
}

static void pass_signals_on(void) {
    const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
    struct sigaction act = {.sa_sigaction = pass_on, .sa_flags = SA_SIGINFO | SA_RESTART}, old;
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(signals[i], &act, NULL);
    }
}

/* Ends as the program did: who started us sees the same. */
static void die_of(int signal) {
    struct rlimit none = {0, 0};
    struct sigaction act = {.sa_handler = SIG_DFL};
    fflush(NULL);
    setrlimit(RLIMIT_CORE, &none);
    sigaction(signal, &act, NULL);
    kill(getpid(), signal);
}

/* ── Starting ── */

static void child_environment(const run_t *r) {
    char variable[sizeof r->agent + 256], preload[2 * sizeof r->agent];
    const char *before = getenv("LD_PRELOAD");
    run_listen_environment(&r->listen, r->agent, variable, sizeof variable);
    snprintf(preload, sizeof preload, "%s%s%.4000s", r->agent, before && *before ? ":" : "",
             before ? before : "");
    setenv(CTL_RUN_VARIABLE, variable, 1);
    setenv("LD_PRELOAD", preload, 1);
}

/* Returns 0, or the errno that exec failed with, when there is no child. */
static int start(run_t *r) {
    int said[2], code = 0;
    if (pipe2(said, O_CLOEXEC)) return errno;
    fflush(NULL);
    r->child = fork();
    if (r->child < 0) {
        code = errno;
    } else if (r->child == 0) {
        child_environment(r);
        signal(SIGPIPE, SIG_DFL);
        execvp(r->argv[0], r->argv);
        code = errno;
        ssize_t ignored = write(said[1], &code, sizeof code);
        (void)ignored;
        _exit(STATUS_NOT_FOUND);
    }
    close(said[1]);
    if (!code && read(said[0], &code, sizeof code) == (ssize_t)sizeof code)
        waitpid(r->child, NULL, 0);
    close(said[0]);
    return code;
}

/* Until the program has ended: answers its calls. Returns its wait status. */
static int attend(run_t *r) {
    int how = 0, pidfd = (int)syscall(SYS_pidfd_open, r->child, 0);
    for (;;) {
        struct pollfd fds[] = {{.fd = r->listen.sock, .events = POLLIN},
                               {.fd = pidfd, .events = POLLIN}};
        poll(fds, 2, pidfd < 0 ? WAIT_MS : -1);
        if (fds[0].revents) {
            run_listen_answer(&r->listen);
            continue;
        }
        pid_t got = waitpid(r->child, &how, WNOHANG);
        if (got == r->child || (got < 0 && errno == ECHILD)) break;
    }
    if (pidfd >= 0) close(pidfd);
    return how;
}

/* ── Reporting ── */

static int say_no_heap(const run_t *r, int how) {
    const run_listen_t *l = &r->listen;
    const char *program = r->script ? r->script : r->argv[0];
    if (l->refused[0]) return command_fail("no heap was captured: %s", l->refused);
    if (!l->began)
        return command_fail(
            "no heap was captured: %s did not run as a Python program that lowtide knows "
            "(CPython 3.11 to 3.15, dynamically linked)",
            program);
    if (WIFSIGNALED(how))
        return command_fail(
            "no heap was captured: %s was ended by SIG%s; to see a running process: "
            "lowtide dump PID",
            program, sigabbrev_np(WTERMSIG(how)));
    return command_fail(
        "no heap was captured: %s left without its exit functions (os._exit, exec, or a "
        "fatal error); to see a running process: lowtide dump PID",
        program);
}

/* The recording lies in the file that `-o` named, or in memory. */
static int report(const run_t *r, const char *path) {
    static char name[] = "report", option[] = "--json";
    char *words[] = {name, option, (char *)path, NULL};
    extern const command_t command_report;
    if (!r->json) return report_print(path);
    optind = 0; /* the report's words, from the beginning */
    return command_report.exec(&command_report, 3, words);
}

static int finish(run_t *r, int memory, int how) {
    char path[64];
    int status = EXIT_DONE;
    if (!r->listen.captured) {
        if (r->to) output_abandon(&r->output);
        return r->missing ? EXIT_FAILED : say_no_heap(r, how);
    }
    if (r->listen.result.text[0]) command_fail("%s", r->listen.result.text);
    if (r->to) status = output_finish(&r->output);
    snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
    if (status == EXIT_DONE && r->report && !r->missing) status = report(r, r->to ? r->to : path);
    return status;
}

static int run(run_t *r) {
    err_t e;
    int memory = -1;
    if (agent_file_find(r->agent, sizeof r->agent, &e)) return command_fail("%s", e.text);
    if (r->to) {
        if (output_open(&r->output, r->to, &e)) return command_fail("%s", e.text);
    } else if ((memory = memfd_create("lowtide", MFD_CLOEXEC)) < 0) {
        return command_fail("cannot make a file in memory: %s", strerror(errno));
    }
    if (run_listen_open(&r->listen, r->to ? r->output.fd : memory, r->values ? 0 : CTL_NO_VALUES,
                        &e)) {
        if (r->to) output_abandon(&r->output);
        return command_fail("%s", e.text);
    }
    pass_signals_on();
    int code = start(r);
    if (code) {
        if (r->to) output_abandon(&r->output);
        command_fail("cannot run %s: %s", r->argv[0], strerror(code));
        return code == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE;
    }
    child_pid = r->child;
    int how = attend(r);
    child_pid = 0;
    run_listen_close(&r->listen);
    finish(r, memory, how);
    if (WIFSIGNALED(how)) die_of(WTERMSIG(how));
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
}

/* ── Words ── */

static const char *python_default(char *room, size_t n) {
    const char *venv = getenv("VIRTUAL_ENV");
    if (!venv || !*venv) return "python3";
    snprintf(room, n, "%s/bin/python3", venv);
    return access(room, X_OK) == 0 ? room : "python3";
}

static int run_exec(const command_t *self, int argc, char **argv) {
    static const struct option longs[] = {
        {"output", required_argument, NULL, 'o'}, {"python", required_argument, NULL, 'p'},
        {"no-values", no_argument, NULL, 'n'},    {"no-report", no_argument, NULL, 'q'},
        {"json", no_argument, NULL, 'j'},         {0}};
    static char minus_m[] = "-m";
    static run_t r = {.report = true, .values = true};
    char python[4096];
    const char *module = NULL;
    int status, got = COMMAND_END;
    while (!module &&
           (got = command_getopt(self, argc, argv, "+o:m:", longs, &status)) != COMMAND_END) {
        if (got == COMMAND_STOP) return status;
        if (got == 'o') r.to = optarg;
        if (got == 'p') r.python = optarg;
        if (got == 'n') r.values = false;
        if (got == 'q') r.report = false;
        if (got == 'j') r.json = true;
        if (got == 'm') module = optarg;
    }
    bool command = !module && optind > 1 && strcmp(argv[optind - 1], "--") == 0;
    if (!module && optind == argc)
        return command_usage(self, "run what? name a .py file, -m MODULE, or -- COMMAND");
    if (r.to && strcmp(r.to, "-") == 0)
        return command_usage(self, "-o - is the program's own standard output; name a file");
    if (command) {
        r.argv = argv + optind;
        return run(&r);
    }
    char **words = calloc((size_t)(argc - optind) + 4, sizeof *words);
    if (!words) return command_fail("no memory");
    int n = 0;
    words[n++] = (char *)(r.python ? r.python : python_default(python, sizeof python));
    if (module) words[n++] = minus_m;
    if (module) words[n++] = (char *)module;
    if (!module) r.script = argv[optind];
    r.missing = r.script && access(r.script, F_OK) != 0;
    while (optind < argc) words[n++] = argv[optind++];
    r.argv = words;
    status = run(&r);
    free(words);
    return status;
}

const command_t command_run = {
    .name = "run",
    .args = "[-o F.tide] [--json] [--no-report] [--no-values] [--python P] app.py [args]\n"
            "       lowtide run [options] -m module [args]\n"
            "       lowtide run [options] -- command [args]",
    .summary = "Runs a program and prints the report of its heap at its end",
    .help = "The program runs as it would without lowtide: its input, output, signals and\n"
            "exit status are its own. Its heap is captured when it ends, also by sys.exit or\n"
            "an unhandled exception, before anything is torn down; not after os._exit or a\n"
            "signal that kills. The report follows on standard output.\n"
            "\n"
            "  -o, --output F   keep the recording, for report, why, diff and sql\n"
            "  --json           print the report as JSON\n"
            "  --no-report      print no report\n"
            "  --no-values      leave out what strings, numbers and bytes say\n"
            "  --python P       the Python to use; else that of the active virtual\n"
            "                   environment, or python3\n"
            "\n"
            "Behind -- stands any command: its first Python process is captured.\n"
            "\n"
            "Example:\n"
            "  lowtide run -o app.tide app.py --input data.csv\n",
    .exec = run_exec,
};
