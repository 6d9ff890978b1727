#define _GNU_SOURCE
#include "cli/progress.h"

#include "base/clock.h"

#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { STEPS = 2, WAS_LONG = 2 };

static int status; /* of the last child: WAS_LONG where it all took a second */

/* What a child leaves on its standard error, a terminal or a pipe. Each of its two steps takes so long, and as long as it takes
 * to say the awaited words, if there are any. */
static size_t said_by(bool terminal, unsigned work_ms, const char *const *awaited, char *out,
                      size_t room) {
    int ours, theirs, ends[2], go_on[2], step = 0;
    char byte;
    assert_int_equal(pipe(go_on), 0);
    if (terminal) {
        assert_int_equal(openpty(&ours, &theirs, NULL, NULL, NULL), 0);
    } else {
        assert_int_equal(pipe(ends), 0);
        ours = ends[0];
        theirs = ends[1];
    }
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(theirs, STDERR_FILENO);
        close(go_on[1]);
        const uint64_t begin_ns = (uint64_t)now_ns();
        progress_begin("reading \033[31m.tide");
        usleep(work_ms * 1000);
        if (awaited && read(go_on[0], &byte, 1) != 1) _exit(1);
        progress_say("explaining");
        if (awaited && read(go_on[0], &byte, 1) != 1) _exit(1);
        progress_end();
        _exit((uint64_t)now_ns() - begin_ns < 1000000000 ? 0 : WAS_LONG);
    }
    close(theirs);
    size_t n = 0;
    for (ssize_t got; n < room - 1 && (got = read(ours, out + n, room - 1 - n)) > 0;) {
        out[n += (size_t)got] = 0;
        while (awaited && step < STEPS && strstr(out, awaited[step])) {
            assert_int_equal(write(go_on[1], "x", 1), 1);
            step++;
        }
    }
    out[n] = 0;
    close(ours);
    close(go_on[0]);
    close(go_on[1]);
    waitpid(child, &status, 0);
    return n;
}

static void long_work_is_told_on_a_terminal_and_wiped(void **state) {
    (void)state;
    char text[8192];
    const char *const awaited[STEPS] = {"reading ?[31m.tide ... 1 s", "explaining ... "};
    size_t n = said_by(true, 0, awaited, text, sizeof text);
    assert_non_null(strstr(text, awaited[STEPS - 1]));
    assert_string_equal(text + n - strlen("\r\033[K"), "\r\033[K");
}

static void nobody_is_told_behind_a_pipe(void **state) {
    (void)state;
    char text[8192];
    assert_int_equal(said_by(false, 1200, NULL, text, sizeof text), 0);
}

static void short_work_is_not_told(void **state) {
    (void)state;
    char text[8192];
    size_t n;
    do n = said_by(true, 0, NULL, text, sizeof text);
    while (WEXITSTATUS(status) == WAS_LONG); /* on a busy machine any work may be */
    assert_int_equal(n, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_work_is_told_on_a_terminal_and_wiped),
        cmocka_unit_test(nobody_is_told_behind_a_pipe),
        cmocka_unit_test(short_work_is_not_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
