#define _GNU_SOURCE
#include "agent/resources/resources.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static const resource_t *row(const resources_t *r, int fd) {
    for (size_t i = 0; i < r->rows.count; i++)
        if (r->rows.at[i].number == fd) return &r->rows.at[i];
    return NULL;
}

static const char *text(const resources_t *r, uint32_t at) {
    return at ? r->texts.at + at : "";
}

static void descriptors_are_told_by_kind_and_name_but_for_ours(void **state) {
    (void)state;
    resources_t r = {0};
    char path[] = "/tmp/lowtide-resources-XXXXXX";
    int pipes[2], file = mkstemp(path), ours = memfd_create("ours", 0), event = eventfd(0, 0);
    int pair[2], memory = memfd_create("theirs", 0), again = open(path, O_RDONLY);
    assert_true(file >= 0 && ours >= 0 && event >= 0 && memory >= 0 && again >= 0);
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(ftruncate(memory, 8192), 0);
    assert_int_equal(pwrite(memory, "x", 1, 0), 1);
    assert_int_equal(unlink(path), 0);
    resources_read_descriptors(&r, 0, ours, pair[1]);
    assert_null(row(&r, ours));
    assert_null(row(&r, pair[1]));
    assert_string_equal(row(&r, file)->kind, "file");
    assert_string_equal(text(&r, row(&r, file)->name), path);
    assert_string_equal(text(&r, row(&r, file)->note), "deleted");
    assert_string_equal(row(&r, event)->kind, "eventfd");
    assert_string_equal(row(&r, memory)->kind, "memfd");
    assert_int_equal(row(&r, memory)->bytes, 4096);
    assert_string_equal(row(&r, pair[0])->kind, "socket");
    assert_string_equal(text(&r, row(&r, pipes[1])->note), "write end");
    for (uint32_t i = 1; i < r.descriptors; i++)
        assert_true(r.rows.at[i - 1].number < r.rows.at[i].number);

    heap_handle_t h = {.kind = HEAP_HANDLE_DESCRIPTOR, .address = 0x1000, .number = (uint64_t)file};
    resources_handle(&r, &h);
    h.address = 0x2000; /* another object for the same: the first has it */
    resources_handle(&r, &h);
    assert_int_equal(row(&r, file)->address, 0x1000);
    h.number = 9999; /* closed behind Python's back */
    resources_handle(&r, &h);
    assert_int_equal(r.beyond, 0);
    const int all[] = {file, ours, event, memory, again, pipes[0], pipes[1], pair[0], pair[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) close(all[i]);
    resources_free(&r);
}

static void what_is_beyond_the_bound_is_counted(void **state) {
    (void)state;
    resources_t r = {0};
    heap_handle_t h = {.kind = HEAP_HANDLE_CURSOR, .address = 0x1000};
    for (int i = 0; i < RESOURCES_MAX + 5; i++) resources_handle(&r, &h);
    assert_int_equal(r.rows.count, RESOURCES_MAX);
    assert_int_equal(r.beyond, 5);
    resources_free(&r);
}

static void the_table_can_be_read_again(void **state) {
    (void)state;
    resources_t r = {0};
    rec_writer_t *w;
    err_t e;
    lowtide_error error;
    lowtide_recording *rec;
    lowtide_table *t;
    char path[64];
    int out = memfd_create("recording", 0);
    heap_handle_t h = {.kind = HEAP_HANDLE_MAPPING, .address = 0x7000, .bytes = 65536};
    resources_handle(&r, &h);
    assert_int_equal(rec_open(&w, out, 0, 1, &e), 0);
    resources_write(&r, w);
    assert_int_equal(rec_close(w, 0, 0, &e), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", out);
    assert_int_equal(lowtide_open(path, &rec, &error), 0);
    assert_int_equal(lowtide_table_load(rec, "resources", &t, &error), 0);
    assert_int_equal(lowtide_table_rows(t), 1);
    assert_string_equal(lowtide_table_text(t, lowtide_table_column(t, "kind"), 0), "mmap");
    assert_int_equal(lowtide_table_number(t, lowtide_table_column(t, "address"), 0), 0x7000);
    assert_int_equal((int64_t)lowtide_table_number(t, lowtide_table_column(t, "descriptor"), 0),
                     -1);
    assert_int_equal(lowtide_table_number(t, lowtide_table_column(t, "bytes"), 0), 65536);
    lowtide_table_free(t);
    lowtide_close(rec);
    close(out);
    resources_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descriptors_are_told_by_kind_and_name_but_for_ours),
        cmocka_unit_test(what_is_beyond_the_bound_is_counted),
        cmocka_unit_test(the_table_can_be_read_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
