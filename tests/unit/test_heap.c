/* The parts of the heap's walk that need no Python: the side table, and faults. */
#define _GNU_SOURCE
#include "agent/heap/fault.h"
#include "agent/heap/side_table.h"
#include "base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static void each_sixteen_bytes_have_an_entry_of_their_own(void **state) {
    (void)state;
    side_table_t t;
    assert_int_equal(side_open(&t), 0);
    const uint64_t at = 0x7f0012300000;
    for (uint32_t i = 0; i < 200000; i++) *side_entry(&t, at + 16 * i) = i + 1;
    for (uint32_t i = 0; i < 200000; i++) {
        assert_int_equal(*side_entry(&t, at + 16 * i), i + 1);
        assert_int_equal(*side_entry(&t, at + 16 * i + 8), i + 1);
    }
    assert_int_equal(*side_entry(&t, at - 16), 0);
    side_close(&t);
}

static void addresses_far_apart_do_not_meet(void **state) {
    (void)state;
    const uint64_t places[] = {4096,           1ull << 20,        (1ull << 20) - 16,
                               1ull << 33,     (1ull << 33) - 16, (1ull << 47) - 16,
                               0x555555554000, 0x7ffff7dd0010};
    enum { COUNT = sizeof places / sizeof *places };
    side_table_t t;
    assert_int_equal(side_open(&t), 0);
    for (uint32_t i = 0; i < COUNT; i++) *side_entry(&t, places[i]) = i + 1;
    for (uint32_t i = 0; i < COUNT; i++) assert_int_equal(*side_entry(&t, places[i]), i + 1);
    assert_null(side_leaf(&t, 0x600000000000));
    side_close(&t);
}

static void a_table_without_memory_says_so_and_can_go_on(void **state) {
    (void)state;
    side_table_t t;
    mem_fail_at(1);
    assert_int_equal(side_open(&t), -ENOMEM);
    mem_fail_at(0);
    assert_int_equal(side_open(&t), 0);
    mem_fail_at(1);
    assert_null(side_entry(&t, 0x7f0000000000));
    mem_fail_at(0);
    assert_non_null(side_entry(&t, 0x7f0000000000));
    side_close(&t);
}

static void faults_come_back_as_often_as_they_happen_and_the_handlers_are_put_back(void **state) {
    (void)state;
    struct sigaction before, after;
    sigaction(SIGSEGV, NULL, &before);
    char *nothing = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char name[] = "/tmp/lowtide-fault-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    char *beyond = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0); /* the file is empty: SIGBUS */
    fault_t f;
    volatile int segv = 0, bus = 0;
    assert_int_equal(fault_open(&f), 0);
    int signal = fault_mark(&f);
    segv = segv + (signal == SIGSEGV);
    bus = bus + (signal == SIGBUS);
    if (segv < 3) *(volatile char *)nothing;
    if (bus < 2) *(volatile char *)beyond;
    fault_close(&f);
    assert_int_equal(segv, 3);
    assert_int_equal(bus, 2);
    sigaction(SIGSEGV, NULL, &after);
    assert_ptr_equal(before.sa_handler, after.sa_handler);
    munmap(nothing, 4096);
    munmap(beyond, 4096);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_sixteen_bytes_have_an_entry_of_their_own),
        cmocka_unit_test(addresses_far_apart_do_not_meet),
        cmocka_unit_test(a_table_without_memory_says_so_and_can_go_on),
        cmocka_unit_test(faults_come_back_as_often_as_they_happen_and_the_handlers_are_put_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
