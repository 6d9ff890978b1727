/* What the recorder makes of a process's region, be it whole, damaged or hostile. */
#define _GNU_SOURCE
#include "collect/collect_series.h"
#include "collect_sample.h"
#include "lowtide/recording.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const observed_cell_t *cell(const collect_process_t *p, size_t i) {
    assert_true(i < p->seen.cells.count);
    return &p->seen.cells.at[i].figures;
}

static void a_region_is_read_whole(void **state) {
    (void)state;
    region_sample_t *r;
    collect_t c;
    collect_process_t *p = begin(&c, &r);
    collect_drain(&c);
    assert_int_equal(c.sites.frames.count, 2);
    assert_int_equal(c.sites.stacks.count, 2);
    const collect_frame_t *leaf = c.sites.frames.at + c.sites.stacks.at[cell(p, 1)->stack].frame;
    assert_string_equal(sites_text_at(&c.sites, leaf->function), "build");
    assert_string_equal(sites_text_at(&c.sites, leaf->file), "app.py");
    assert_int_equal(cell(p, 1)->live.bytes, 2000);
    assert_int_equal(c.events.count, 1);
    assert_string_equal(sites_text_at(&c.sites, c.events.at[0].text), "loaded");
    collect_samples(&c, getpid());
    assert_int_equal(c.samples.count, 1);
    assert_int_equal(c.samples.at[0].address, 0x7000);
    end(&c, r);
}

static void peaks_are_told_whether_a_cell_has_changed_since_or_not(void **state) {
    (void)state;
    region_sample_t *r;
    collect_t c;
    collect_process_t *p = begin(&c, &r);
    r->head.heap_epoch = 3; /* the peak has ended; cell 0 has changed since */
    r->cells[0].peak.bytes = 5000;
    r->cells[0].heap_epoch = 3;
    collect_drain(&c);
    assert_int_equal(cell(p, 0)->peak.bytes, 5000);
    assert_int_equal(cell(p, 1)->peak.bytes, 2000);
    end(&c, r);
}

/* Frame + 1, or 0 for the heap, of the rows that a look adds. */
static size_t looks(collect_t *c, uint32_t frames[4]) {
    size_t before = c->series.count;
    series_look(c, 0, collect_now_us(c), true, true);
    for (size_t i = before; i < c->series.count; i++) frames[i - before] = c->series.at[i].frame;
    return c->series.count - before;
}

static void a_line_is_told_when_it_has_clearly_more_or_less(void **state) {
    (void)state;
    enum { MIB = 1 << 20 };
    region_sample_t sample, *r;
    collect_t c;
    err_t e;
    uint32_t frames[4];
    region_sample(&sample);
    assert_int_equal(collect_begin(&c, &e), 0);
    collect_process_t *p = add(&c, share(&sample, &r));
    p->rss_peak_bytes = 1 << 30;
    assert_int_equal(looks(&c, frames), 0);
    r->cells[1].live.bytes = r->cells[1].total.bytes = r->head.heap_bytes = 8 * MIB;
    assert_int_equal(looks(&c, frames), 2);
    assert_int_equal(frames[0], c.sites.stacks.at[cell(p, 1)->stack].frame + 1);
    assert_int_equal(frames[1], 0);
    assert_int_equal(c.series.at[0].live_bytes, 8 * MIB);
    assert_int_equal(c.series.at[0].made_bytes, 8 * MIB);
    assert_int_equal(looks(&c, frames), 0); /* no news */
    r->cells[1].live.bytes += MIB / 2;
    assert_int_equal(looks(&c, frames), 0); /* too little */
    /* Between two looks the heap was higher, and who made so much is told, too. */
    r->head.heap_recent_bytes = 40 * MIB;
    r->cells[0].total.bytes += 32 * MIB;
    assert_int_equal(looks(&c, frames), 2);
    assert_int_equal(c.series.at[2].live_bytes, 1000);
    assert_int_equal(c.series.at[2].made_bytes, 32 * MIB);
    assert_int_equal(c.series.at[3].high_bytes, 40 * MIB);
    assert_int_equal(r->head.heap_recent_bytes, 8 * MIB); /* from here on, anew */
    /* 16 MiB that nobody touched, and that are gone again: at its highest they were part of it. */
    p->untouched_bytes = 16 * MIB;
    r->head.heap_bytes = r->head.heap_recent_bytes = 24 * MIB;
    assert_int_equal(looks(&c, frames), 0);
    p->untouched_bytes = 0;
    r->head.heap_bytes = 10 * MIB;
    assert_int_equal(looks(&c, frames), 1);
    assert_int_equal(c.series.at[4].high_bytes, 10 * MIB);
    collect_end(&c);
    munmap(r, sizeof *r);
}

static size_t looks_by_itself(collect_t *c) {
    size_t before = c->series.count;
    c->processes.at[0]->series.due_us = 0;
    series_look(c, 0, collect_now_us(c), false, true);
    return c->series.count - before;
}

/* A block goes while its line is asked what it has: of the heap as it was a row would say that other lines had it. */
static void what_changes_while_it_is_read_is_told_at_the_next_look(void **state) {
    (void)state;
    enum { MIB = 1 << 20, PATIENCE = 4 };
    region_sample_t *r;
    collect_t c;
    collect_process_t *p = begin(&c, &r);
    p->rss_peak_bytes = 1 << 30;
    const uint64_t other = (uint64_t)r->cells[0].live.bytes;
    r->cells[1].live.bytes = r->cells[1].total.bytes = 8 * MIB;
    r->head.heap_bytes = 8 * MIB + (int64_t)other;
    assert_int_equal(looks_by_itself(&c), 2);
    r->cells[1].live.bytes = 0;
    assert_int_equal(looks_by_itself(&c), 0);
    r->head.heap_bytes = (int64_t)other;
    assert_int_equal(looks_by_itself(&c), 2);
    assert_int_equal(c.series.at[3].live_bytes, other);
    assert_true(c.series.at[3].high_bytes >= 8 * MIB);
    /* One that never rests has a course all the same. */
    r->head.heap_bytes = 8 * MIB;
    for (int i = 1; i < PATIENCE; i++) assert_int_equal(looks_by_itself(&c), 0);
    assert_int_equal(looks_by_itself(&c), 1);
    end(&c, r);
}

static int refused(region_sample_t *sample, uint64_t bytes, bool seal) {
    observed_t o;
    err_t e = {{0}};
    int fd = memfd_create("region", seal ? MFD_ALLOW_SEALING : 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    assert_true(pwrite(fd, (void *)sample, bytes < sizeof *sample ? bytes : sizeof *sample, 0) > 0);
    int status = observed_open(&o, fd, &e);
    if (!status) observed_close(&o);
    assert_true(!status || (e.text[0] && !strchr(e.text, '\n')));
    close(fd);
    return status;
}

enum { SERIES_WORKERS = 64, SERIES_SECOND = 1000000 };

/* What each look of a recorder of many processes has news of. */
static void series_news(collect_t *c, region_sample_t *of[SERIES_WORKERS], size_t most_looks,
                        uint64_t begin_us, uint64_t every_us) {
    for (size_t i = 0; i < most_looks; i++) {
        for (uint32_t k = 0; k < SERIES_WORKERS; k++) {
            uint64_t bytes = (i & 1 ? 8 : 200) << 20;
            of[k]->cells[1].live.bytes = of[k]->head.heap_bytes = (int64_t)bytes;
            of[k]->cells[1].total.bytes += 200 << 20;
            series_look(c, k, begin_us + i * every_us, false, true);
            c->processes.at[k]->series.due_us = 0;
        }
    }
}

static void series_begin(collect_t *c, region_sample_t *of[SERIES_WORKERS]) {
    region_sample_t sample;
    err_t e;
    region_sample(&sample);
    assert_int_equal(collect_begin(c, &e), 0);
    for (int k = 0; k < SERIES_WORKERS; k++) {
        collect_process_t *p = add(c, share(&sample, &of[k]));
        p->rss_peak_bytes = 1 << 30;
        p->pid = (1 << 30) + k; /* nobody's: the next one is another process */
    }
}

static void series_end(collect_t *c, region_sample_t *of[SERIES_WORKERS]) {
    collect_end(c);
    for (int k = 0; k < SERIES_WORKERS; k++) munmap(of[k], sizeof *of[k]);
}

static void the_rows_of_all_processes_together_are_so_many_a_second(void **state) {
    (void)state;
    region_sample_t *of[SERIES_WORKERS];
    collect_t c;
    series_begin(&c, of);
    series_news(&c, of, 1000, SERIES_SECOND, SERIES_SECOND / 100);
    size_t by_then = c.series.count;
    assert_in_range(by_then, 4096, 2 * (4096 + 11 * 400));
    series_news(&c, of, 1000, 86400ull * SERIES_SECOND, SERIES_SECOND);
    assert_in_range(c.series.count, by_then + 1, SERIES_MOST - 1);
    /* Each has its part, and what is put off is told at the end. */
    for (uint32_t k = 0; k < SERIES_WORKERS; k++) {
        const collect_process_t *p = c.processes.at[k];
        assert_in_range(p->series.rows, by_then / SERIES_WORKERS / 2, SERIES_MOST);
        assert_int_equal(p->series.until_us, 0);
        of[k]->cells[1].live.bytes = of[k]->head.heap_bytes = 900 << 20;
        series_look(&c, k, 90000ull * SERIES_SECOND, true, true);
        assert_int_equal(c.series.at[c.series.count - 1].live_bytes, 900 << 20);
    }
    series_end(&c, of);
}

/* `lines_until_us` of the first process, as it is written. */
static uint64_t written_until(const collect_t *c) {
    rec_writer_t *w;
    lowtide_recording *rec;
    lowtide_table *t;
    lowtide_error error;
    struct stat st;
    err_t e;
    int fd = memfd_create("t.tide", 0);
    assert_int_equal(rec_open(&w, fd, 0, c->began_ns, &e), 0);
    collect_write(c, w, false);
    assert_int_equal(rec_close(w, 0, 0, &e), 0);
    assert_int_equal(fstat(fd, &st), 0);
    void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    assert_int_equal(lowtide_open_memory(bytes, (size_t)st.st_size, &rec, &error), 0);
    assert_int_equal(lowtide_table_load(rec, "processes", &t, &error), 0);
    uint64_t until = lowtide_table_number(t, lowtide_table_column(t, "lines_until_us"), 0);
    lowtide_table_free(t);
    lowtide_close(rec);
    munmap(bytes, (size_t)st.st_size);
    close(fd);
    return until;
}

static void where_a_row_finds_no_room_the_recording_says_so(void **state) {
    (void)state;
    region_sample_t *r;
    collect_t c;
    uint32_t frames[4];
    collect_process_t *p = begin(&c, &r);
    p->rss_peak_bytes = 1 << 30;
    while (c.series.count < SERIES_MOST - 2)
        assert_int_equal(collect_series_push(&c.series, (collect_row_t){.process = 1}), 0);
    r->cells[1].live.bytes = r->cells[1].total.bytes = r->head.heap_bytes = 100 << 20;
    assert_int_equal(looks(&c, frames), 2);
    assert_int_equal(written_until(&c), 0);
    p->changed = false;
    r->cells[1].live.bytes = r->head.heap_bytes = 900 << 20;
    assert_int_equal(looks(&c, frames), 0);
    assert_true(p->changed); /* so the live file has it, too */
    uint64_t until = p->series.until_us;
    assert_true(until > 0);
    assert_int_equal(written_until(&c), until);
    end(&c, r);
}

static void what_is_no_region_is_refused(void **state) {
    (void)state;
    region_sample_t good, r;
    region_sample(&good);
    assert_int_equal(refused(&good, sizeof good, true), 0);
    assert_int_equal(refused(&good, sizeof good, false), -EBADMSG); /* it could shrink */
    assert_int_equal(refused(&good, sizeof(region_t) - 1, true), -EBADMSG);
    assert_int_equal(refused(&good, UINT64_C(1) << 33, true), -EBADMSG);
    int pipes[2];
    observed_t o;
    err_t e;
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(observed_open(&o, pipes[0], &e), -EBADMSG);
    close(pipes[0]), close(pipes[1]);
    const size_t parts[] = {offsetof(region_t, texts),  offsetof(region_t, frames),
                            offsetof(region_t, stacks), offsetof(region_t, cells),
                            offsetof(region_t, blocks), offsetof(region_t, events)};
    const uint64_t offsets[] = {0, 1, sizeof good, sizeof good + 8, UINT64_MAX - 7};
    const uint64_t rooms[] = {sizeof good, UINT32_MAX, UINT64_MAX, UINT64_C(1) << 60};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        for (size_t k = 0; k < sizeof offsets / sizeof offsets[0]; k++) {
            memcpy((void *)&r, (void *)&good, sizeof r);
            ((region_part_t *)((char *)&r + parts[i]))->offset = offsets[k];
            assert_int_equal(refused(&r, sizeof r, true), -EBADMSG);
        }
        for (size_t k = 0; k < sizeof rooms / sizeof rooms[0]; k++) {
            memcpy((void *)&r, (void *)&good, sizeof r);
            ((region_part_t *)((char *)&r + parts[i]))->room = rooms[k];
            assert_int_equal(refused(&r, sizeof r, true), -EBADMSG);
        }
    }
    memcpy((void *)&r, (void *)&good, sizeof r);
    r.head.version++;
    assert_int_equal(refused(&r, sizeof r, true), -EBADMSG);
    memcpy((void *)&r, (void *)&good, sizeof r);
    r.head.mode = 7;
    assert_int_equal(refused(&r, sizeof r, true), -EBADMSG);
}

static void what_does_not_hold_reads_as_nothing(void **state) {
    (void)state;
    region_sample_t *r;
    collect_t c;
    collect_process_t *p = begin(&c, &r);
    r->head.cells.used = UINT64_MAX; /* more than there is room for */
    r->cells[2] = (region_cell_t){.stack = 77, .domain = REGION_LIBC}; /* no such stack */
    r->cells[3] = (region_cell_t){.stack = 3, .domain = REGION_LIBC};
    r->head.stacks.used = 4;
    r->stacks[2] = (region_stack_t){.parent = 4, .frame = 99}; /* its own descendant */
    r->stacks[3] = (region_stack_t){.parent = 3, .frame = UINT32_MAX};
    r->frames[1].function = 60; /* a text that begins in the last bytes */
    r->frames[1].file = UINT32_MAX;
    r->frames[1].kind = 12;
    memset(r->texts, 0xff, 4); /* text 0 is four gibibytes long */
    r->blocks[0].address = 0x100;
    r->blocks[0].cell = UINT32_MAX;
    r->cells[0].live.bytes = INT64_MIN;
    collect_drain(&c);
    assert_int_equal(p->seen.cells.count, 4);
    assert_int_equal(cell(p, 0)->live.bytes, 0);
    for (size_t i = 0; i < 4; i++) assert_true(cell(p, i)->stack < c.sites.stacks.count);
    for (size_t i = 0; i < c.sites.stacks.count; i++) {
        assert_true(c.sites.stacks.at[i].parent <= i);
        assert_true(c.sites.stacks.at[i].frame < c.sites.frames.count);
    }
    collect_samples(&c, getpid());
    assert_int_equal(c.samples.count, 1);
    end(&c, r);
}

static void a_recording_has_what_was_read(void **state) {
    (void)state;
    region_sample_t *r;
    collect_t c;
    err_t e;
    rec_writer_t *w;
    lowtide_recording *rec;
    lowtide_error error;
    struct stat st;
    begin(&c, &r);
    collect_drain(&c);
    int fd = memfd_create("t.tide", 0);
    assert_int_equal(rec_open(&w, fd, 0, c.began_ns, &e), 0);
    collect_write(&c, w, false);
    assert_int_equal(rec_close(w, 0, 0, &e), 0);
    assert_int_equal(fstat(fd, &st), 0);
    void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    assert_int_equal(lowtide_open_memory(bytes, (size_t)st.st_size, &rec, &error), 0);
    assert_string_equal(lowtide_meta(rec, "python"), "3.13.0");
    lowtide_close(rec);
    munmap(bytes, (size_t)st.st_size);
    close(fd);
    end(&c, r);
}

static void how_a_process_ended_is_known_of_a_child_and_of_a_zombie(void **state) {
    (void)state;
    collect_t c;
    err_t e;
    assert_int_equal(collect_begin(&c, &e), 0);
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    assert_int_equal(collect_add(&c, child, 0, COLLECT_FORKED, -1, "", &e), 0);
    assert_non_null(collect_find(&c, child));
    kill(child, SIGKILL);
    while (collect_find(&c, child)) {
        collect_tick(&c);
        usleep(1000);
    }
    assert_int_equal(c.processes.at[0]->status, SIGKILL + 1);
    assert_true(c.processes.at[0]->end_us > 0);
    waitpid(child, NULL, 0);
    collect_end(&c);
}

static pid_t one_that_waits(void) {
    pid_t pid = fork();
    if (!pid) {
        pause();
        _exit(0);
    }
    assert_true(pid > 0);
    return pid;
}

static void without_descriptors_nobody_is_taken_for_ended(void **state) {
    (void)state;
    collect_t c;
    err_t e;
    struct rlimit old, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = (struct rlimit){0, old.rlim_max};
    assert_int_equal(collect_begin(&c, &e), 0);
    c.descriptor_most = 0; /* no pidfd */
    pid_t pids[2] = {one_that_waits(), one_that_waits()};
    int early = collect_add(&c, pids[0], 0, COLLECT_STARTED, -1, "3.13.0", &e);
    assert_true(early >= 0);
    collect_drain(&c);
    uint64_t rss = collect_rss(c.processes.at[early]);
    assert_true(rss > 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int late = collect_add(&c, pids[1], 0, COLLECT_STARTED, -1, "3.13.0", &e);
    assert_true(late >= 0);
    collect_drain(&c);
    bool ended = c.processes.at[early]->ended || c.processes.at[late]->ended;
    uint64_t then = collect_rss(c.processes.at[early]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_false(ended);
    assert_int_equal(then, rss);
    collect_drain(&c);
    for (int i = 0; i < 2; i++) {
        collect_process_t *p = c.processes.at[i ? late : early];
        assert_false(p->ended);
        assert_true(p->started_at > 0 && p->rss_bytes > 0);
        kill(pids[i], SIGKILL);
        assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
        collect_drain(&c);
        assert_true(p->ended);
    }
    collect_end(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_region_is_read_whole),
        cmocka_unit_test(peaks_are_told_whether_a_cell_has_changed_since_or_not),
        cmocka_unit_test(a_line_is_told_when_it_has_clearly_more_or_less),
        cmocka_unit_test(what_changes_while_it_is_read_is_told_at_the_next_look),
        cmocka_unit_test(the_rows_of_all_processes_together_are_so_many_a_second),
        cmocka_unit_test(where_a_row_finds_no_room_the_recording_says_so),
        cmocka_unit_test(what_is_no_region_is_refused),
        cmocka_unit_test(what_does_not_hold_reads_as_nothing),
        cmocka_unit_test(a_recording_has_what_was_read),
        cmocka_unit_test(how_a_process_ended_is_known_of_a_child_and_of_a_zombie),
        cmocka_unit_test(without_descriptors_nobody_is_taken_for_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
