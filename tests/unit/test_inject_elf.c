/* The injector's view of a process, tried on this one, where the loader itself can be asked. */
#define _GNU_SOURCE
#include "inject/inject_elf.h"
#include "inject/inject_proc.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int mem_fd;
static proc_maps_t maps;

static int set_up(void **state) {
    (void)state;
    mem_fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    return mem_fd < 0 || proc_maps_read(getpid(), &maps);
}

static int tear_down(void **state) {
    (void)state;
    close(mem_fd);
    proc_maps_free(&maps);
    return 0;
}

static const proc_map_t *first_map_of(const void *function) {
    Dl_info info;
    assert_int_not_equal(dladdr(function, &info), 0);
    const proc_map_t *m = proc_maps_find(&maps, (uint64_t)(uintptr_t)info.dli_fbase);
    assert_non_null(m);
    return m;
}

static void symbols_are_where_the_loader_finds_them(void **state) {
    (void)state;
    static const char *names[] = {"pthread_create",
                                  "dlopen",
                                  "dlsym",
                                  "dlclose",
                                  "dlerror",
                                  "munmap",
                                  "getpid",
                                  "__errno_location",
                                  "pthread_attr_init",
                                  "pthread_attr_setstacksize"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        elf_object_t o;
        void *known = dlsym(RTLD_DEFAULT, names[i]);
        assert_non_null(known);
        assert_int_equal(elf_object_open(mem_fd, &maps, first_map_of(known), &o), 0);
        uint64_t found = elf_symbol(mem_fd, &o, names[i]);
        assert_true(found == (uint64_t)(uintptr_t)known);
        assert_int_equal(elf_symbol(mem_fd, &o, "no_such_symbol_anywhere"), 0);
    }
}

static void the_old_kind_of_hash_table_is_read_too(void **state) {
    (void)state;
    elf_object_t o;
    void *known = dlsym(RTLD_DEFAULT, "munmap");
    assert_int_equal(elf_object_open(mem_fd, &maps, first_map_of(known), &o), 0);
    if (!o.hash) skip();
    o.gnu_hash = 0;
    uint64_t known_at = (uint64_t)(uintptr_t)dlsym(RTLD_DEFAULT, "getpid");
    assert_true(elf_symbol(mem_fd, &o, "getpid") == known_at);
    assert_int_equal(elf_symbol(mem_fd, &o, "no_such_symbol_anywhere"), 0);
}

static void a_file_that_is_no_object_or_a_broken_one_is_refused(void **state) {
    (void)state;
    unsigned char *page =
        mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    proc_map_t m = {.start = (uint64_t)(uintptr_t)page,
                    .end = (uint64_t)(uintptr_t)page + 8192,
                    .readable = true,
                    .path = ""};
    proc_maps_t one = {.list = {.at = &m, .count = 1}};
    elf_object_t o;
    assert_int_equal(elf_object_open(mem_fd, &one, &m, &o), -ENOEXEC);
    /* Whatever follows a good start: no crash, no endless loop. */
    memcpy(page, (void *)(uintptr_t)first_map_of(dlsym(RTLD_DEFAULT, "munmap"))->start, 8192);
    srand(1);
    for (int turn = 0; turn < 3000; turn++) {
        page[16 + rand() % 8000] = (unsigned char)rand();
        if (elf_object_open(mem_fd, &one, &m, &o) == 0) elf_symbol(mem_fd, &o, "pthread_create");
    }
    page[4] = 1;
    assert_int_equal(elf_object_open(mem_fd, &one, &m, &o), -ENOTSUP);
    munmap(page, 8192);
}

static void the_memory_of_a_process_that_ended_cannot_be_read(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    char path[64], byte;
    snprintf(path, sizeof path, "/proc/%d/mem", (int)child);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t at = (uint64_t)(uintptr_t)&maps;
    assert_int_equal(elf_read(fd, at, &byte, 1), 0);
    assert_int_equal(elf_read(fd, 0, &byte, 1), -EFAULT);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(elf_read(fd, at, &byte, 1), -ESRCH);
    close(fd);
    proc_maps_t none;
    assert_int_equal(proc_maps_read(child, &none), -ESRCH);
}

static void a_status_is_read_by_whole_names(void **state) {
    (void)state;
    const char *status = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t7\nNSpid:\t12\t3\n";
    assert_int_equal(proc_status_number(status, "Seccomp", -1), 2);
    assert_int_equal(proc_status_number(status, "Seccomp_filters", -1), 7);
    assert_int_equal(proc_status_number(status, "pid", -1), -1);
    proc_stat_t stat;
    assert_int_equal(proc_stat_read(getpid(), gettid(), &stat), 0);
    assert_int_equal(stat.state, 'R');
    assert_true(stat.start > 0 && stat.processor >= 0);
    assert_int_equal(proc_thread_by_inner(getpid(), gettid()), gettid());
    assert_int_equal(proc_thread_by_inner(getpid(), 1 << 30), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(symbols_are_where_the_loader_finds_them),
        cmocka_unit_test(the_old_kind_of_hash_table_is_read_too),
        cmocka_unit_test(a_file_that_is_no_object_or_a_broken_one_is_refused),
        cmocka_unit_test(the_memory_of_a_process_that_ended_cannot_be_read),
        cmocka_unit_test(a_status_is_read_by_whole_names),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
