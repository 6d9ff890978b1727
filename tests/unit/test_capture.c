#include "agent/capture.h"

#include "base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void without_memory_it_says_so_and_touches_nothing(void **state) {
    (void)state;
    rt_t rt = {0};
    ctl_result_t r;
    capture_t c = {.rt = &rt, .fd = -1, .peer = -1};
    mem_fail_at(1);
    assert_int_equal(capture_run(&c, &r), -ENOMEM);
    assert_int_equal(mem_fail_at(0), 0);
    assert_int_equal(r.status, -ENOMEM);
    assert_non_null(strstr(r.text, "memory"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_memory_it_says_so_and_touches_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
