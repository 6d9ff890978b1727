#define _GNU_SOURCE
#include "cli/progress.h"

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

/* What a child that works so long leaves on its standard error: a terminal, or a pipe. */
static size_t said_by(bool terminal, unsigned work_ms, char *out, size_t room) {
    int ours, theirs, ends[2];
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
        progress_begin("reading \033[31m.tide");
        usleep(work_ms * 1000);
        progress_say("explaining");
        usleep(work_ms / 2 * 1000);
        progress_end();
        _exit(0);
    }
    close(theirs);
    size_t n = 0;
    for (ssize_t got; n < room - 1 && (got = read(ours, out + n, room - 1 - n)) > 0;)
        n += (size_t)got;
    out[n] = 0;
    close(ours);
    waitpid(child, NULL, 0);
    return n;
}

static void long_work_is_told_on_a_terminal_and_wiped(void **state) {
    (void)state;
    char text[8192];
    size_t n = said_by(true, 1500, text, sizeof text);
    assert_non_null(strstr(text, "reading ?[31m.tide ... 1 s"));
    assert_non_null(strstr(text, "explaining ... "));
    assert_string_equal(text + n - strlen("\r\033[K"), "\r\033[K");
}

static void nobody_is_told_behind_a_pipe(void **state) {
    (void)state;
    char text[8192];
    assert_int_equal(said_by(false, 1200, text, sizeof text), 0);
}

static void short_work_is_not_told(void **state) {
    (void)state;
    char text[8192];
    assert_int_equal(said_by(true, 0, text, sizeof text), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_work_is_told_on_a_terminal_and_wiped),
        cmocka_unit_test(nobody_is_told_behind_a_pipe),
        cmocka_unit_test(short_work_is_not_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
