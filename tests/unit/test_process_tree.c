/* Children without number, and what is no child any more. */
#define _GNU_SOURCE
#include "cli/process_tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* More than the kernel tells in one read, a page. */
enum { CHILDREN = 1500 };

static void all_children_are_found_however_many_they_are(void **state) {
    (void)state;
    static pid_t children[CHILDREN];
    tree_processes_t found = {0};
    size_t known = 0;
    /* What has ended is a child until it is waited for. */
    for (int i = 0; i < CHILDREN; i++) {
        children[i] = fork();
        if (children[i] == 0) _exit(0);
        assert_true(children[i] > 0);
    }
    assert_int_equal(tree_below(&found, getpid()), 0);
    assert_int_equal(found.count, CHILDREN);
    for (size_t i = 0; i < found.count; i++) {
        assert_int_equal(found.at[i].parent, getpid());
        assert_int_equal(found.at[i].depth, 1);
        known += found.at[i].pid == children[i];
    }
    assert_int_equal(known, CHILDREN);
    for (int i = 0; i < CHILDREN; i++) assert_int_equal(waitpid(children[i], NULL, 0), children[i]);
    found.count = 0;
    assert_int_equal(tree_below(&found, getpid()), 0);
    assert_int_equal(found.count, 0);
    tree_processes_free(&found);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_children_are_found_however_many_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
