/* What a recorder writes as it goes: the file that one which is killed leaves. */
#define _GNU_SOURCE
#include "collect/collect_live.h"
#include "collect_sample.h"
#include "lowtide/recording.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { MANY_CELLS = 20000, MANY_TEXT = 64, LIVE_PATH = 64 };

/* So many lines that the file would be long if each had its figures in it again and again. */
typedef struct large {
    region_t head;
    char texts[MANY_CELLS * MANY_TEXT];
    region_frame_t frames[MANY_CELLS];
    region_stack_t stacks[MANY_CELLS];
    region_cell_t cells[MANY_CELLS];
} large_t;

static large_t *large_region(int *fd) {
    region_sample_t small;
    *fd = memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(*fd, sizeof(large_t)), 0);
    large_t *r = mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    assert_true(r != MAP_FAILED);
    region_sample(&small);
    memcpy((void *)&r->head, (void *)&small.head, sizeof r->head);
    r->head.bytes = sizeof *r;
    region_sample_part(&r->head.texts, offsetof(large_t, texts), sizeof r->texts, 0);
    region_sample_part(&r->head.frames, offsetof(large_t, frames), MANY_CELLS, 0);
    region_sample_part(&r->head.stacks, offsetof(large_t, stacks), MANY_CELLS, 0);
    region_sample_part(&r->head.cells, offsetof(large_t, cells), MANY_CELLS, 0);
    region_sample_part(&r->head.blocks, offsetof(large_t, cells), 0, 0);
    region_sample_part(&r->head.events, offsetof(large_t, cells), 0, 0);
    return r;
}

/* Up to so many cells, and each of them changes. */
static void large_grow(large_t *r, uint32_t cells, uint32_t round) {
    for (uint32_t i = (uint32_t)r->head.cells.used; i < cells; i++) {
        char *text = r->texts + i * MANY_TEXT;
        uint32_t n = (uint32_t)snprintf(text + 4, MANY_TEXT - 4, "function_%u", i * 2654435761u);
        memcpy(text, &n, sizeof n);
        r->frames[i] = (region_frame_t){.function = i * MANY_TEXT, .line = i, .kind = 1};
        r->stacks[i] = (region_stack_t){0, i};
        r->cells[i].stack = i;
        r->cells[i].domain = REGION_OBJECT;
    }
    for (uint32_t i = 0; i < cells; i++) r->cells[i].total.bytes = (int64_t)i * 7919 + round;
    r->head.texts.used = (uint64_t)cells * MANY_TEXT;
    r->head.frames.used = r->head.stacks.used = r->head.cells.used = cells;
}

/* A recorder of such a process that has its live file at `path`, in a folder of its own. */
static large_t *live_begin(collect_t *c, char path[LIVE_PATH]) {
    int fd;
    err_t e;
    char folder[] = "/tmp/lowtide-live-XXXXXX";
    large_t *r = large_region(&fd);
    assert_non_null(mkdtemp(folder));
    snprintf(path, LIVE_PATH, "%s/t.partial", folder);
    assert_int_equal(collect_begin(c, &e), 0);
    add(c, fd);
    assert_int_equal(collect_live(c, path, &e), 0);
    return r;
}

static void live_end(collect_t *c, char *path, large_t *r) {
    collect_live_remove(c);
    *strrchr(path, '/') = 0;
    assert_int_equal(rmdir(path), 0); /* nothing is left beside it */
    collect_end(c);
    munmap(r, sizeof *r);
}

static off_t bytes_of(const char *path) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

/* What the file says by now: of each cell its last row counts. */
static void live_says(const char *path, const large_t *r, uint32_t round) {
    lowtide_recording *rec;
    lowtide_error error;
    lowtide_table *table;
    const uint32_t cells = (uint32_t)r->head.cells.used;
    uint64_t *last = calloc(MANY_CELLS + 1, sizeof *last);
    assert_non_null(last);
    assert_int_equal(lowtide_open(path, &rec, &error), 0);
    assert_int_equal(lowtide_table_load(rec, "stacks", &table, &error), 0);
    assert_int_equal(lowtide_table_rows(table), cells);
    lowtide_table_free(table);
    assert_int_equal(lowtide_table_load(rec, "allocations", &table, &error), 0);
    uint32_t stack = lowtide_table_column(table, "stack");
    uint32_t total = lowtide_table_column(table, "total_bytes");
    for (uint32_t i = 0; i < lowtide_table_rows(table); i++)
        last[lowtide_table_number(table, stack, i)] = lowtide_table_number(table, total, i);
    for (uint32_t i = 0; i < cells; i++) assert_int_equal(last[i], (uint64_t)i * 7919 + round);
    lowtide_table_free(table);
    lowtide_close(rec);
    free(last);
}

static void write_now(collect_t *c) {
    collect_drain(c);
    live_write(c, collect_now_us(c));
}

/* The first write is of all and no more than all. */
static off_t bytes_afresh(const char *path, collect_t *c) {
    char other[80];
    collect_live_t kept = c->live;
    snprintf(other, sizeof other, "%s.afresh", path);
    c->live = (collect_live_t){.fd = -1};
    assert_int_equal(collect_live(c, other, NULL), 0);
    write_now(c);
    off_t bytes = bytes_of(other);
    collect_live_remove(c);
    c->live = kept;
    return bytes;
}

static void the_live_file_has_it_all_and_is_at_most_twice_as_long_and_a_write(void **state) {
    (void)state;
    enum { ROUNDS = 40 };
    char path[LIVE_PATH];
    collect_t c;
    large_t *r = live_begin(&c, path);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        /* It grows for half of the time, and then it only changes. */
        large_grow(r, round < ROUNDS / 2 ? MANY_CELLS * 2 / ROUNDS * round : MANY_CELLS, round);
        write_now(&c);
        live_says(path, r, round);
        off_t afresh = bytes_afresh(path, &c), bytes = bytes_of(path);
        if (bytes > 3 * afresh + (512 << 10))
            fail_msg("%jd of %jd", (intmax_t)bytes, (intmax_t)afresh);
    }
    live_end(&c, path, r);
}

static void a_live_file_without_room_keeps_what_it_has_and_goes_on_later(void **state) {
    (void)state;
    char path[LIVE_PATH];
    struct rlimit old, low;
    collect_t c;
    large_t *r = live_begin(&c, path);
    large_grow(r, 100, 1);
    write_now(&c);
    live_says(path, r, 1);
    /* A file may not become longer than this one is: as on a full disk. */
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = (struct rlimit){(rlim_t)bytes_of(path), old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    for (uint32_t round = 2; round < 5; round++) {
        for (uint32_t i = 0; i < 100; i++) r->cells[i].total.bytes = (int64_t)i * 7919 + round;
        write_now(&c);
        live_says(path, r, 1);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, before);
    write_now(&c);
    live_says(path, r, 4);
    live_end(&c, path, r);
}

/* What was written afresh and did not get the name is in no file. */
static void a_live_file_that_cannot_take_its_name_lacks_nothing_later(void **state) {
    (void)state;
    char path[LIVE_PATH], aside[80];
    collect_t c;
    large_t *r = live_begin(&c, path);
    snprintf(aside, sizeof aside, "%s.aside", path);
    large_grow(r, 100, 1);
    write_now(&c);
    for (uint32_t round = 2; bytes_of(path) <= 256 << 10; round++) {
        large_grow(r, MANY_CELLS / 2, round);
        write_now(&c); /* so long at last that the next is written afresh */
    }
    assert_int_equal(rename(path, aside), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    large_grow(r, MANY_CELLS, 1000);
    write_now(&c);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rename(aside, path), 0);
    live_says(path, r, 1000);
    for (uint32_t round = 1001; round < 1005; round++) {
        large_grow(r, MANY_CELLS, round);
        write_now(&c);
        live_says(path, r, round);
    }
    live_end(&c, path, r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_live_file_has_it_all_and_is_at_most_twice_as_long_and_a_write),
        cmocka_unit_test(a_live_file_without_room_keeps_what_it_has_and_goes_on_later),
        cmocka_unit_test(a_live_file_that_cannot_take_its_name_lacks_nothing_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
