#include "base/arena.h"
#include "base/err.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/origin.h"
#include "base/pages.h"
#include "base/strbuf.h"
#include "base/varint.h"
#include "base/vec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

VEC_DEFINE(u32_vec, uint32_t);

typedef struct wide {
    uint8_t bytes[5000];
} wide_t;
VEC_DEFINE(wide_vec, wide_t);

static void an_error_is_one_line_and_hands_its_code_on(void **state) {
    (void)state;
    err_t e;
    assert_int_equal(err_set(&e, -EINVAL, "no %s", "thing"), -EINVAL);
    assert_string_equal(e.text, "no thing");
    assert_int_equal(err_sys(&e, -ENOENT, "cannot open %s", "x"), -ENOENT);
    assert_string_equal(e.text, "cannot open x: No such file or directory");
    assert_int_equal(err_set(NULL, -EIO, "nobody listens"), -EIO);
}

static void too_long_an_error_ends_in_an_ellipsis(void **state) {
    (void)state;
    err_t e;
    err_set(&e, -EIO, "%0600d", 7);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
    assert_string_equal(e.text + sizeof e.text - 4, "…");
}

static void mapped_memory_is_zero_and_keeps_its_bytes_when_it_grows(void **state) {
    (void)state;
    char *p = mem_map(10000);
    assert_non_null(p);
    assert_int_equal(p[9999], 0);
    p[0] = 'a';
    p = mem_remap(p, 10000, 9 << 20);
    assert_non_null(p);
    assert_int_equal(p[0], 'a');
    assert_int_equal(p[(9 << 20) - 1], 0);
    mem_unmap(p, 9 << 20);
    mem_unmap(NULL, 0);
}

static void the_nth_allocation_fails_once_when_a_test_asks(void **state) {
    (void)state;
    mem_fail_at(2);
    void *first = mem_alloc(0);
    assert_non_null(first);
    assert_null(mem_realloc(first, 100));
    void *again = mem_realloc(first, 100);
    assert_non_null(again);
    assert_true(mem_fail_at(0) <= 0);
    mem_free(again);
    mem_fail_at(5);
    assert_int_equal(mem_fail_at(0), 5);
    mem_fail_at(1);
    assert_null(mem_map(1));
    mem_fail_at(0);
}

static void a_vector_grows_without_losing_an_element(void **state) {
    (void)state;
    u32_vec_t v = {0};
    for (uint32_t i = 0; i < 100000; i++) assert_int_equal(u32_vec_push(&v, i), 0);
    for (uint32_t i = 0; i < 100000; i++) assert_int_equal(v.at[i], i);
    assert_int_equal(u32_vec_reserve(&v, SIZE_MAX / 2), -ENOMEM);
    assert_int_equal(v.count, 100000);
    u32_vec_free(&v);
    assert_int_equal(u32_vec_push(&v, 1), 0);
    u32_vec_free(&v);

    wide_vec_t w = {0};
    wide_t x = {.bytes = {1}};
    for (int i = 0; i < 10; i++) assert_int_equal(wide_vec_push(&w, x), 0);
    assert_int_equal(w.at[9].bytes[0], 1);
    wide_vec_free(&w);
}

static void a_vector_without_memory_stays_as_it_was(void **state) {
    (void)state;
    u32_vec_t v = {0};
    mem_fail_at(2);
    int status = 0;
    while (!status) status = u32_vec_push(&v, (uint32_t)v.count);
    assert_int_equal(status, -ENOMEM);
    assert_int_equal(v.at[v.count - 1], v.count - 1);
    assert_int_equal(u32_vec_push(&v, 5), 0);
    u32_vec_free(&v);
    mem_fail_at(0);
}

static void an_arena_gives_zeroed_aligned_memory_of_any_size(void **state) {
    (void)state;
    arena_t a = {0};
    for (size_t n = 1; n < 300000; n = n * 3 + 1) {
        char *p = arena_alloc(&a, n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++) assert_int_equal(p[i], 0);
        memset(p, 0xff, n);
    }
    assert_string_equal(arena_text(&a, "abcdef", 3), "abc");
    assert_string_equal(arena_text(&a, NULL, 0), "");
    assert_null(arena_alloc(&a, SIZE_MAX - 3));
    assert_null(arena_text(&a, "", SIZE_MAX));
    mem_fail_at(1);
    assert_null(arena_alloc(&a, 8 << 20));
    mem_fail_at(0);
    arena_free(&a);
    assert_non_null(arena_alloc(&a, 1));
    arena_free(&a);
}

static void a_string_buffer_grows_and_prints(void **state) {
    (void)state;
    strbuf_t s = {0};
    assert_string_equal(strbuf_text(&s), "");
    for (int i = 0; i < 1000; i++) strbuf_printf(&s, "%d,", i % 10);
    assert_int_equal(s.count, 2000);
    strbuf_printf(&s, "%0500d", 1);
    assert_int_equal(s.count, 2500);
    strbuf_clear(&s);
    strbuf_puts(&s, "a");
    strbuf_putc(&s, 'b');
    strbuf_put(&s, "cd", 1);
    assert_string_equal(strbuf_text(&s), "abc");
    strbuf_free(&s);
}

static void a_string_buffer_without_memory_says_so_once_at_the_end(void **state) {
    (void)state;
    for (long n = 1;; n++) {
        strbuf_t s = {0};
        mem_fail_at(n);
        for (int i = 0; i < 100; i++) strbuf_printf(&s, "%0100d", i);
        long left = mem_fail_at(0);
        assert_int_equal(s.failed, left <= 0);
        assert_int_equal(strlen(strbuf_text(&s)), s.count);
        if (!s.failed) assert_int_equal(s.count, 10000);
        strbuf_free(&s);
        if (left > 0) break;
    }
}

static void a_map_finds_what_was_put_and_nothing_else(void **state) {
    (void)state;
    map_t m = {0};
    int fresh;
    assert_null(map_get(&m, 0));
    map_prefetch(&m, 1);
    for (uint32_t i = 0; i < 200000; i++) {
        uint32_t *value = map_put(&m, (uint64_t)i * 16, &fresh);
        assert_non_null(value);
        assert_true(fresh);
        *value = i;
    }
    for (uint32_t i = 0; i < 200000; i++) {
        map_prefetch(&m, (uint64_t)i * 16);
        assert_int_equal(*map_get(&m, (uint64_t)i * 16), i);
        assert_null(map_get(&m, (uint64_t)i * 16 + 1));
    }
    assert_int_equal(*map_put(&m, 16, &fresh), 1);
    assert_false(fresh);
    assert_int_equal(m.count, 200000);
    assert_int_equal(map_reserve(&m, SIZE_MAX / 32), -ENOMEM);
    map_free(&m);
}

static void a_map_without_memory_stays_as_it_was(void **state) {
    (void)state;
    map_t m = {0};
    int fresh;
    mem_fail_at(3);
    uint64_t key = 0;
    for (uint32_t *value; (value = map_put(&m, key, &fresh)); key++) *value = (uint32_t)key;
    assert_int_equal(m.count, key);
    for (uint64_t k = 0; k < key; k++) assert_int_equal(*map_get(&m, k), k);
    mem_fail_at(0);
    assert_non_null(map_put(&m, key, &fresh));
    map_free(&m);
}

static void numbers_come_back_from_varints_and_cut_ones_are_refused(void **state) {
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        for (int d = -1; d <= 1; d++) {
            uint64_t x = (UINT64_C(1) << bit) + (uint64_t)(int64_t)d, y = ~x;
            uint8_t bytes[VARINT_MOST_BYTES];
            uint8_t *end = varint_put(bytes, x);
            assert_ptr_equal(varint_get(bytes, end, &y), end);
            assert_true(x == y);
            assert_ptr_equal(varint_get_wide(bytes, &y), end);
            assert_true(x == y);
            assert_null(varint_get(bytes, end - 1, &y));
            assert_true(zigzag_decode(zigzag_encode((int64_t)x)) == (int64_t)x);
        }
    }
}

static void varints_beyond_64_bits_are_refused(void **state) {
    (void)state;
    uint8_t bytes[12];
    uint64_t v;
    memset(bytes, 0xff, sizeof bytes);
    assert_null(varint_get(bytes, bytes + sizeof bytes, &v));
    assert_null(varint_get_wide(bytes, &v));
    bytes[9] = 2;
    assert_null(varint_get(bytes, bytes + sizeof bytes, &v));
    assert_null(varint_get_wide(bytes, &v));
    bytes[9] = 1;
    assert_ptr_equal(varint_get_wide(bytes, &v), bytes + 10);
    assert_true(v == UINT64_MAX);
}

static void a_path_tells_whose_code_it_is(void **state) {
    (void)state;
    static const struct {
        const char *file, *below; /* NULL: all of it */
        origin_t origin;
    } rows[] = {
        {"/usr/lib/python3/dist-packages/yaml/reader.py", "yaml/reader.py", ORIGIN_PACKAGE},
        {"/srv/app/venv/lib/python3.13/site-packages/PIL/Image.py", "PIL/Image.py", ORIGIN_PACKAGE},
        {"/usr/lib/python3.11/json/decoder.py", "json/decoder.py", ORIGIN_STANDARD},
        {"/usr/lib64/python3.11/os.py", "os.py", ORIGIN_STANDARD},
        {"/opt/lib/python3.14td/os.py", "os.py", ORIGIN_STANDARD},
        {"/home/u/.pyenv/versions/3.13.1/lib/python3.13/os.py", "os.py", ORIGIN_STANDARD},
        {"/srv/lib/python3-tools/lib/python3.13/os.py", "os.py", ORIGIN_STANDARD},
        {"<frozen importlib._bootstrap>", NULL, ORIGIN_STANDARD},
        {"<string>", NULL, ORIGIN_NO_FILE},
        {"", NULL, ORIGIN_NO_FILE},
        {"<stdin>", NULL, ORIGIN_OWN},
        {"/home/u/lib/python3-tools/clean.py", NULL, ORIGIN_OWN},
        {"/home/u/lib/python3.x/clean.py", NULL, ORIGIN_OWN},
        {"/home/u/lib/python3.11", NULL, ORIGIN_OWN},
        {"/home/u/my-packages/clean.py", NULL, ORIGIN_OWN},
        {"app.py", NULL, ORIGIN_OWN},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *below;
        assert_int_equal(origin_of(rows[i].file, &below), rows[i].origin);
        assert_int_equal(origin_of(rows[i].file, NULL), rows[i].origin);
        assert_string_equal(below, rows[i].below ? rows[i].below : rows[i].file);
    }
}

static void the_script_that_starts_a_command_is_told_by_its_one_line(void **state) {
    (void)state;
    static const char main[] = "sys.exit(main())", name[] = "<module>";
    assert_true(origin_is_launch("/srv/venv/bin/uvicorn", name, main));
    assert_true(origin_is_launch("/srv/venv.d/bin/flask", name, "    sys.exit(cli.main())"));
    assert_true(origin_may_launch("/srv/venv/bin/uvicorn", name));
    assert_false(origin_is_launch("/srv/venv/bin/uvicorn", name, "from uvicorn.main import main"));
    assert_false(origin_is_launch("/srv/venv/bin/uvicorn", name, ""));
    assert_false(origin_is_launch("/srv/venv/bin/uvicorn", "main", main));
    assert_false(origin_is_launch("/srv/app.py", name, main));
    assert_false(origin_is_launch("/usr/lib/python3/dist-packages/start", name, main));
    assert_false(origin_is_launch("<stdin>", name, main));
    assert_false(origin_may_launch("/", name));
}

enum { PAGE = 4096, SET_ASIDE = 64 };

static void pages_that_nobody_wrote_to_are_no_memory(void **state) {
    (void)state;
    pages_t p;
    uint8_t *at =
        mmap(NULL, SET_ASIDE * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    uint64_t begin = (uint64_t)(uintptr_t)at, end = begin + SET_ASIDE * PAGE;
    madvise(at, SET_ASIDE * PAGE, MADV_NOHUGEPAGE);
    at[0] = at[5 * PAGE] = at[7 * PAGE + 9] = 1;
    for (int scan = 1; scan >= 0; scan--) {
        pages_open(&p, scan ? 0 : (uint32_t)getpid(), 1000);
        if (p.fd < 0) skip();
        p.no_scan = !scan;
        assert_int_equal(pages_untouched(&p, begin, end), (SET_ASIDE - 3) * PAGE);
        /* Whole pages alone. */
        assert_int_equal(pages_untouched(&p, begin + 5 * PAGE + 1, begin + 7 * PAGE - 1), 0);
        assert_int_equal(pages_untouched(&p, begin + 5 * PAGE + 1, begin + 7 * PAGE), PAGE);
        assert_int_equal(pages_untouched(&p, begin + 6 * PAGE + 1, begin + 6 * PAGE + 2), 0);
        assert_int_equal(pages_untouched(&p, end, begin), 0);
        pages_close(&p);
    }
    munmap(at, SET_ASIDE * PAGE);
}

static void pages_that_the_kernel_does_not_tell_of_count_as_memory(void **state) {
    (void)state;
    pages_t p;
    uint8_t *at =
        mmap(NULL, SET_ASIDE * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    uint64_t begin = (uint64_t)(uintptr_t)at, end = begin + SET_ASIDE * PAGE;
    pages_open(&p, 0, 10); /* a budget of ten pages */
    if (p.fd < 0) skip();
    assert_int_equal(pages_untouched(&p, begin, end), 10 * PAGE);
    assert_int_equal(pages_untouched(&p, begin, end), 0);
    pages_close(&p);
    assert_int_equal(pages_untouched(&p, begin, end), 0);
    pages_open(&p, 0x7fffffff, 1000); /* there is no such process */
    assert_int_equal(pages_untouched(&p, begin, end), 0);
    pages_close(&p);
    munmap(at, SET_ASIDE * PAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_is_one_line_and_hands_its_code_on),
        cmocka_unit_test(too_long_an_error_ends_in_an_ellipsis),
        cmocka_unit_test(mapped_memory_is_zero_and_keeps_its_bytes_when_it_grows),
        cmocka_unit_test(the_nth_allocation_fails_once_when_a_test_asks),
        cmocka_unit_test(a_vector_grows_without_losing_an_element),
        cmocka_unit_test(a_vector_without_memory_stays_as_it_was),
        cmocka_unit_test(an_arena_gives_zeroed_aligned_memory_of_any_size),
        cmocka_unit_test(a_string_buffer_grows_and_prints),
        cmocka_unit_test(a_string_buffer_without_memory_says_so_once_at_the_end),
        cmocka_unit_test(a_map_finds_what_was_put_and_nothing_else),
        cmocka_unit_test(a_map_without_memory_stays_as_it_was),
        cmocka_unit_test(numbers_come_back_from_varints_and_cut_ones_are_refused),
        cmocka_unit_test(varints_beyond_64_bits_are_refused),
        cmocka_unit_test(a_path_tells_whose_code_it_is),
        cmocka_unit_test(the_script_that_starts_a_command_is_told_by_its_one_line),
        cmocka_unit_test(pages_that_nobody_wrote_to_are_no_memory),
        cmocka_unit_test(pages_that_the_kernel_does_not_tell_of_count_as_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
