#define _GNU_SOURCE
#include "agent/alloc/alloc_sample.h"
#include "agent/alloc/alloc_unwind.h"
#include "agent/alloc/alloc_unwind_rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <unistd.h>

enum { ROUNDS = 3000, LOOKS = 40, FLIPS = 8 };

/* A copy of this program's image: tables are relative to themselves, so they say of it what they say of the original. */
typedef struct image {
    uint8_t *bytes;
    size_t size, header;
    size_t tables; /* bytes from the header on that tables lie in */
} image_t;

static struct dl_find_object own(void) {
    struct dl_find_object o;
    assert_int_equal(_dl_find_object((void *)(uintptr_t)sample_random, &o), 0);
    return o;
}

static image_t image_copy(void) {
    struct dl_find_object o = own();
    const uint8_t *begin = o.dlfo_map_start;
    image_t i = {.size = (size_t)((const uint8_t *)o.dlfo_map_end - begin),
                 .header = (size_t)((const uint8_t *)o.dlfo_eh_frame - begin)};
    i.tables = i.size - i.header < 16384 ? i.size - i.header : 16384;
    i.bytes = calloc(1, i.size);
    assert_non_null(i.bytes);
    const ElfW(Ehdr) *h = o.dlfo_map_start;
    const ElfW(Phdr) *p = (const ElfW(Phdr) *)(begin + h->e_phoff);
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    for (int n = 0; n < h->e_phnum; n++)
        if (p[n].p_type == PT_LOAD)
            assert_int_equal(
                pread(file, i.bytes + p[n].p_vaddr, p[n].p_filesz, (off_t)p[n].p_offset),
                p[n].p_filesz);
    close(file);
    return i;
}

static unwind_row_t look(const image_t *i, uintptr_t place) {
    const unwind_table_t t = {i->bytes, i->bytes + i->size, i->bytes + i->header};
    return unwind_row_find(&t, (uintptr_t)i->bytes + place);
}

static void test_at_its_first_instruction_a_function_has_its_return_address_alone(void **state) {
    (void)state;
    image_t i = image_copy();
    const uintptr_t base = (uintptr_t)own().dlfo_map_start;
    const uintptr_t functions[] = {(uintptr_t)sample_random, (uintptr_t)sample_weigh,
                                   (uintptr_t)sample_distance, (uintptr_t)unwind_row_find};
    for (size_t n = 0; n < sizeof functions / sizeof functions[0]; n++) {
        unwind_row_t row = look(&i, functions[n] - base);
        assert_int_equal(row.cfa, UNWIND_SP);
        assert_int_equal(row.cfa_offset, 8);
        assert_int_equal(row.rbp, UNWIND_SAME);
    }
    assert_int_equal(look(&i, 0).cfa, UNWIND_END);
    free(i.bytes);
}

/* For the sanitizers: whatever the tables say, nothing outside the image is read, and it ends. */
static void test_tables_that_lie_end_the_walk_and_nothing_else(void **state) {
    (void)state;
    image_t i = image_copy();
    const uintptr_t base = (uintptr_t)own().dlfo_map_start;
    const uintptr_t code = (uintptr_t)sample_random - base;
    uint64_t seed = 1;
    for (int round = 0; round < ROUNDS; round++) {
        size_t at[FLIPS];
        uint8_t was[FLIPS];
        for (int n = 0; n < FLIPS; n++) {
            size_t reach = n % 2 ? i.tables : 64;
            at[n] = i.header + sample_random(&seed) % reach;
            was[n] = i.bytes[at[n]];
            i.bytes[at[n]] = (uint8_t)sample_random(&seed);
        }
        for (int n = 0; n < LOOKS; n++) look(&i, code + sample_random(&seed) % 65536);
        for (int n = FLIPS; n-- > 0;) i.bytes[at[n]] = was[n];
    }
    free(i.bytes);
}

static void test_a_library_is_told_with_its_build_id(void **state) {
    (void)state;
    err_t e;
    unwind_library_t library;
    assert_int_equal(unwind_open(&e), 0);
    assert_true(unwind_library((uintptr_t)gnu_get_libc_version, &library));
    assert_non_null(strstr(library.path, "libc.so"));
    assert_int_equal(library.path[0], '/');
    assert_int_equal(library.build_id_bytes, 20);
    assert_false(unwind_library(4096, &library));
    unwind_close();
}

#define TEST(f) cmocka_unit_test(f)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_at_its_first_instruction_a_function_has_its_return_address_alone),
        TEST(test_tables_that_lie_end_the_walk_and_nothing_else),
        TEST(test_a_library_is_told_with_its_build_id),
    };
    return cmocka_run_group_tests_name("alloc unwind", tests, NULL, NULL);
}
