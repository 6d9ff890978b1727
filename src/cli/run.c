#define _GNU_SOURCE
#include "base/err.h"
#include "base/limit_size.h"
#include "cli/agent_file.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/record.h"
#include "cli/run_listen.h"
#include "control/region.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WAIT_MS = 20, STATUS_NOT_FOUND = 127, STATUS_NOT_EXECUTABLE = 126 };

typedef struct run {
    const char *to, *python, *script; /* script: the file that Python is to run, or NULL */
    const char *limit, *dump;         /* --limit and --dump-near-limit, or NULL */
    bool json, report, values, peaks;
    bool missing; /* Python itself says that there is no such script */
    char **argv;  /* of the program */
    char agent[4096];
    run_listen_t listen;
    record_t record;
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
    char variable[sizeof r->agent + 512], preload[2 * sizeof r->agent];
    const char *before = getenv("LD_PRELOAD");
    run_listen_environment(&r->listen, r->agent, variable, sizeof variable);
    snprintf(preload, sizeof preload, "%s%s%.4000s", r->agent, before && *before ? ":" : "",
             before ? before : "");
    setenv(CTL_RUN_VARIABLE, variable, 1);
    if (r->limit) {
        char wish[PATH_MAX + 128], place[PATH_MAX] = "";
        bool relative = r->dump && r->dump[0] != '/' && getcwd(place, sizeof place);
        snprintf(wish, sizeof wish, "%.100s:%s%s%.2000s", r->limit, relative ? place : "",
                 relative ? "/" : "", r->dump ? r->dump : "");
        setenv(CTL_LIMIT_VARIABLE, wish, 1);
    }
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
        signals_restore();
        record_limits_restore();
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

/* Until the program has ended: answers its calls, and watches. Returns its wait status. */
static int attend(run_t *r) {
    int how = 0, pidfd = (int)syscall(SYS_pidfd_open, r->child, 0);
    err_t e;
    collect_add(&r->record.collect, r->child, 0, COLLECT_STARTED, -1, "", &e);
    for (;;) {
        int wait_ms = collect_tick(&r->record.collect);
        run_listen_wait(&r->listen, pidfd, pidfd < 0 && wait_ms > WAIT_MS ? WAIT_MS : wait_ms);
        pid_t got = waitpid(r->child, &how, WNOHANG);
        if (got == r->child || (got < 0 && errno == ECHILD)) break;
    }
    if (pidfd >= 0) close(pidfd);
    run_listen_last(&r->listen);
    collect_ended(&r->record.collect, r->child, how);
    return how;
}

/* ── Reporting ── */

/* Why it could not call us at its end, or 0. */
static uint32_t mute_code(const run_t *r) {
    const collect_processes_t *all = &r->record.collect.processes;
    size_t i = 0;
    while (i < all->count && !all->at[i]->mode) i++; /* a shell may stand before it */
    return i < all->count ? all->at[i]->mute_code : 0;
}

/* Without a heap. */
static void why_no_heap(run_t *r, int how) {
    const run_listen_t *l = &r->listen;
    uint32_t code = mute_code(r);
    const char *program = r->script ? r->script : r->argv[0];
    char *why = r->record.no_heap;
    size_t room = sizeof r->record.no_heap;
    if (l->refused[0])
        snprintf(why, room, "%s", l->refused);
    else if (!l->began)
        snprintf(
            why, room,
            "%.100s did not run as a Python program that lowtide can enter so: CPython 3.11 to "
            "3.15, dynamically linked, not set-user-ID, and where %.200s is to be seen (in a "
            "chroot or container use lowtide attach PID)",
            program, r->agent);
    else if (WIFSIGNALED(how))
        snprintf(why, room, "%.100s was ended by SIG%s", program, sigabbrev_np(WTERMSIG(how)));
    else if (code)
        snprintf(why, room, "%.100s did not reach lowtide at its end: %s", program,
                 collect_why_mute(code));
    else
        snprintf(why, room,
                 "%.100s left without its exit functions (exec, a fatal error, _exit of C code, or "
                 "os._exit of a process forked from it)",
                 program);
}

static int say_no_heap(const run_t *r, int how) {
    bool ended = r->listen.began && !r->listen.refused[0] && (WIFSIGNALED(how) || !mute_code(r));
    return command_fail("no heap was captured: %s%s", r->record.no_heap,
                        ended ? "; to see a running process: lowtide dump PID" : "");
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

static int finish(run_t *r, int how) {
    char path[64];
    int status = EXIT_DONE;
    bool profile = record_has_profile(&r->record);
    if (!r->listen.captured && !r->missing) why_no_heap(r, how);
    if (!r->listen.captured && !profile) {
        if (!r->missing) status = say_no_heap(r, how);
        record_abandon(&r->record);
        return status;
    }
    status = record_finish(&r->record);
    if (status != EXIT_DONE) return status;
    if (!r->listen.captured && !r->missing) say_no_heap(r, how);
    if (r->listen.unprofiled[0])
        command_fail("allocations were not watched: %s", r->listen.unprofiled);
    if (r->listen.captured && r->listen.result.text[0]) command_fail("%s", r->listen.result.text);
    snprintf(path, sizeof path, "/proc/self/fd/%d", r->record.fd);
    if (r->report && !r->missing) status = report(r, r->to ? r->to : path);
    return status;
}

static void say_not_started(const char *program, int code) {
    bool interpreter = code == ENOENT && strchr(program, '/') && access(program, F_OK) == 0;
    command_fail("cannot run %s: %s", program,
                 interpreter ? "the interpreter that it names is not there" : strerror(code));
}

static int run(run_t *r) {
    err_t e;
    if (agent_file_find(r->agent, sizeof r->agent, &e)) return command_fail("%s", e.text);
    if (record_open(&r->record, r->to, r->listen.profile.mode != 0, &e))
        return command_fail("%s", e.text);
    r->record.collect.peaks = r->peaks;
    r->listen.flags = r->values ? 0 : CTL_NO_VALUES;
    if (run_listen_open(&r->listen, &r->record, &e)) {
        record_abandon(&r->record);
        return command_fail("%s", e.text);
    }
    pass_signals_on();
    int code = start(r);
    if (code) {
        record_abandon(&r->record);
        say_not_started(r->argv[0], code);
        return code == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE;
    }
    child_pid = r->child;
    int how = attend(r);
    child_pid = 0;
    run_listen_close(&r->listen);
    finish(r, how);
    record_close(&r->record);
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

/* Said now: near the limit nobody could mend it. It is written beside the file and renamed. */
static bool dump_is_wrong(const char *path, err_t *e) {
    char place[PATH_MAX] = ".";
    struct stat s;
    const char *slash = strrchr(path, '/');
    if (slash) snprintf(place, sizeof place, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    bool is_directory = stat(path, &s) == 0 && S_ISDIR(s.st_mode);
    if (!is_directory && access(place, W_OK | X_OK) == 0) return false;
    err_set(e, -EINVAL,
            "--dump-near-limit cannot write %.300s: name a file in a directory that is there",
            path);
    return true;
}

/* A share is of what the program may have, which it asks for itself. */
static bool limit_is_wrong(const run_t *r, err_t *e) {
    uint64_t bytes;
    if (r->limit)
        return limit_size_parse(r->limit, UINT64_MAX / 4, &bytes, e) != 0 ||
               (r->dump && dump_is_wrong(r->dump, e));
    return r->dump && err_set(e, -EINVAL, "--dump-near-limit needs a limit: add --limit SIZE") != 0;
}

static int run_exec(const command_t *self, int argc, char **argv) {
    static const struct option longs[] = {{"output", required_argument, NULL, 'o'},
                                          {"python", required_argument, NULL, 'p'},
                                          {"no-values", no_argument, NULL, 'n'},
                                          {"no-report", no_argument, NULL, 'q'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"exact", no_argument, NULL, 'e'},
                                          {"interval", required_argument, NULL, 'i'},
                                          {"native", no_argument, NULL, 'N'},
                                          {"no-profile", no_argument, NULL, 'P'},
                                          {"no-children", no_argument, NULL, 'C'},
                                          {"peak-snapshot", no_argument, NULL, 'k'},
                                          {"no-peak-snapshot", no_argument, NULL, 'K'},
                                          {"limit", required_argument, NULL, 'l'},
                                          {"dump-near-limit", optional_argument, NULL, 'D'},
                                          {0}};
    static char minus_m[] = "-m";
    static run_t r = {.report = true, .values = true, .peaks = true};
    ctl_profile_t *profile = &r.listen.profile;
    *profile = (ctl_profile_t){.mode = REGION_SAMPLED, .flags = CTL_PROFILE_CHILDREN};
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
        if (got == 'e') profile->mode = REGION_EXACT;
        if (got == 'N') profile->flags |= CTL_PROFILE_NATIVE;
        if (got == 'k' || got == 'K') r.peaks = got == 'k';
        if (got == 'P') profile->mode = 0;
        if (got == 'l') r.limit = optarg;
        if (got == 'D') r.dump = optarg ? optarg : "near-limit.tide";
        if (got == 'C') profile->flags &= ~(uint32_t)CTL_PROFILE_CHILDREN;
        if (got == 'i' && !arguments_interval(optarg, &profile->interval_bytes))
            return command_usage(self, "--interval takes bytes like 512K, from 1K to 1G, not '%s'",
                                 optarg);
    }
    bool exact = profile->mode == REGION_EXACT;
    if (!arguments_mode(self, exact, profile->interval_bytes, &status)) return status;
    err_t e;
    if (limit_is_wrong(&r, &e)) return command_usage(self, "%s", e.text);
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
    .args = "[-o F.tide] [--exact] [--json] [--no-report] [more options] app.py [args]\n"
            "       lowtide run [options] -m module [args]\n"
            "       lowtide run [options] -- command [args]",
    .summary = "Runs a program and prints the report of its memory at its end",
    .help = "The program runs as it would without lowtide: its input, output, signals and\n"
            "exit status are its own. Its allocations are sampled from its first line to its\n"
            "last, in all processes that it starts. Its heap is captured when it ends, also\n"
            "by sys.exit, os._exit or an unhandled exception, before its exit functions run;\n"
            "not after exec, a signal that kills or _exit of C code. The report follows on\n"
            "standard output.\n"
            "\n"
            "  -o, --output F   keep the recording, for report, why, diff and sql; should\n"
            "                   lowtide be killed, what it had is in F.partial\n"
            "  --exact          count every allocation instead of sampling\n"
            "  --interval N     bytes between two samples, in the mean (512K)\n"
            "  --native         record the C functions on the stacks, too\n"
            "  --no-children    leave the processes alone that the program starts\n"
            "  --no-peak-snapshot\n"
            "                   do not capture the heap at its peaks, too, as is done where it\n"
            "                   costs below a hundredth of the time so far (--peak-snapshot)\n"
            "  --no-profile     do not watch allocations\n"
            "  --limit SIZE     keep program and children together below 2GiB, 80% (of the\n"
            "                   machine or cgroup) or -2GiB (all but): collect, shrink lowtide's\n"
            "                   caches, trim the allocators\n"
            "  --dump-near-limit[=F]  write what holds the memory to F (near-limit.tide)\n"
            "                   when 95 % of the limit are in use\n"
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
