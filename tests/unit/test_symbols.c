/* Names and lines of this program's own functions, from its own file: whole, cut, and damaged. */
#define _GNU_SOURCE
#include "collect/symbols.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static volatile int guard;

__attribute__((noinline)) static void outermost(void) {
    guard++;
}

static uint64_t place_of(void (*function)(void)) {
    Dl_info info;
    void *at;
    memcpy(&at, &function, sizeof at);
    assert_true(dladdr(at, &info));
    return (uint64_t)((char *)at - (char *)info.dli_fbase);
}

typedef struct file {
    uint8_t *bytes;
    size_t size;
} file_t;

static file_t read_self(void) {
    struct stat st;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    assert_int_equal(fstat(fd, &st), 0);
    file_t f = {malloc((size_t)st.st_size), (size_t)st.st_size};
    assert_non_null(f.bytes);
    assert_int_equal(read(fd, f.bytes, f.size), (ssize_t)f.size);
    close(fd);
    return f;
}

static uint32_t ask(const void *bytes, size_t n, symbols_place_t *out) {
    char path[64];
    int fd = memfd_create("library", MFD_CLOEXEC);
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    symbols_t *s = symbols_new("");
    assert_non_null(s);
    uint32_t count = symbols_find(s, 0, path, "", place_of(outermost), out);
    assert_true(count <= SYMBOLS_PLACES_MAX);
    symbols_free(s);
    close(fd);
    return count;
}

static void a_function_is_found_with_its_line(void **state) {
    (void)state;
    symbols_place_t out[SYMBOLS_PLACES_MAX];
    file_t f = read_self();
    symbols_t *s = symbols_new("");
    bool lines = symbols_have_lines(s);
    symbols_free(s);
    assert_int_equal(ask(f.bytes, f.size, out), 1);
    assert_string_equal(out[0].function, "outermost");
    assert_int_equal(out[0].line > 0, lines);
    if (lines) assert_non_null(strstr(out[0].file, "test_symbols.c"));
    free(f.bytes);
}

static void what_is_cut_or_damaged_tells_less_and_breaks_nothing(void **state) {
    enum { CUTS = 60, DAMAGED = 300 };
    (void)state;
    symbols_place_t out[SYMBOLS_PLACES_MAX];
    file_t f = read_self();
    for (size_t i = 0; i < CUTS; i++) ask(f.bytes, f.size * i / CUTS, out);
    uint8_t *damaged = malloc(f.size);
    assert_non_null(damaged);
    uint64_t random = 88172645463325252u;
    for (int i = 0; i < DAMAGED; i++) {
        memcpy(damaged, f.bytes, f.size);
        for (int k = 0; k <= i; k++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            damaged[64 + random % (f.size - 64)] = (uint8_t)(random >> 56);
        }
        ask(damaged, f.size, out);
    }
    free(damaged);
    free(f.bytes);
}

static void a_file_of_another_build_is_not_believed(void **state) {
    (void)state;
    symbols_place_t out[SYMBOLS_PLACES_MAX];
    symbols_t *s = symbols_new("");
    assert_int_equal(symbols_find(s, 0, "/proc/self/exe", "00ff", place_of(outermost), out), 0);
    assert_int_equal(symbols_find(s, 0, "/proc/self/exe", "../..", place_of(outermost), out), 0);
    assert_int_equal(symbols_find(s, 0, "/dev/zero", "00ff", 1, out), 0);
    symbols_free(s);
}

static void only_files_are_opened(void **state) {
    (void)state;
    char folder[] = "/tmp/lowtide-symbols-XXXXXX", pipe[64], events[4096];
    symbols_place_t out[SYMBOLS_PLACES_MAX];
    assert_non_null(mkdtemp(folder));
    snprintf(pipe, sizeof pipe, "%s/pipe", folder);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    assert_true(watch >= 0 && inotify_add_watch(watch, pipe, IN_OPEN) >= 0);
    symbols_t *s = symbols_new("");
    assert_int_equal(symbols_find(s, 0, pipe, "", 1, out), 0);
    symbols_free(s);
    assert_int_equal(read(watch, events, sizeof events), -1);
    assert_int_equal(errno, EAGAIN);
    close(watch);
    unlink(pipe);
    rmdir(folder);
}

static void each_library_is_told_from_thousands_of_others(void **state) {
    enum { OTHERS = 3000 };
    (void)state;
    symbols_place_t out[SYMBOLS_PLACES_MAX];
    symbols_t *s = symbols_new("");
    for (int again = 0; again < 2; again++) {
        for (int i = 0; i < OTHERS; i++) {
            char id[32];
            snprintf(id, sizeof id, "%08x", i);
            assert_int_equal(symbols_find(s, 0, "/proc/self/exe", id, place_of(outermost), out), 0);
        }
        assert_int_equal(symbols_find(s, 0, "/proc/self/exe", "", place_of(outermost), out), 1);
        assert_string_equal(out[0].function, "outermost");
    }
    symbols_free(s);
}

int main(void) {
    outermost();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_function_is_found_with_its_line),
        cmocka_unit_test(what_is_cut_or_damaged_tells_less_and_breaks_nothing),
        cmocka_unit_test(a_file_of_another_build_is_not_believed),
        cmocka_unit_test(only_files_are_opened),
        cmocka_unit_test(each_library_is_told_from_thousands_of_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
