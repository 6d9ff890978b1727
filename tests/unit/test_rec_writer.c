#define _GNU_SOURCE
#include "base/mem.h"
#include "format/rec_utf8.h"
#include "format/rec_writer.h"
#include "rec_sample.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static rec_writer_t *begin(int *fd) {
    rec_writer_t *w;
    err_t e;
    *fd = memfd_create("recording", MFD_CLOEXEC);
    assert_int_equal(rec_open(&w, *fd, 0, 1, &e), 0);
    return w;
}

/* Closes the writer and opens what it wrote. */
static lowtide_recording *read_back(rec_writer_t *w, int fd) {
    char path[64];
    err_t e = {.text = ""};
    lowtide_error error = {.text = ""};
    lowtide_recording *rec = NULL;
    int status = rec_close(w, (uint32_t)rec_objects(w), 0, &e);
    assert_string_equal(e.text, "");
    assert_int_equal(status, 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    lowtide_open(path, &rec, &error);
    assert_string_equal(error.text, "");
    assert_null(lowtide_cut(rec));
    close(fd);
    return rec;
}

static void assert_closes_with(rec_writer_t *w, int fd, int status, const char *text) {
    err_t e = {.text = ""};
    assert_int_equal(rec_close(w, 0, 0, &e), status);
    assert_string_equal(e.text, text);
    close(fd);
}

static uint32_t list_shape(rec_writer_t *w) {
    rec_label_t label = {LOWTIDE_CLASS, 1, LOWTIDE_NONE};
    rec_label_t index = {LOWTIDE_INDEX, 0, LOWTIDE_NONE};
    return sample_shape(w, LOWTIDE_SHAPE_OBJECT, 0, "list", &label, 1, &index, 1);
}

static uint32_t plain_shape(rec_writer_t *w) {
    rec_label_t label = {LOWTIDE_CLASS, 1, LOWTIDE_NONE};
    return sample_shape(w, LOWTIDE_SHAPE_OBJECT, 0, "int", &label, 1, NULL, 0);
}

static uint64_t next_random(uint64_t *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    return *seed ^= *seed << 17;
}

typedef struct made {
    uint32_t shape, edges, first_edge;
    uint64_t address, size, refcount, buffers;
    uint8_t flags;
    int64_t value;
} made_t;

enum { MADE_OBJECTS = 150000, MADE_EDGES_MOST = 8 };

/* Numbers of every length, targets near and far, before and behind. */
static void a_random_heap_comes_back_as_it_was(void **state) {
    (void)state;
    uint64_t seed = 42;
    int fd;
    rec_writer_t *w = begin(&fd);
    made_t *made = calloc(MADE_OBJECTS, sizeof *made);
    uint32_t *edges = malloc((size_t)MADE_OBJECTS * MADE_EDGES_MOST * sizeof *edges), used = 0;
    uint32_t shapes[2] = {list_shape(w), plain_shape(w)};
    for (uint32_t i = 0; i < MADE_OBJECTS; i++) {
        uint64_t r = next_random(&seed);
        made_t *m = &made[i];
        *m = (made_t){.shape = shapes[r & 1],
                      .edges = r & 1 ? 1 : 1 + (uint32_t)(r >> 8) % (MADE_EDGES_MOST - 1),
                      .first_edge = used,
                      .address = next_random(&seed) >> (r >> 16 & 63) << 3,
                      .size = next_random(&seed) >> (r >> 24 & 63),
                      .refcount = next_random(&seed) >> (r >> 32 & 63),
                      .flags = r >> 40 & 15,
                      .buffers = r >> 44 & 1 ? next_random(&seed) >> (r >> 48 & 63) : 0,
                      .value = (int64_t)(next_random(&seed) >> (r >> 56 & 63))};
        rec_object(w, m->shape, m->address, m->size, m->refcount, m->flags);
        for (uint32_t k = 0; k < m->edges; k++) {
            uint64_t spread = next_random(&seed);
            uint32_t target = spread % 5 == 0 ? LOWTIDE_NONE : i + (uint32_t)(spread >> 16) % 64;
            if (spread % 5 == 1) target = (uint32_t)(spread >> 16) % MADE_OBJECTS;
            if (target != LOWTIDE_NONE && target >= MADE_OBJECTS) target = 0;
            if (k == 0) target = m->shape == shapes[0] ? 77 : 99999;
            edges[used++] = target;
            rec_edge(w, target);
        }
        rec_buffer(w, m->buffers);
        if (m->value & 1) rec_value_int(w, LOWTIDE_VALUE_INT, m->value);
    }
    lowtide_recording *rec = read_back(w, fd);
    lowtide_object o;
    lowtide_error error;
    assert_int_equal(lowtide_objects(rec), MADE_OBJECTS);
    for (uint32_t i = 0; i < MADE_OBJECTS; i++) {
        const made_t *m = &made[i];
        assert_int_equal(lowtide_object_at(rec, i, &o, &error), 0);
        assert_true(o.shape == m->shape && o.address == m->address && o.size == m->size &&
                    o.refcount == m->refcount && o.flags == m->flags && o.buffers == m->buffers &&
                    o.edge_count == m->edges);
        assert_memory_equal(o.edges, edges + m->first_edge, m->edges * sizeof *edges);
        assert_int_equal(o.value.kind, m->value & 1 ? LOWTIDE_VALUE_INT : LOWTIDE_VALUE_NONE);
        if (m->value & 1) assert_true(o.value.integer == m->value);
    }
    lowtide_close(rec);
    free(made);
    free(edges);
}

static void equal_texts_get_one_number_and_bad_bytes_are_replaced(void **state) {
    (void)state;
    int fd;
    rec_writer_t *w = begin(&fd);
    uint32_t a = rec_string(w, "name", 4), b = rec_string(w, "a\xff\0b\xed\xa0\x80", 7);
    assert_int_equal(rec_string(w, "name", 4), a);
    assert_int_not_equal(a, b);
    assert_int_equal(rec_string(w, NULL, 0), rec_string(w, "", 0));
    rec_object(w, plain_shape(w), 0, 0, 0, 0);
    rec_edge(w, 0);
    lowtide_recording *rec = read_back(w, fd);
    assert_string_equal(lowtide_string(rec, a), "name");
    assert_string_equal(lowtide_string(rec, b), "a\ufffd\ufffdb\ufffd");
    lowtide_close(rec);
}

static void text_is_kept_whole_or_up_to_a_character(void **state) {
    (void)state;
    char out[32];
    assert_int_equal(utf8_clean(out, "\xf0\x9f\x8c\x8a", 4), 4);
    assert_int_equal(utf8_clean(out, "\xf0\x9f\x8c", 3), 0);
    assert_int_equal(utf8_clean(out, "0123456789\xc3\xa9", 12), 12);
    static const char *const bad[] = {"\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "\x80",     "\xe0\x80\x80", "\xf8\x88\x80\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(utf8_is_valid(bad[i], strlen(bad[i])));
        size_t n = utf8_clean(out, bad[i], strlen(bad[i]));
        assert_true(n > 0 && utf8_is_valid(out, n));
    }
}

static void a_mentioned_object_that_never_came_leaves_the_recording_cut(void **state) {
    (void)state;
    int fd;
    rec_writer_t *w = begin(&fd);
    rec_object(w, list_shape(w), 0, 0, 0, 0);
    rec_edge(w, 0);
    rec_edge(w, 5);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int copy = dup(fd);
    assert_closes_with(w, fd, -ECANCELED,
                       "the recording is incomplete: 5 objects were to come after 1");
    lowtide_recording *rec;
    lowtide_error error;
    lowtide_chunk *chunk = NULL;
    snprintf(path, sizeof path, "/proc/self/fd/%d", copy);
    assert_int_equal(lowtide_open(path, &rec, &error), 0);
    assert_non_null(lowtide_cut(rec));
    assert_int_equal(lowtide_references(rec), 1);
    assert_int_equal(lowtide_chunk_load(rec, 0, LOWTIDE_COL_EDGES, &chunk, &error), 0);
    assert_int_equal(chunk->edges[1], LOWTIDE_NONE);
    lowtide_chunk_free(chunk);
    lowtide_close(rec);
    close(copy);
}

static void a_full_disk_and_a_closed_pipe_are_told_at_the_end(void **state) {
    (void)state;
    rec_writer_t *w;
    err_t e;
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC), ends[2];
    assert_int_equal(rec_open(&w, full, 0, 1, &e), -ENOSPC);
    assert_string_equal(e.text, "cannot write the recording: No space left on device");
    close(full);

    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(rec_open(&w, ends[1], 0, 1, &e), 0);
    close(ends[0]);
    uint32_t shape = list_shape(w);
    for (uint32_t i = 0; i < 200000; i++) {
        rec_object(w, shape, i * 8, 1, 1, 0);
        rec_edge(w, 0);
        rec_edge(w, i);
    }
    assert_int_equal(rec_status(w), -EPIPE);
    assert_closes_with(w, ends[1], -EPIPE, "cannot write the recording: Broken pipe");
}

typedef struct pipe_reader {
    int fd;
    uint8_t bytes[1 << 16];
    size_t n;
} pipe_reader_t;

/* In small bites, so that the pipe is full again and again. */
static void *read_slowly(void *arg) {
    pipe_reader_t *r = arg;
    for (ssize_t got; r->n + 100 <= sizeof r->bytes; r->n += (size_t)got) {
        got = read(r->fd, r->bytes + r->n, 100);
        if (got <= 0) break;
    }
    return NULL;
}

static void write_some(rec_writer_t *w) {
    uint64_t seed = 7;
    uint32_t shape = plain_shape(w);
    for (uint32_t i = 0; i < 3000; i++) {
        rec_object(w, shape, next_random(&seed) << 3, 8, 1, 0);
        rec_edge(w, 0);
    }
}

static void a_pipe_that_takes_little_at_a_time_gets_every_byte(void **state) {
    (void)state;
    static pipe_reader_t reader;
    static uint8_t expected[sizeof reader.bytes];
    int ends[2], fd;
    err_t e;
    rec_writer_t *w = begin(&fd);
    write_some(w);
    assert_int_equal(rec_close(w, 3000, 0, &e), 0);
    ssize_t n = pread(fd, expected, sizeof expected, 0);
    close(fd);

    pthread_t thread;
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    assert_int_equal(fcntl(ends[0], F_SETFL, 0), 0);
    fcntl(ends[1], F_SETPIPE_SZ, 4096);
    reader.fd = ends[0];
    assert_int_equal(pthread_create(&thread, NULL, read_slowly, &reader), 0);
    assert_int_equal(rec_open(&w, ends[1], 0, 1, &e), 0);
    write_some(w);
    assert_int_equal(rec_close(w, 3000, 0, &e), 0);
    close(ends[1]);
    pthread_join(thread, NULL);
    close(ends[0]);
    assert_true(n > 20000 && reader.n == (size_t)n);
    assert_memory_equal(reader.bytes, expected, reader.n);
}

static void each_allocation_that_fails_while_writing_is_told(void **state) {
    (void)state;
    for (long n = 1, left = 0; left <= 0; n++) {
        err_t e = {.text = ""};
        int fd = memfd_create("recording", MFD_CLOEXEC);
        mem_fail_at(n);
        int status = sample_write(fd, &e);
        left = mem_fail_at(0);
        assert_int_equal(status, left <= 0 ? -ENOMEM : 0);
        if (status) {
            assert_string_equal(e.text, "cannot write the recording: Cannot allocate memory");
        }
        close(fd);
    }
}

static void what_breaks_the_contract_is_an_error_and_no_recording(void **state) {
    (void)state;
    int fd;
    rec_writer_t *w = begin(&fd);
    rec_object(w, 3, 0, 0, 0, 0);
    rec_edge(w, 0);
    assert_closes_with(w, fd, -EINVAL,
                       "cannot write the recording: an object has a shape that was not added: "
                       "Invalid argument");
    w = begin(&fd);
    rec_object(w, plain_shape(w), 0, 0, 0, 0);
    rec_edge(w, 0);
    rec_edge(w, 0);
    assert_closes_with(w, fd, -EINVAL,
                       "cannot write the recording: an object has more references than its shape: "
                       "Invalid argument");
    w = begin(&fd);
    uint32_t shape = plain_shape(w);
    for (uint32_t i = 0; i < 2; i++) {
        rec_object(w, shape, 0, 0, 0, 0);
        rec_edge(w, i);
    }
    assert_closes_with(w, fd, -EINVAL,
                       "cannot write the recording: objects of one shape have different types: "
                       "Invalid argument");
    w = begin(&fd);
    rec_value_float(w, 1);
    assert_closes_with(w, fd, -EINVAL,
                       "cannot write the recording: a value or buffer without an object, or two "
                       "for one: Invalid argument");
    w = begin(&fd);
    shape = plain_shape(w);
    rec_shape_type(w, shape, 4);
    rec_shape_type(w, shape, 4);
    rec_shape_type(w, shape, 5);
    assert_closes_with(w, fd, -EINVAL,
                       "cannot write the recording: a shape is given two types: Invalid argument");
}

/* Shapes whose type is known late, or never while their objects are written. */
static void a_type_may_come_late_or_never(void **state) {
    (void)state;
    int fd;
    rec_writer_t *w = begin(&fd);
    w->chunk_objects = w->count_most = 2;
    uint32_t early = plain_shape(w), unused = list_shape(w), never = plain_shape(w),
             late = list_shape(w);
    rec_object(w, early, 0, 0, 0, 0);
    rec_edge(w, 3);
    rec_object(w, never, 0, 0, 0, 0); /* without its class */
    rec_object(w, never, 0, 0, 0, 0);
    rec_edge(w, 0);
    rec_shape_type(w, never, 0);
    rec_shape_type(w, late, 1);
    rec_object(w, late, 0, 0, 0, 0);
    rec_edge(w, 1);
    rec_edge(w, 2);
    rec_object(w, unused, 0, 0, 0, 0);
    rec_edge(w, 4);
    rec_edge(w, 4);
    lowtide_recording *rec = read_back(w, fd);
    lowtide_object o;
    lowtide_error error;
    const uint32_t expected[][2] = {
        {3, 0}, {LOWTIDE_NONE, 0}, {0, 0}, {1, 2}, {4, 4},
    };
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(lowtide_object_at(rec, i, &o, &error), 0);
        assert_int_equal(o.edges[0], expected[i][0]);
        if (i > 2) assert_int_equal(o.edges[1], expected[i][1]);
    }
    assert_int_equal(lowtide_shape_at(rec, early)->type, 3);
    assert_int_equal(lowtide_shape_at(rec, late)->type, 1);
    assert_int_equal(lowtide_shape_at(rec, never)->type, LOWTIDE_NONE);
    lowtide_close(rec);
}

static void an_object_of_millions_of_references_stays_in_one_piece(void **state) {
    (void)state;
    enum { MANY = 7000000 };
    int fd;
    rec_writer_t *w = begin(&fd);
    uint32_t shape = list_shape(w);
    rec_object(w, shape, 0, 0, 0, 0);
    rec_edge(w, 0);
    for (uint32_t i = 0; i < MANY; i++) rec_edge(w, i % 2 ? 1 : 400000 * (i % 5));
    for (uint32_t i = 0; i < 1600000; i++) {
        rec_object(w, shape, i * 16, 16, 1, 0);
        rec_edge(w, 0);
    }
    lowtide_recording *rec = read_back(w, fd);
    lowtide_object o;
    lowtide_error error;
    assert_int_equal(lowtide_object_at(rec, 0, &o, &error), 0);
    assert_int_equal(o.edge_count, MANY + 1);
    for (uint32_t i = 0; i < MANY; i++)
        assert_true(o.edges[i + 1] == (i % 2 ? 1 : 400000 * (i % 5)));
    lowtide_close(rec);
}

/* What does not fit into a section is left out and said: 16 MiB is where the writer looks first. */
static void an_object_beyond_all_measure_is_cut_and_marked(void **state) {
    (void)state;
    enum { MANY = 20 << 20 };
    int fd;
    rec_writer_t *w = begin(&fd);
    w->references_most = 1 << 20;
    uint32_t shape = list_shape(w);
    for (uint32_t i = 0; i < 2; i++) {
        rec_object(w, shape, 0, 0, 0, LOWTIDE_TRACKED);
        rec_edge(w, 0);
        for (uint32_t k = 0; k < (i ? 3 : MANY); k++) rec_edge(w, 0);
    }
    lowtide_recording *rec = read_back(w, fd);
    lowtide_object o;
    lowtide_error error;
    assert_int_equal(lowtide_object_at(rec, 0, &o, &error), 0);
    assert_int_equal(o.flags, LOWTIDE_TRACKED | LOWTIDE_SKIPPED);
    assert_in_range(o.edge_count, 16 << 20 >> 1, MANY - 1);
    assert_int_equal(lowtide_object_at(rec, 1, &o, &error), 0);
    assert_int_equal(o.flags, LOWTIDE_TRACKED);
    assert_int_equal(o.edge_count, 4);
    lowtide_close(rec);
}

static void long_text_is_cut_and_its_true_length_kept(void **state) {
    (void)state;
    int fd;
    rec_writer_t *w = begin(&fd);
    static char text[3 << 20];
    memset(text, 'x', sizeof text);
    rec_object(w, plain_shape(w), 0, 0, 0, 0);
    rec_edge(w, 0);
    rec_value_text(w, LOWTIDE_VALUE_STR, sizeof text, text, sizeof text);
    lowtide_recording *rec = read_back(w, fd);
    lowtide_object o;
    lowtide_error error;
    assert_int_equal(lowtide_object_at(rec, 0, &o, &error), 0);
    assert_int_equal(o.value.length, sizeof text);
    assert_int_equal(o.value.text_bytes, 1 << 20);
    lowtide_close(rec);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_random_heap_comes_back_as_it_was),
        cmocka_unit_test(equal_texts_get_one_number_and_bad_bytes_are_replaced),
        cmocka_unit_test(text_is_kept_whole_or_up_to_a_character),
        cmocka_unit_test(a_mentioned_object_that_never_came_leaves_the_recording_cut),
        cmocka_unit_test(a_full_disk_and_a_closed_pipe_are_told_at_the_end),
        cmocka_unit_test(a_pipe_that_takes_little_at_a_time_gets_every_byte),
        cmocka_unit_test(each_allocation_that_fails_while_writing_is_told),
        cmocka_unit_test(what_breaks_the_contract_is_an_error_and_no_recording),
        cmocka_unit_test(a_type_may_come_late_or_never),
        cmocka_unit_test(an_object_of_millions_of_references_stays_in_one_piece),
        cmocka_unit_test(an_object_beyond_all_measure_is_cut_and_marked),
        cmocka_unit_test(long_text_is_cut_and_its_true_length_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
