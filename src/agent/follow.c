#define _GNU_SOURCE
#include "agent/follow.h"

#include "control/control.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WORDS_MOST = 8192, SEGMENTS_MOST = 64, NAME_MOST = 256 };

static const char preload_name[] = "LD_PRELOAD=", run_name[] = CTL_RUN_VARIABLE "=",
                  limit_name[] = CTL_LIMIT_VARIABLE "=";
/* "NAME=value" each; run[0] is 0 until all is there, and limit[0] where there is no limit. */
static char run[8192], preload[4096], limit[4608];

static follow_silent_t on_silent;

typedef int execve_t(const char *, char *const[], char *const[]);
typedef int fexecve_t(int, char *const[], char *const[]);
typedef int execveat_t(int, const char *, char *const[], char *const[], int);
typedef int spawn_t(pid_t *, const char *, const posix_spawn_file_actions_t *,
                    const posix_spawnattr_t *, char *const[], char *const[]);

static struct {
    execve_t *execve, *execvpe;
    fexecve_t *fexecve;
    execveat_t *execveat;
    spawn_t *spawn, *spawnp;
} real;

static void find(void *to, const char *name) {
    *(void **)to = dlsym(RTLD_NEXT, name);
}

/* Now, since a child between vfork and exec must not ask the loader. Our functions may be called before: by a library's constructor. */
__attribute__((constructor)) static void find_real(void) {
    find(&real.execve, "execve");
    find(&real.execvpe, "execvpe");
    find(&real.fexecve, "fexecve");
    find(&real.execveat, "execveat");
    find(&real.spawn, "posix_spawn");
    find(&real.spawnp, "posix_spawnp");
}

static void keep_limit(const char *value, bool is_python) {
    const char *path = value ? strchr(value, ':') : NULL;
    if (!path || strlen(value) >= sizeof limit - sizeof limit_name - 1) return;
    path++;
    bool mark = is_python && *path && *path != CTL_LIMIT_CHILD;
    snprintf(limit, sizeof limit, "%s%.*s%s%s", limit_name, (int)(path - value), value,
             mark ? (char[]){CTL_LIMIT_CHILD, 0} : "", path);
}

void follow_begin(const char *value, const char *agent, const char *limit_value, bool is_python) {
    if (strlen(value) >= sizeof run - sizeof run_name ||
        strlen(agent) >= sizeof preload - sizeof preload_name)
        return;
    snprintf(preload, sizeof preload, "%s%s", preload_name, agent);
    keep_limit(limit_value, is_python);
    snprintf(run, sizeof run, "%s%s", run_name, value);
}

void follow_on_silent(follow_silent_t tell) {
    on_silent = tell;
}

static const char *agent_path(void) {
    return preload + sizeof preload_name - 1;
}

/* ── Lists of libraries ── */

/* Where it stands in the list, or NULL. */
static const char *find_in(const char *libraries, const char *agent) {
    size_t n = strlen(agent);
    for (const char *at = libraries; *at; at += strcspn(at, ": "), at += *at != 0)
        if (strncmp(at, agent, n) == 0 && (!at[n] || at[n] == ':' || at[n] == ' ')) return at;
    return NULL;
}

bool follow_without(const char *libraries, const char *agent, char *out, size_t room) {
    const char *at = find_in(libraries, agent), *behind = at ? at + strlen(agent) : NULL;
    if (!at || strlen(libraries) >= room) return false;
    if (*behind)
        behind++;
    else if (at > libraries)
        at--;
    memcpy(out, libraries, (size_t)(at - libraries));
    strcpy(out + (at - libraries), behind);
    return true;
}

/* ── Can it be loaded there? ── */

static bool interpreter_is_ours(int fd, const Elf64_Phdr *segment) {
    char name[NAME_MOST];
    ssize_t n = pread(fd, name, sizeof name - 1, (off_t)segment->p_offset);
    if (n <= 0) return false;
    name[n] = '\0';
    return strstr(name, "ld-linux-x86-64") != NULL;
}

enum takes {
    TAKES,
    TAKES_NOT,
    SILENT
}; /* silent: nothing is loaded into it, but who it starts may take it */

static bool is_raised(const struct stat *st) {
    return (st->st_mode & S_ISUID && st->st_uid != geteuid()) ||
           (st->st_mode & S_ISGID && st->st_gid != getegid());
}

/* The loader called by its name loads what it is told to, and has no loader itself. */
static bool is_loader(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    return strncmp(name, "ld-", 3) == 0 || strncmp(name, "ld.so", 5) == 0;
}

static enum takes program_takes_it(int fd, const char *path) {
    Elf64_Ehdr head;
    Elf64_Phdr segments[SEGMENTS_MOST];
    if (pread(fd, &head, sizeof head, 0) != (ssize_t)sizeof head ||
        memcmp(head.e_ident, ELFMAG, SELFMAG) != 0)
        return TAKES; /* a script: who reads it is looked at when it comes to that */
    if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_machine != EM_X86_64) return TAKES_NOT;
    struct stat st;
    if (fstat(fd, &st) == 0 && is_raised(&st)) return SILENT;
    size_t n = head.e_phnum < SEGMENTS_MOST ? head.e_phnum : SEGMENTS_MOST;
    if (head.e_phentsize != sizeof segments[0] ||
        pread(fd, segments, n * sizeof segments[0], (off_t)head.e_phoff) !=
            (ssize_t)(n * sizeof segments[0]))
        return TAKES;
    for (size_t i = 0; i < n; i++)
        if (segments[i].p_type == PT_INTERP)
            return interpreter_is_ours(fd, &segments[i]) ? TAKES : TAKES_NOT;
    return is_loader(path) ? TAKES : SILENT;
}

/* path: NULL or a bare name when it is not known. */
static enum takes takes_it(const char *path) {
    int fd = open(agent_path(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return TAKES_NOT;
    close(fd);
    if (!path || !strchr(path, '/')) return TAKES;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return TAKES; /* to be executed, not read */
    enum takes takes = program_takes_it(fd, path);
    close(fd);
    return takes;
}

/* ── The environment ── */

typedef struct plan {
    bool change, strip, silent;             /* silent: it will not call */
    size_t words, text_bytes;               /* what plan_carry_out needs room for */
    size_t count;                           /* words as they are */
    ptrdiff_t run_at, preload_at, limit_at; /* -1: not there */
} plan_t;

static plan_t plan_make(const char *path, char *const env[]) {
    plan_t p = {.run_at = -1, .preload_at = -1, .limit_at = -1};
    if (!run[0] || !env) return p;
    for (; env[p.count]; p.count++) {
        if (p.count >= WORDS_MOST) return p;
        if (strncmp(env[p.count], run_name, sizeof run_name - 1) == 0)
            p.run_at = (ptrdiff_t)p.count;
        if (strncmp(env[p.count], preload_name, sizeof preload_name - 1) == 0)
            p.preload_at = (ptrdiff_t)p.count;
        if (strncmp(env[p.count], limit_name, sizeof limit_name - 1) == 0)
            p.limit_at = (ptrdiff_t)p.count;
    }
    bool there =
        p.preload_at >= 0 && find_in(env[p.preload_at] + sizeof preload_name - 1, agent_path());
    bool ours = p.run_at >= 0 && strcmp(env[p.run_at], run) == 0;
    if (limit[0]) ours &= p.limit_at >= 0 && strcmp(env[p.limit_at], limit) == 0;
    int code = errno;
    enum takes takes = takes_it(path);
    p.strip = takes == TAKES_NOT;
    p.silent = takes != TAKES;
    errno = code;
    p.change = p.strip ? there || p.run_at >= 0 || p.limit_at >= 0 : !(there && ours);
    p.words = p.count + 4;
    p.text_bytes = sizeof preload + (p.preload_at >= 0 ? strlen(env[p.preload_at]) + 1 : 0);
    return p;
}

/* LD_PRELOAD without the agent; NULL when nothing else is in it. */
static char *without_agent(char *word, char *text, size_t room) {
    const size_t n = sizeof preload_name - 1;
    memcpy(text, preload_name, n);
    if (!follow_without(word + n, agent_path(), text + n, room - n)) return word;
    return text[n] ? text : NULL;
}

static char *with_agent(const char *word, char *text) {
    const char *libraries = word ? word + sizeof preload_name - 1 : "";
    if (!*libraries) return preload;
    if (find_in(libraries, agent_path())) return (char *)word;
    char *end = stpcpy(text, preload);
    *end++ = ':';
    strcpy(end, libraries);
    return text;
}

static char *const *plan_carry_out(const plan_t *p, char *const env[], char **words, char *text) {
    if (!p->change) return env;
    size_t n = 0;
    for (ptrdiff_t i = 0; i < (ptrdiff_t)p->count; i++)
        if (i != p->run_at && i != p->preload_at && i != p->limit_at) words[n++] = env[i];
    char *before = p->preload_at >= 0 ? env[p->preload_at] : NULL, *libraries = NULL;
    if (!p->strip)
        libraries = with_agent(before, text);
    else if (before)
        libraries = without_agent(before, text, p->text_bytes);
    if (libraries) words[n++] = libraries;
    if (!p->strip) words[n++] = run;
    if (!p->strip && limit[0]) words[n++] = limit;
    words[n] = NULL;
    return words;
}

/* Before it is started: a child of vfork cannot say it later. */
static int tell_silent(const plan_t *p, const char *path) {
    return p->silent && on_silent ? on_silent(path ? path : "", 0) : 0;
}

/* It was not started after all. */
static int not_started(const plan_t *p, int told, int status) {
    if (p->silent && on_silent) on_silent(NULL, told);
    return status;
}

/* In a function's body: `given` is what to hand on instead of env. */
#define FOLLOW(path, env)                                                                          \
    const plan_t plan = plan_make(path, env);                                                      \
    char *words[plan.change ? plan.words : 1], text[plan.change ? plan.text_bytes : 1];            \
    char *const *given = plan_carry_out(&plan, env, words, text);                                  \
    const int told = tell_silent(&plan, path)

/* ── libc's functions ── */

#define PUBLIC __attribute__((visibility("default")))
extern char **environ;

PUBLIC int execve(const char *path, char *const argv[], char *const env[]) {
    FOLLOW(path, env);
    if (real.execve) return not_started(&plan, told, real.execve(path, argv, given));
    return not_started(&plan, told, (int)syscall(SYS_execve, path, argv, given));
}

PUBLIC int execv(const char *path, char *const argv[]) {
    return execve(path, argv, environ);
}

PUBLIC int execvpe(const char *file, char *const argv[], char *const env[]) {
    FOLLOW(file, env);
    if (real.execvpe) return not_started(&plan, told, real.execvpe(file, argv, given));
    errno = ENOSYS;
    return -1;
}

PUBLIC int execvp(const char *file, char *const argv[]) {
    return execvpe(file, argv, environ);
}

PUBLIC int fexecve(int fd, char *const argv[], char *const env[]) {
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    FOLLOW(path, env);
    if (real.fexecve) return not_started(&plan, told, real.fexecve(fd, argv, given));
    return not_started(&plan, told, (int)syscall(SYS_execveat, fd, "", argv, given, AT_EMPTY_PATH));
}

PUBLIC int execveat(int at, const char *path, char *const argv[], char *const env[], int flags) {
    FOLLOW(at == AT_FDCWD || path[0] == '/' ? path : NULL, env);
    if (real.execveat) return not_started(&plan, told, real.execveat(at, path, argv, given, flags));
    return not_started(&plan, told, (int)syscall(SYS_execveat, at, path, argv, given, flags));
}

PUBLIC int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attributes, char *const argv[], char *const env[]) {
    FOLLOW(path, env);
    int status = real.spawn ? real.spawn(pid, path, actions, attributes, argv, given) : ENOSYS;
    return status ? not_started(&plan, told, status) : 0;
}

PUBLIC int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                        const posix_spawnattr_t *attributes, char *const argv[],
                        char *const env[]) {
    FOLLOW(file, env);
    int status = real.spawnp ? real.spawnp(pid, file, actions, attributes, argv, given) : ENOSYS;
    return status ? not_started(&plan, told, status) : 0;
}

/* ── With the arguments one by one ── */

static size_t count_words(const char *first, va_list rest) {
    size_t n = 0;
    for (const char *word = first; word; word = va_arg(rest, char *)) n++;
    return n;
}

/* Declares `argv` from the arguments of a function, and leaves `list` behind their end. */
#define TAKE_WORDS(first)                                                                          \
    va_list list;                                                                                  \
    va_start(list, first);                                                                         \
    const size_t count = count_words(first, list);                                                 \
    va_end(list);                                                                                  \
    char *argv[count + 1];                                                                         \
    va_start(list, first);                                                                         \
    argv[0] = (char *)(first);                                                                     \
    for (size_t i = 1; i <= count; i++) argv[i] = va_arg(list, char *)

PUBLIC int execl(const char *path, const char *first, ...) {
    TAKE_WORDS(first);
    va_end(list);
    return execv(path, argv);
}

PUBLIC int execlp(const char *file, const char *first, ...) {
    TAKE_WORDS(first);
    va_end(list);
    return execvp(file, argv);
}

PUBLIC int execle(const char *path, const char *first, ...) {
    TAKE_WORDS(first);
    char *const *env = va_arg(list, char *const *);
    va_end(list);
    return execve(path, argv, env);
}
