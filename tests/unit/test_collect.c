/* What the recorder makes of a process's region, be it whole, damaged or hostile. */
#define _GNU_SOURCE
#include "collect/collect.h"
#include "collect/collect_live.h"
#include "collect/collect_peak.h"
#include "collect/collect_series.h"
#include "lowtide/recording.h"
#include "region_sample.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* The region as memory that both sides have: *r maps it. */
static int share(const region_sample_t *from, region_sample_t **r) {
    int fd = memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, sizeof *from), 0);
    *r = mmap(NULL, sizeof **r, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(*r != MAP_FAILED);
    memcpy((void *)*r, (const void *)from, sizeof *from);
    return fd;
}

static collect_process_t *add(collect_t *c, int fd) {
    err_t e;
    int number = collect_add(c, getpid(), 0, COLLECT_STARTED, fd, "3.13.0", &e);
    close(fd);
    assert_true(number >= 0);
    return c->processes.at[number];
}

/* A recorder that has one process, whose region *r maps. */
static collect_process_t *begin(collect_t *c, region_sample_t **r) {
    region_sample_t sample;
    err_t e;
    region_sample(&sample);
    assert_int_equal(collect_begin(c, &e), 0);
    return add(c, share(&sample, r));
}

static void end(collect_t *c, region_sample_t *r) {
    collect_end(c);
    munmap(r, sizeof *r);
}

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

static void a_snapshot_is_wanted_once_it_is_worth_its_cost(void **state) {
    (void)state;
    region_sample_t *r;
    collect_t c;
    collect_process_t *p = begin(&c, &r);
    c.peaks = true;
    c.copy_ns = 1000000; /* so dear that it has just begun however long this took */
    peaks_aim(&c);       /* nothing may be spent */
    assert_int_equal(r->head.snapshot_above, INT64_MAX);
    c.copy_ns = 0; /* to be measured */
    c.begin_ns -= UINT64_C(60) * 1000000000;
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, 32 << 20);
    r->head.heap_bytes = 40 << 20;
    assert_true(peak_begin(&c, getpid(), memfd_create("peak", 0)));
    ctl_result_t failed = {.status = -EIO}, done = {0};
    peak_done(&c, getpid(), &failed);
    assert_int_equal(p->peak.fd, 0);
    assert_true(peak_begin(&c, getpid(), memfd_create("peak", 0)));
    peak_done(&c, getpid(), &done);
    assert_true(p->peak.fd > 0);
    assert_int_equal(p->peak.samples.count, 1);
    c.begin_ns += UINT64_C(30) * 1000000000; /* before a second has passed, on any machine */
    peaks_aim(&c);                           /* what it costs is not all known yet */
    assert_int_equal(r->head.snapshot_above, INT64_MAX);
    assert_true(c.peaks_us > 0);
    c.begin_ns -= UINT64_C(32) * 1000000000;
    p->peak.rss_bytes = 64 << 20; /* of a process that has those 40 MiB */
    peaks_aim(&c);
    assert_true(r->head.snapshot_above >= 50 << 20);
    assert_true(r->head.snapshot_above < INT64_MAX);
    p->peak.rss_bytes = 8 << 20; /* most of it was reserved and never touched */
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, 32 << 20);
    p->untouched_bytes = 30 << 20; /* and still is */
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, 62 << 20);
    c.peaks_us = UINT64_C(1) << 40; /* all is spent */
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, INT64_MAX);
    end(&c, r);
}

/* Half a GiB: half a second where all is copied, and less than a tenth of that where it is rather read. */
static void a_snapshot_of_large_blocks_is_cheaper_and_waiting_earns_nothing(void **state) {
    (void)state;
    region_sample_t sample, *r;
    collect_t c;
    err_t e;
    region_sample(&sample);
    assert_int_equal(collect_begin(&c, &e), 0);
    collect_process_t *p = add(&c, share(&sample, &r));
    c.peaks = true;
    c.copy_ns = 4000;
    c.begin_ns -= UINT64_C(20) * 1000000000; /* earns 200 ms */
    p->private_bytes = UINT64_C(512) << 20;
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, INT64_MAX);
    p->large_bytes = UINT64_C(500) << 20;
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, 32 << 20);
    p->waited_us = 18 * 1000000;
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, INT64_MAX);
    p->waited_past_us = UINT64_MAX; /* whatever it waited was before it was recorded */
    p->private_bytes = p->rss_bytes = UINT64_C(512) << 20;
    peaks_aim(&c);
    assert_int_equal(p->waited_us, 0);
    p->waited_us = p->large_bytes = 0;
    c.copy_ns = UINT64_C(1) << 32; /* as if it had grown since */
    int fd = memfd_create("peak", 0);
    assert_false(peak_begin(&c, getpid(), fd));
    close(fd);
    collect_end(&c);
    munmap(r, sizeof *r);
}

/* Its process writes to all its pages while it is being written. */
static void a_snapshot_that_costs_too_much_is_given_up(void **state) {
    (void)state;
    enum { BYTES = 256 << 20, PAGE = 4096 };
    region_sample_t *r;
    collect_t c;
    collect_process_t *p = begin(&c, &r);
    c.peaks = true;
    c.copy_ns = 10000; /* of all pages more than is earned in a minute: as long this may take */
    c.begin_ns -= UINT64_C(30) * 1000000000;
    r->head.heap_bytes = BYTES;
    peaks_aim(&c);
    assert_true(peak_begin(&c, getpid(), memfd_create("peak", 0)));
    p->peak_cost.begin.rss_bytes = BYTES; /* as if it had been there before */
    p->peak_cost.pages = p->peak_cost.object_pages = BYTES / PAGE;
    assert_true(peaks_aim(&c));
    assert_false(peak_dear(&c, getpid()));
    volatile char *at =
        mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise((void *)at, BYTES, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < BYTES; i += PAGE) at[i] = 1;
    munmap((void *)at, BYTES);
    assert_true(peaks_aim(&c));
    assert_true(peak_dear(&c, getpid()));
    uint64_t spent_us = c.peaks_us;
    peak_done(&c, getpid(), NULL);
    c.begin_ns -= UINT64_C(2) * 1000000000;
    peaks_aim(&c);
    assert_int_equal(r->head.snapshot_above, INT64_MAX); /* known to be dear by now */
    assert_true(c.peaks_us >= spent_us);
    c.begin_ns -= UINT64_C(1000) * 1000000000;
    peaks_aim(&c);
    assert_true(r->head.snapshot_above < INT64_MAX);
    end(&c, r);
}

/* A test before may have been as high as this one gets. */
static void forget_the_highest_rss(void) {
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "5", 1), 1);
    close(fd);
}

enum {
    MAPPED_BYTES = 256 << 20,
    BESIDE_BYTES = 32 << 20,
    PAGE_BYTES = 4096,
    SMALL_BYTES = 8 << 20
};

/* A process, this one, whose second cell has a large block, with some memory behind it that is no block's. */
typedef struct mapped {
    region_sample_t *r;
    collect_t c;
    collect_process_t *p;
    volatile char *at;
} mapped_t;

static void mapped_begin(mapped_t *m) {
    forget_the_highest_rss();
    m->p = begin(&m->c, &m->r);
    m->at = mmap(NULL, MAPPED_BYTES + BESIDE_BYTES, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(m->at != MAP_FAILED);
    madvise((void *)m->at, MAPPED_BYTES + BESIDE_BYTES, MADV_NOHUGEPAGE);
    m->r->cells[1].domain = REGION_MMAP;
    m->r->cells[1].live.bytes = MAPPED_BYTES;
    m->r->head.heap_bytes = m->r->head.heap_peak_bytes = MAPPED_BYTES;
    m->r->blocks[5].bytes = MAPPED_BYTES;
    m->r->blocks[5].address = (uint64_t)(uintptr_t)m->at;
}

static void mapped_touch(const mapped_t *m, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i += PAGE_BYTES) m->at[i] = 1;
}

/* The block, which was there at the heap's peak, is counted no more; its pages are there still. */
static void mapped_uncount(mapped_t *m) {
    m->r->blocks[5].address = 0;
    m->r->cells[1].peak.bytes = MAPPED_BYTES;
    m->r->cells[1].heap_epoch = m->r->head.heap_epoch;
    m->r->cells[1].live.bytes = 0;
    m->r->head.heap_bytes = 3000;
}

static void mapped_drop(mapped_t *m) {
    mapped_uncount(m);
    munmap((void *)m->at, MAPPED_BYTES + BESIDE_BYTES);
}

static uint64_t mapped_untouched_at_peak(const mapped_t *m) {
    return m->p->seen.cells.at[1].peak_untouched;
}

static void mapped_look(mapped_t *m) {
    m->p->looked_us = 0;
    collect_tick(&m->c);
}

/* Seen half touched, touched whole, and gone before the next look. */
static void a_peak_between_two_looks_is_told(void **state) {
    (void)state;
    mapped_t m;
    mapped_begin(&m);
    mapped_touch(&m, 0, MAPPED_BYTES / 2);
    collect_drain(&m.c);
    uint64_t whole = m.p->rss_peak_bytes + MAPPED_BYTES / 2;
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES / 2);
    mapped_touch(&m, MAPPED_BYTES / 2, MAPPED_BYTES);
    mapped_drop(&m);
    m.r->head.heap_peak_bytes = MAPPED_BYTES + PAGE_BYTES;
    collect_drain(&m.c);
    assert_in_range(m.p->rss_peak_bytes, whole - SMALL_BYTES, whole + SMALL_BYTES);
    assert_in_range(mapped_untouched_at_peak(&m), 0, SMALL_BYTES);
    const collect_point_t *highest = m.c.timeline.at;
    for (size_t i = 0; i < m.c.timeline.count; i++)
        if (m.c.timeline.at[i].rss_bytes > highest->rss_bytes) highest = &m.c.timeline.at[i];
    assert_int_equal(highest->rss_bytes, m.p->rss_peak_bytes);
    assert_in_range(highest->heap_bytes, MAPPED_BYTES - SMALL_BYTES, MAPPED_BYTES + PAGE_BYTES);
    end(&m.c, m.r);
}

/* Its rest is touched while nobody reads its pages, and the RSS falls once while it lives: what was higher by then is told of it when
 * it is gone. */
static void what_was_touched_before_a_dip_is_told_of_what_goes_later(void **state) {
    (void)state;
    mapped_t m;
    mapped_begin(&m);
    mapped_touch(&m, 0, MAPPED_BYTES / 2);
    collect_drain(&m.c);
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES / 2);
    mapped_touch(&m, MAPPED_BYTES / 2, MAPPED_BYTES + BESIDE_BYTES);
    m.p->untouched_due_us = UINT64_MAX;
    mapped_look(&m);
    madvise((void *)(m.at + MAPPED_BYTES), BESIDE_BYTES, MADV_DONTNEED);
    mapped_look(&m);
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES / 2);
    mapped_drop(&m);
    m.p->back_due_us = 0;
    mapped_look(&m);
    assert_in_range(mapped_untouched_at_peak(&m), 0, SMALL_BYTES);
    end(&m.c, m.r);
}

/* Seen half touched; touched whole; and seen again when it is counted no more and some of its pages are still there. */
static void what_is_seen_while_it_goes_is_told_as_it_was_before(void **state) {
    (void)state;
    mapped_t m;
    mapped_begin(&m);
    mapped_touch(&m, 0, MAPPED_BYTES / 2);
    collect_drain(&m.c);
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES / 2);
    mapped_touch(&m, MAPPED_BYTES / 2, MAPPED_BYTES);
    mapped_uncount(&m);
    madvise((void *)(m.at + MAPPED_BYTES / 4 * 3), MAPPED_BYTES / 4, MADV_DONTNEED);
    m.p->back_due_us = UINT64_MAX;
    m.p->untouched_due_us = 0;
    mapped_look(&m);
    munmap((void *)m.at, MAPPED_BYTES + BESIDE_BYTES);
    m.p->back_due_us = 0;
    mapped_look(&m);
    assert_in_range(mapped_untouched_at_peak(&m), 0, SMALL_BYTES);
    end(&m.c, m.r);
}

/* ── The live file ── */

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

static void what_was_never_touched_is_no_memory_when_it_is_gone_either(void **state) {
    (void)state;
    mapped_t m;
    mapped_begin(&m);
    collect_drain(&m.c);
    assert_int_equal(mapped_untouched_at_peak(&m), MAPPED_BYTES);
    mapped_drop(&m);
    collect_drain(&m.c);
    assert_int_equal(m.p->seen.cells.at[1].untouched, 0);
    assert_in_range(mapped_untouched_at_peak(&m), MAPPED_BYTES - SMALL_BYTES, MAPPED_BYTES);
    end(&m.c, m.r);
}

static bool kernel_tells_zero_pages(void) {
    struct utsname name;
    unsigned major = 0, minor = 0;
    return uname(&name) == 0 && sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 7));
}

/* numpy.zeros of which a copy is made: its pages are there, and all are the one of zeros. */
static void what_was_only_read_is_no_memory(void **state) {
    (void)state;
    mapped_t m;
    if (!kernel_tells_zero_pages()) skip();
    mapped_begin(&m);
    mapped_touch(&m, 0, MAPPED_BYTES / 4);
    for (size_t i = 0; i < MAPPED_BYTES; i += PAGE_BYTES) (void)m.at[i];
    collect_drain(&m.c);
    assert_int_equal(m.p->seen.cells.at[1].untouched, MAPPED_BYTES / 4 * 3);
    munmap((void *)m.at, MAPPED_BYTES + BESIDE_BYTES);
    end(&m.c, m.r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_region_is_read_whole),
        cmocka_unit_test(peaks_are_told_whether_a_cell_has_changed_since_or_not),
        cmocka_unit_test(a_line_is_told_when_it_has_clearly_more_or_less),
        cmocka_unit_test(the_rows_of_all_processes_together_are_so_many_a_second),
        cmocka_unit_test(where_a_row_finds_no_room_the_recording_says_so),
        cmocka_unit_test(what_is_no_region_is_refused),
        cmocka_unit_test(what_does_not_hold_reads_as_nothing),
        cmocka_unit_test(a_recording_has_what_was_read),
        cmocka_unit_test(how_a_process_ended_is_known_of_a_child_and_of_a_zombie),
        cmocka_unit_test(without_descriptors_nobody_is_taken_for_ended),
        cmocka_unit_test(a_snapshot_is_wanted_once_it_is_worth_its_cost),
        cmocka_unit_test(a_snapshot_of_large_blocks_is_cheaper_and_waiting_earns_nothing),
        cmocka_unit_test(a_snapshot_that_costs_too_much_is_given_up),
        cmocka_unit_test(a_peak_between_two_looks_is_told),
        cmocka_unit_test(what_was_only_read_is_no_memory),
        cmocka_unit_test(what_was_never_touched_is_no_memory_when_it_is_gone_either),
        cmocka_unit_test(what_was_touched_before_a_dip_is_told_of_what_goes_later),
        cmocka_unit_test(what_is_seen_while_it_goes_is_told_as_it_was_before),
        cmocka_unit_test(the_live_file_has_it_all_and_is_at_most_twice_as_long_and_a_write),
        cmocka_unit_test(a_live_file_without_room_keeps_what_it_has_and_goes_on_later),
        cmocka_unit_test(a_live_file_that_cannot_take_its_name_lacks_nothing_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
