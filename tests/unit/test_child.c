#define _GNU_SOURCE
#include "agent/child.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { WORDS = 64 };
static volatile sig_atomic_t heard;

static void on_child(int signal) {
    heard = signal;
}

typedef struct shared {
    int open[WORDS], score;
    struct rlimit core;
    bool usr1_default, usr1_blocked, segv_blocked;
    int nicer;
} shared_t;

static shared_t *shared_make(void) {
    void *p =
        mmap(NULL, sizeof(shared_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

static void look_around(void *arg) {
    shared_t *s = arg;
    struct sigaction act;
    sigset_t blocked;
    char text[16] = "";
    for (int fd = 0; fd < WORDS; fd++) s->open[fd] = fcntl(fd, F_GETFD) >= 0;
    getrlimit(RLIMIT_CORE, &s->core);
    sigaction(SIGUSR1, NULL, &act);
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    s->usr1_default = act.sa_handler == SIG_DFL;
    s->usr1_blocked = sigismember(&blocked, SIGUSR1);
    s->segv_blocked = sigismember(&blocked, SIGSEGV);
    s->nicer = getpriority(PRIO_PROCESS, 0);
    int fd = open("/proc/self/oom_score_adj", O_RDONLY);
    if (read(fd, text, sizeof text - 1) > 0) s->score = atoi(text);
}

static void reap(pid_t child) {
    int how;
    assert_int_equal(waitpid(child, &how, __WALL), child);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
}

static void the_child_has_the_two_descriptors_alone_and_bothers_nobody(void **state) {
    (void)state;
    shared_t *s = shared_make();
    signal(SIGUSR1, on_child);
    int nice = getpriority(PRIO_PROCESS, 0);
    int keep = fcntl(1, F_DUPFD, 20), peer = fcntl(1, F_DUPFD, 10), other = fcntl(1, F_DUPFD, 30);
    reap(child_start(NULL, look_around, s, keep, peer));
    for (int fd = 0; fd < WORDS; fd++) assert_int_equal(s->open[fd], fd == keep || fd == peer);
    assert_int_equal(s->score, 1000);
    assert_true(s->core.rlim_cur <= 1);
    assert_true(s->usr1_default && s->usr1_blocked && !s->segv_blocked);
    assert_true(s->nicer > nice || nice == 19);
    close(keep), close(peer), close(other);
    munmap(s, sizeof *s);
}

static void nothing(void *arg) {
    (void)arg;
}

static void the_program_neither_hears_of_it_nor_sees_it(void **state) {
    (void)state;
    heard = 0;
    signal(SIGCHLD, on_child);
    pid_t child = child_start(NULL, nothing, NULL, -1, -1);
    assert_true(child > 0);
    usleep(100000);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    assert_int_equal(heard, 0);
    signal(SIGCHLD, SIG_IGN);
    reap(child);
    reap(child_start(NULL, nothing, NULL, -1, -1));
    signal(SIGCHLD, SIG_DFL);
}

static void the_mask_of_the_caller_is_as_before(void **state) {
    (void)state;
    sigset_t before, after;
    sigemptyset(&before);
    sigaddset(&before, SIGUSR2);
    sigprocmask(SIG_SETMASK, &before, NULL);
    reap(child_start(NULL, nothing, NULL, -1, -1));
    sigprocmask(SIG_SETMASK, NULL, &after);
    assert_true(sigismember(&after, SIGUSR2) && !sigismember(&after, SIGUSR1));
    sigemptyset(&before);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

typedef struct seen {
    int looked_at;
    bool open_then, open_later;
    rlim_t data;
} seen_t;

static void look(void *arg) {
    seen_t *s = arg;
    s->open_then = fcntl(s->looked_at, F_GETFD) >= 0;
}

static void work_later(void *arg) {
    seen_t *s = arg;
    struct rlimit limit;
    s->open_later = fcntl(s->looked_at, F_GETFD) >= 0;
    if (getrlimit(RLIMIT_DATA, &limit) == 0) s->data = limit.rlim_cur;
}

static void
it_may_look_at_descriptors_before_they_go_and_has_memory_up_to_the_hard_limit(void **state) {
    (void)state;
    seen_t *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct rlimit before, low;
    assert_true(s != MAP_FAILED);
    assert_int_equal(getrlimit(RLIMIT_DATA, &before), 0);
    s->looked_at = fcntl(1, F_DUPFD, 20);
    low = (struct rlimit){(rlim_t)1 << 30, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_DATA, &low), 0);
    reap(child_start(look, work_later, s, -1, -1));
    setrlimit(RLIMIT_DATA, &before);
    assert_true(s->open_then && !s->open_later);
    assert_true(s->data == before.rlim_max);
    close(s->looked_at);
    munmap(s, sizeof *s);
}

static void report_late(void *arg) {
    (void)arg;
    while (getppid() == *(pid_t *)arg) usleep(1000);
    ctl_result_t r = {.objects = 77};
    child_report_if_orphan(&r);
}

static void an_orphan_reports_to_the_other_side(void **state) {
    (void)state;
    int s[2], fd;
    err_t e;
    ctl_msg_t m;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
    pid_t target = fork();
    if (target == 0) {
        pid_t self = getpid();
        close(s[0]);
        _exit(child_start(NULL, report_late, &self, -1, s[1]) > 0 ? 0 : 1);
    }
    close(s[1]);
    reap(target);
    assert_int_equal(ctl_recv(s[0], &m, &fd, 120000, &e), 0);
    assert_int_equal(m.type, CTL_RESULT);
    assert_int_equal(m.result.objects, 77);
    close(s[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_child_has_the_two_descriptors_alone_and_bothers_nobody),
        cmocka_unit_test(the_program_neither_hears_of_it_nor_sees_it),
        cmocka_unit_test(the_mask_of_the_caller_is_as_before),
        cmocka_unit_test(
            it_may_look_at_descriptors_before_they_go_and_has_memory_up_to_the_hard_limit),
        cmocka_unit_test(an_orphan_reports_to_the_other_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
