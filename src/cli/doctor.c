#define _GNU_SOURCE
#include "cli/agent_file.h"
#include "cli/command.h"
#include "collect/symbols.h"
#include "inject/inject.h"
#include "view/json.h"
#include "view/screen.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

/* OK: works. LIMITED: lowtide does without it, or works only in part. MISSING: dump and attach cannot work. */
enum verdict { OK, LIMITED, MISSING };

typedef struct check {
    const char *name;
    int verdict;
    char state[400], mend[300];
} check_t;

enum { CHECKS_MAX = 16, OLDEST = 11, NEWEST = 15 };

typedef struct checks {
    check_t at[CHECKS_MAX];
    int count;
} checks_t;

static check_t *add(checks_t *c, const char *name, int verdict, const char *state,
                    const char *mend) {
    check_t *one = &c->at[c->count++];
    *one = (check_t){.name = name, .verdict = verdict};
    snprintf(one->state, sizeof one->state, "%s", state);
    snprintf(one->mend, sizeof one->mend, "%s", verdict == OK ? "" : mend);
    return one;
}

/* The first line of a small file; false where it cannot be read. */
static bool first_line(const char *path, char *out, size_t room) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool got = fgets(out, (int)room, f);
    fclose(f);
    if (got) out[strcspn(out, "\n")] = 0;
    return got;
}

static void check_ptrace(checks_t *c, const inject_probe_t *p) {
    char state[200];
    const char *const scope[] = {"processes of the same user may be observed",
                                 "only child processes may be observed",
                                 "only with CAP_SYS_PTRACE may processes be observed",
                                 "no process may be observed until the next boot"};
    int yama = p->yama_scope < 0 ? 0 : p->yama_scope > 3 ? 3 : p->yama_scope;
    bool may = p->cap_sys_ptrace ? yama < 3 : yama == 0;
    snprintf(state, sizeof state, "%s%s",
             p->cap_sys_ptrace && yama < 3
                 ? "processes of every user may be observed (CAP_SYS_PTRACE)"
                 : scope[yama],
             p->yama_scope < 0 ? ""
             : yama == 0       ? " (yama ptrace_scope 0)"
                               : "");
    add(c, "ptrace",
        may        ? OK
        : yama < 3 ? LIMITED
                   : MISSING,
        state,
        yama < 3 ? "run lowtide with sudo, or set kernel.yama.ptrace_scope to 0; `lowtide run` "
                   "needs neither"
                 : "reboot with kernel.yama.ptrace_scope below 3; `lowtide run` works");
    add(c, "pidfd_getfd", p->pidfd_getfd ? OK : MISSING,
        p->pidfd_getfd ? "an agent can be reached" : "not there, or filtered by seccomp",
        "use Linux 5.6 or later; in a container allow pidfd_getfd");
    add(c, "memfd", p->memfd ? OK : MISSING,
        p->memfd ? "the agent needs no file that the target can see" : "memfd_create fails",
        "allow memfd_create in the container's seccomp profile");
    add(c, "seccomp", p->seccomp == 0 ? OK : LIMITED,
        p->seccomp == 0 ? "this process is not filtered" : "this process runs under a filter",
        "if dump is refused, run it outside the container's filter");
}

static void check_overcommit(checks_t *c) {
    char line[64];
    if (!first_line("/proc/sys/vm/overcommit_memory", line, sizeof line)) return;
    bool strict = strcmp(line, "2") == 0;
    add(c, "overcommit", strict ? LIMITED : OK,
        strict ? "strict: the fork of a big process may be refused"
               : "a fork costs no memory ahead",
        "captures then walk in place and hold the program up longer; vm.overcommit_memory=0 avoids "
        "it");
}

static void check_system(checks_t *c) {
    char state[200];
    struct utsname u;
    if (uname(&u) != 0) return;
    bool x86 = strcmp(u.machine, "x86_64") == 0;
    snprintf(state, sizeof state, "Linux %.60s on %.40s", u.release, u.machine);
    add(c, "system", x86 ? OK : MISSING, state, "use x86-64");
}

static void check_kernel(checks_t *c) {
    char line[200] = "", state[300];
    bool perf = first_line("/proc/sys/kernel/perf_event_paranoid", line, sizeof line);
    snprintf(state, sizeof state, perf ? "perf_event_paranoid %.20s" : "no perf events", line);
    add(c, "perf", perf && (atoi(line) <= 2 || geteuid() == 0) ? OK : LIMITED, state,
        "nothing needs it yet; kernel.perf_event_paranoid=2 allows it");
    bool psi = first_line("/proc/pressure/memory", line, sizeof line);
    add(c, "PSI", psi ? OK : LIMITED,
        psi ? "memory pressure is told" : "memory pressure is not told", "boot with psi=1");
    bool v2 = access("/sys/fs/cgroup/cgroup.controllers", R_OK) == 0;
    add(c, "cgroup", v2 ? OK : LIMITED, v2 ? "version 2" : "no cgroup v2 hierarchy",
        "boot with systemd.unified_cgroup_hierarchy=1; the limit of a container is not seen "
        "without");
}

static void check_agent(checks_t *c) {
    char path[4096], state[400];
    err_t e;
    bool there = agent_file_find(path, sizeof path, &e) == 0;
    snprintf(state, sizeof state, "%.390s", there ? path : e.text);
    add(c, "agent", there ? OK : MISSING, state, ""); /* the line has its mend */
}

static void check_names(checks_t *c) {
    symbols_t *s = symbols_new(NULL);
    bool lines = s && symbols_have_lines(s);
    symbols_free(s);
    add(c, "C names", lines ? OK : LIMITED,
        lines ? "functions and lines of C code, from symbols and debug information"
              : "functions of C code, from symbols alone: libdw.so.1 is not here",
        "install elfutils' libdw (Debian's libdw1), where --native shall tell lines, too");
}

/* "3.13" out of ".../python3.13", ".../libpython3.13.so.1.0"; false when the name has no version. */
static bool version_of(const char *path, int *minor, bool *free_threaded) {
    const char *at = path;
    while ((at = strstr(at, "python3."))) {
        at += strlen("python3.");
        if (!isdigit((unsigned char)*at)) continue;
        char *end;
        *minor = (int)strtol(at, &end, 10);
        *free_threaded = *end == 't';
        return true;
    }
    return false;
}

/* Which Python the process runs: by its executable, else by a libpython that it has mapped. */
static bool python_of(const char *pid, int *minor, bool *free_threaded) {
    char path[64], line[4200];
    snprintf(path, sizeof path, "/proc/%.20s/exe", pid);
    ssize_t n = readlink(path, line, sizeof line - 1);
    if (n <= 0) return false;
    line[n] = 0;
    const char *name = strrchr(line, '/');
    if (name && version_of(name, minor, free_threaded)) return true;
    snprintf(path, sizeof path, "/proc/%.20s/maps", pid);
    FILE *f = fopen(path, "re");
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f))
        if (strstr(line, "/libpython3.")) found = version_of(line, minor, free_threaded);
    if (f) fclose(f);
    return found;
}

static void check_pythons(checks_t *c) {
    DIR *d = opendir("/proc");
    if (!d) return;
    char state[400] = "", one[64];
    int found = 0, refused = 0, named = 0;
    for (struct dirent *entry; (entry = readdir(d));) {
        int minor;
        bool free_threaded;
        if (!isdigit((unsigned char)entry->d_name[0])) continue;
        if (!python_of(entry->d_name, &minor, &free_threaded)) continue;
        bool supported = minor >= OLDEST && minor <= NEWEST && !free_threaded;
        found++;
        refused += !supported;
        snprintf(one, sizeof one, "%s%.20s (3.%d%s%s)", named ? ", " : "", entry->d_name, minor,
                 free_threaded ? "t" : "", supported ? "" : ": not supported");
        if (strlen(state) + strlen(one) + 16 > sizeof state) continue;
        strcat(state, one);
        named++;
    }
    closedir(d);
    if (named < found) {
        snprintf(one, sizeof one, ", %d more", found - named);
        strcat(state, one);
    }
    add(c, "Pythons", refused ? LIMITED : OK, found ? state : "none runs that this user can see",
        "lowtide observes CPython 3.11 to 3.15 with the GIL");
}

static void print_text(const checks_t *c) {
    static const char *const word[] = {"ok", "limited", "missing"};
    static const enum screen_style style[] = {STYLE_GOOD, STYLE_WARN, STYLE_WARN};
    enum { WORD_CELLS = 9, NAME_CELLS = 13 };
    screen_t s;
    screen_init(&s, stdout, STDOUT_FILENO);
    for (int i = 0; i < c->count; i++) {
        const check_t *one = &c->at[i];
        screen_style(&s, style[one->verdict]);
        screen_padded(&s, word[one->verdict], WORD_CELLS);
        screen_style(&s, STYLE_PLAIN);
        screen_padded(&s, one->name, NAME_CELLS);
        screen_wrapped(&s, one->state, WORD_CELLS + NAME_CELLS, s.width - WORD_CELLS - NAME_CELLS);
        if (!one->mend[0]) continue;
        screen_gap(&s, WORD_CELLS + NAME_CELLS);
        screen_style(&s, STYLE_BOLD);
        screen_wrapped(&s, one->mend, WORD_CELLS + NAME_CELLS, s.width - WORD_CELLS - NAME_CELLS);
        screen_style(&s, STYLE_PLAIN);
    }
}

static void print_json(const checks_t *c) {
    static const char *const word[] = {"ok", "limited", "missing"};
    json_t j;
    json_init(&j, stdout);
    json_open(&j, NULL, '{');
    json_uint(&j, "schema", 1);
    json_open(&j, "checks", '[');
    for (int i = 0; i < c->count; i++) {
        json_open(&j, NULL, '{');
        json_text(&j, "name", c->at[i].name);
        json_text(&j, "verdict", word[c->at[i].verdict]);
        json_text(&j, "state", c->at[i].state);
        json_text(&j, "mend", c->at[i].mend[0] ? c->at[i].mend : NULL);
        json_close(&j);
    }
    json_close(&j);
    json_close(&j);
}

static int exec_doctor(const command_t *self, int argc, char **argv) {
    enum { JSON = 1 };
    static const struct option longs[] = {{"json", no_argument, NULL, JSON}, {0}};
    bool json = false;
    int option, status;
    while ((option = command_getopt(self, argc, argv, "", longs, &status)) != COMMAND_END) {
        if (option == COMMAND_STOP) return status;
        if (option == JSON) json = true;
    }
    if (optind < argc) return command_usage(self, "doctor takes no arguments");
    checks_t c = {0};
    inject_probe_t probe;
    check_system(&c);
    check_agent(&c);
    check_pythons(&c);
    check_names(&c);
    if (inject_probe(&probe) == 0) check_ptrace(&c, &probe);
    check_overcommit(&c);
    check_kernel(&c);
    if (json)
        print_json(&c);
    else
        print_text(&c);
    for (int i = 0; i < c.count; i++)
        if (c.at[i].verdict == MISSING) return EXIT_FAILED;
    return EXIT_DONE;
}

const command_t command_doctor = {
    "doctor",
    "[--json]",
    "Tells what works on this machine, and what to do where it does not",
    "Each line is one thing that lowtide uses: whether it is there, and the mend where it is\n"
    "not. \"limited\" means that lowtide works, with less. The status is 1 when something is\n"
    "missing that `lowtide dump` cannot do without.\n"
    "\n"
    "  --json         one JSON object: checks with name, verdict, state, mend\n"
    "\n"
    "Example: why is the dump of another user's process refused?\n"
    "  lowtide doctor\n",
    exec_doctor,
};
