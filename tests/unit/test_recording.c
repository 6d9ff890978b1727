#define _GNU_SOURCE
#include "base/mem.h"
#include "lowtide/recording.h"
#include "rec_sample.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct bytes {
    uint8_t *at;
    size_t n;
} bytes_t;

static bytes_t sample_bytes(void) {
    err_t e;
    struct stat st;
    int fd = memfd_create("sample", MFD_CLOEXEC);
    assert_int_equal(sample_write(fd, &e), 0);
    assert_int_equal(fstat(fd, &st), 0);
    bytes_t b = {.at = malloc((size_t)st.st_size), .n = (size_t)st.st_size};
    assert_int_equal(pread(fd, b.at, b.n, 0), st.st_size);
    close(fd);
    return b;
}

static void assert_one_line(const char *text) {
    assert_true(text[0] != '\0');
    assert_null(strchr(text, '\n'));
}

/* Opens and reads all there is; returns the objects read, or 0 after one clear line. */
static uint32_t read_all(const uint8_t *bytes, size_t n) {
    lowtide_recording *rec;
    lowtide_chunk *chunk = NULL;
    lowtide_error error = {.text = ""};
    uint32_t objects = 0;
    if (lowtide_open_memory(bytes, n, &rec, &error)) {
        assert_one_line(error.text);
        assert_null(rec);
        return 0;
    }
    if (lowtide_cut(rec)) assert_one_line(lowtide_cut(rec));
    for (uint32_t i = 0; i < lowtide_chunks(rec); i++) {
        error.text[0] = '\0';
        if (lowtide_chunk_load(rec, i, LOWTIDE_COL_ALL, &chunk, &error)) {
            assert_null(lowtide_cut(rec)); /* what is left of a cut recording is sound */
            assert_one_line(error.text);
            continue;
        }
        objects += chunk->count;
        for (uint32_t k = 0; k < chunk->edge_begin[chunk->count]; k++) {
            assert_true(chunk->edges[k] < lowtide_objects(rec) || chunk->edges[k] == LOWTIDE_NONE);
        }
    }
    lowtide_chunk_free(chunk);
    lowtide_close(rec);
    return objects;
}

static lowtide_recording *open_sample(bytes_t *b) {
    lowtide_recording *rec;
    lowtide_error error;
    *b = sample_bytes();
    assert_int_equal(lowtide_open_memory(b->at, b->n, &rec, &error), 0);
    return rec;
}

static void a_recording_says_what_was_written(void **state) {
    (void)state;
    bytes_t b;
    lowtide_recording *rec = open_sample(&b);
    const char *key, *value;
    assert_null(lowtide_cut(rec));
    assert_int_equal(lowtide_objects(rec), REC_SAMPLE_OBJECTS);
    assert_int_equal(lowtide_references(rec), REC_SAMPLE_REFERENCES);
    assert_int_equal(lowtide_reached(rec), REC_SAMPLE_REACHED);
    assert_int_equal(lowtide_chunks(rec), 3);
    assert_int_equal(lowtide_file_bytes(rec), b.n);
    assert_true(lowtide_captured_ns(rec) == REC_SAMPLE_CAPTURED_NS);
    assert_string_equal(lowtide_meta(rec, "python"), "3.13.0");
    assert_null(lowtide_meta(rec, "hostname"));
    assert_true(lowtide_meta_at(rec, 3, &key, &value));
    assert_string_equal(key, "walk_ms");
    assert_false(lowtide_meta_at(rec, 4, &key, &value));
    assert_string_equal(lowtide_string(rec, LOWTIDE_NONE), "");
    assert_null(lowtide_shape_at(rec, lowtide_shapes(rec)));
    lowtide_close(rec);
    free(b.at);
}

static void an_object_by_id_is_what_its_chunk_says(void **state) {
    (void)state;
    bytes_t b;
    lowtide_recording *rec = open_sample(&b);
    lowtide_object o;
    lowtide_error error;
    assert_int_equal(lowtide_object_at(rec, 8, &o, &error), 0);
    const lowtide_shape *shape = lowtide_shape_at(rec, o.shape);
    assert_string_equal(lowtide_string(rec, shape->name), "Node");
    assert_int_equal(shape->type, 12);
    assert_int_equal(o.edge_count, 3);
    assert_int_equal(o.edges[0], 12);
    assert_int_equal(o.edges[2], 8);
    assert_int_equal(o.buffers, 1 << 20);
    assert_int_equal(o.flags, LOWTIDE_TRACKED | LOWTIDE_FINALIZED);
    assert_int_equal(o.value.kind, LOWTIDE_VALUE_BIG_INT);
    assert_int_equal(o.value.length, 3322);
    for (uint32_t id = REC_SAMPLE_OBJECTS; id-- > 0;) {
        assert_int_equal(lowtide_object_at(rec, id, &o, &error), 0);
        assert_int_equal(o.id, id);
    }
    assert_int_equal(lowtide_object_at(rec, REC_SAMPLE_OBJECTS, &o, &error), -EINVAL);
    assert_string_equal(error.text, "the recording has no object 17");
    lowtide_close(rec);
    free(b.at);
}

static void a_label_tells_the_place_of_a_pair(void **state) {
    (void)state;
    bytes_t b;
    lowtide_recording *rec = open_sample(&b);
    lowtide_object o;
    lowtide_error error;
    uint32_t index;
    assert_int_equal(lowtide_object_at(rec, 5, &o, &error), 0);
    const lowtide_shape *dict = lowtide_shape_at(rec, o.shape);
    assert_int_equal(lowtide_label_at(dict, 0, &index).kind, LOWTIDE_CLASS);
    assert_int_equal(lowtide_label_at(dict, 3, &index).kind, LOWTIDE_KEY);
    assert_int_equal(index, 1);
    assert_int_equal(lowtide_label_at(dict, 4, &index).kind, LOWTIDE_VALUE);
    assert_int_equal(index, 1);
    lowtide_close(rec);
    free(b.at);
}

static void a_column_alone_is_the_same_as_among_all(void **state) {
    (void)state;
    bytes_t b;
    lowtide_recording *rec = open_sample(&b);
    lowtide_chunk *all = NULL, *one = NULL;
    lowtide_error error;
    for (uint32_t i = 0; i < lowtide_chunks(rec); i++) {
        assert_int_equal(lowtide_chunk_load(rec, i, LOWTIDE_COL_ALL, &all, &error), 0);
        uint32_t n = all->count;
        assert_int_equal(lowtide_chunk_load(rec, i, 0, &one, &error), 0);
        assert_memory_equal(one->shape, all->shape, n * sizeof *one->shape);
        assert_null(one->edges);
        assert_int_equal(lowtide_chunk_load(rec, i, LOWTIDE_COL_ADDRESS, &one, &error), 0);
        assert_memory_equal(one->address, all->address, n * sizeof *one->address);
        assert_int_equal(lowtide_chunk_load(rec, i, LOWTIDE_COL_FLAGS, &one, &error), 0);
        assert_memory_equal(one->flags, all->flags, n);
        assert_int_equal(lowtide_chunk_load(rec, i, LOWTIDE_COL_EDGES, &one, &error), 0);
        assert_memory_equal(one->edges, all->edges, all->edge_begin[n] * sizeof *one->edges);
        assert_int_equal(lowtide_chunk_load(rec, i, LOWTIDE_COL_BUFFERS, &one, &error), 0);
        assert_memory_equal(one->buffers, all->buffers, n * sizeof *one->buffers);
    }
    assert_int_equal(lowtide_chunk_load(rec, 3, 0, &one, &error), -EINVAL);
    lowtide_chunk_free(all);
    lowtide_chunk_free(one);
    lowtide_close(rec);
    free(b.at);
}

static void a_recording_cut_at_any_byte_is_read_up_to_there_or_refused(void **state) {
    (void)state;
    bytes_t b = sample_bytes();
    uint32_t before = 0;
    for (size_t n = 0; n <= b.n; n++) {
        uint8_t *copy = malloc(n ? n : 1); /* of its own, so that a sanitizer sees its end */
        memcpy(copy, b.at, n);
        uint32_t objects = read_all(copy, n);
        assert_true(objects >= before);
        before = objects;
        free(copy);
    }
    assert_int_equal(before, REC_SAMPLE_OBJECTS);
    free(b.at);
}

static void a_flipped_bit_anywhere_is_noticed(void **state) {
    (void)state;
    bytes_t b = sample_bytes();
    for (size_t bit = 0; bit < b.n * 8; bit++) {
        lowtide_recording *rec;
        lowtide_error error;
        b.at[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (!lowtide_open_memory(b.at, b.n, &rec, &error)) {
            assert_non_null(lowtide_cut(rec));
            lowtide_close(rec);
        }
        read_all(b.at, b.n);
        b.at[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(b.at);
}

/* Gives every section the checksum of what is in it now, as far as sections can be followed. */
static void mend_checksums(bytes_t b) {
    for (size_t at = REC_HEADER_BYTES; b.n - at >= sizeof(rec_section_t);) {
        rec_section_t section;
        memcpy(&section, b.at + at, sizeof section);
        if (section.stored_bytes > b.n - at - sizeof section) return;
        section.checksum =
            rec_section_checksum(&section, b.at + at + sizeof section, section.stored_bytes);
        memcpy(b.at + at, &section, sizeof section);
        at += sizeof section + section.stored_bytes;
    }
}

static void a_changed_byte_with_a_right_checksum_never_leads_astray(void **state) {
    (void)state;
    bytes_t whole = sample_bytes(), b = {.at = malloc(whole.n), .n = whole.n};
    static const uint8_t values[] = {0, 1, 2, 0x7f, 0x80, 0xff};
    for (size_t i = REC_HEADER_BYTES; i < b.n; i++) {
        for (size_t k = 0; k < sizeof values; k++) {
            memcpy(b.at, whole.at, b.n);
            b.at[i] = values[k];
            mend_checksums(b);
            read_all(b.at, b.n);
        }
    }
    free(b.at);
    free(whole.at);
}

static void what_is_no_file_is_refused_in_one_line(void **state) {
    (void)state;
    lowtide_recording *rec;
    lowtide_error error;
    assert_int_equal(lowtide_open("/", &rec, &error), -EISDIR);
    assert_string_equal(error.text, "/ is a directory; name a recording in it");
    assert_int_equal(lowtide_open("/nowhere.tide", &rec, &error), -ENOENT);
    assert_string_equal(error.text, "cannot open /nowhere.tide: No such file or directory");
    assert_int_equal(lowtide_open("/dev/null", &rec, &error), -EINVAL);
    assert_string_equal(error.text,
                        "/dev/null is not a file; write the recording to one, then name it");
    assert_int_equal(lowtide_open("/proc/self/status", &rec, &error), -EBADMSG);
    assert_one_line(error.text);
    assert_null(rec);
}

static void a_mapped_file_reads_again_after_its_pages_were_released(void **state) {
    (void)state;
    char path[64];
    err_t e;
    lowtide_recording *rec;
    lowtide_error error;
    lowtide_chunk *chunk = NULL;
    int fd = memfd_create("sample", MFD_CLOEXEC);
    assert_int_equal(sample_write(fd, &e), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    assert_int_equal(lowtide_open(path, &rec, &error), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(lowtide_chunk_load(rec, 0, LOWTIDE_COL_ALL, &chunk, &error), 0);
        assert_int_equal(chunk->edges[0], 1);
        lowtide_release_pages(rec);
    }
    lowtide_chunk_free(chunk);
    lowtide_close(rec);
    lowtide_close(NULL);
    lowtide_chunk_free(NULL);
    close(fd);
}

static void *sum_references(void *arg) {
    const lowtide_recording *rec = arg;
    lowtide_chunk *chunk = NULL;
    lowtide_error error;
    uintptr_t sum = 0;
    for (int round = 0; round < 50; round++) {
        for (uint32_t i = 0; i < lowtide_chunks(rec); i++) {
            if (lowtide_chunk_load(rec, i, LOWTIDE_COL_ALL, &chunk, &error)) return NULL;
            for (uint32_t k = 0; k < chunk->edge_begin[chunk->count]; k++) {
                sum += chunk->edges[k] != LOWTIDE_NONE;
            }
        }
    }
    lowtide_chunk_free(chunk);
    return (void *)sum;
}

static void several_threads_read_one_recording(void **state) {
    (void)state;
    bytes_t b;
    lowtide_recording *rec = open_sample(&b);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, sum_references, rec), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *sum;
        pthread_join(threads[i], &sum);
        assert_int_equal((uintptr_t)sum, 50 * REC_SAMPLE_REFERENCES);
    }
    lowtide_close(rec);
    free(b.at);
}

static void each_allocation_that_fails_while_reading_is_told(void **state) {
    (void)state;
    bytes_t b = sample_bytes();
    for (int cut = 0; cut < 2; cut++) {
        for (long n = 1, left = 0; left <= 0; n++) {
            lowtide_recording *rec;
            lowtide_error error = {.text = ""};
            lowtide_object o;
            mem_fail_at(n);
            int status = lowtide_open_memory(b.at, b.n - (cut ? 40 : 0), &rec, &error);
            if (!status) {
                status = lowtide_object_at(rec, 3, &o, &error);
                lowtide_close(rec);
            }
            left = mem_fail_at(0);
            assert_int_equal(status, left <= 0 ? -ENOMEM : 0);
            if (status) assert_one_line(error.text);
        }
    }
    free(b.at);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_recording_says_what_was_written),
        cmocka_unit_test(an_object_by_id_is_what_its_chunk_says),
        cmocka_unit_test(a_label_tells_the_place_of_a_pair),
        cmocka_unit_test(a_column_alone_is_the_same_as_among_all),
        cmocka_unit_test(a_recording_cut_at_any_byte_is_read_up_to_there_or_refused),
        cmocka_unit_test(a_flipped_bit_anywhere_is_noticed),
        cmocka_unit_test(a_changed_byte_with_a_right_checksum_never_leads_astray),
        cmocka_unit_test(what_is_no_file_is_refused_in_one_line),
        cmocka_unit_test(a_mapped_file_reads_again_after_its_pages_were_released),
        cmocka_unit_test(several_threads_read_one_recording),
        cmocka_unit_test(each_allocation_that_fails_while_reading_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
