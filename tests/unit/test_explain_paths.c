/* Paths: what they say, and that they say it as Python does. */
#include "explain_world.h"

static void expect_path(const model_t *m, uint32_t id, const char *text, bool expression) {
    err_t e;
    model_path_t path;
    if (model_path_to(m, id, &path, &e)) fail_msg("%s", e.text);
    assert_string_equal(path.text, text);
    assert_int_equal(path.expression, expression);
    assert_int_equal(path.nodes[path.length - 1], id);
    model_path_free(&path);
}

static uint32_t user_class(world_t *w) {
    uint32_t user = world_class(w, "app", "User", 1);
    world_fixed(w, user, LOWTIDE_ATTRIBUTE, 0, "history");
    return user;
}

static void names_of_main_stand_bare_and_others_behind_their_module(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t app = world_module(&w, "app"), cache = world_dict(&w), user_shape = user_class(&w);
    uint32_t user = world_instance(&w, user_shape), history = world_list(&w), last = world_list(&w),
             bare = world_list(&w), odd = world_list(&w);
    world_name(&w, app, "cache", cache);
    world_set(&w, cache, "u17", user);
    world_edge(&w, user, history);
    world_edge(&w, history, bare);
    world_edge(&w, history, last);
    world_name(&w, w.main, "rows", bare);
    world_name(&w, w.main, "no name", odd);
    model_t *m = world_model(&w);
    expect_path(m, cache, "app.cache", true);
    expect_path(m, user, "app.cache['u17']", true);
    expect_path(m, history, "app.cache['u17'].history", true);
    expect_path(m, last, "app.cache['u17'].history[1]", true);
    expect_path(m, bare, "rows", true);
    expect_path(m, odd, "__main__.__dict__['no name']", true);
    expect_path(m, app, "app", true);
    expect_path(m, w.modules, "sys.modules", true);
    model_free(m);
    world_end(&w);
}

static void modules_that_cannot_be_written_plainly_are_taken_from_sys_modules(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t a = world_module(&w, "a"), ab = world_module(&w, "a.b"), ac = world_module(&w, "a.c");
    uint32_t hidden = world_module(&w, "hidden"), x = world_list(&w), y = world_list(&w),
             z = world_list(&w);
    world_module(&w, "sys");
    world_name(&w, a, "b", ab);
    world_name(&w, ab, "x", x);
    world_name(&w, ac, "y", y);
    world_name(&w, hidden, "z", z);
    world_name(&w, w.main, "hidden", world_int(&w, 3));
    model_t *m = world_model(&w);
    expect_path(m, x, "a.b.x", true);
    expect_path(m, y, "sys.modules['a.c'].y", true);
    expect_path(m, z, "sys.modules['hidden'].z", true);
    model_free(m);
    world_end(&w);
}

static void keys_are_written_as_literals(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t d = world_dict(&w), v[6], pair = world_instance(&w, w.s_tuple),
             cut = world_str(&w, "abc");
    world_name(&w, w.main, "d", d);
    for (int i = 0; i < 6; i++) v[i] = world_list(&w);
    world_edge(&w, pair, world_int(&w, 1));
    world_edge(&w, pair, world_str(&w, "it's \n"));
    w.objects[cut].integer = 100; /* the recording has only a prefix */
    world_item(&w, d, world_int(&w, -7), v[0]);
    world_item(&w, d, pair, v[1]);
    world_item(&w, d, cut, v[2]);
    world_item(&w, d, world_instance(&w, user_class(&w)), v[3]);
    world_item(&w, d, world_instance(&w, w.s_tuple), v[4]);
    uint32_t one = world_instance(&w, w.s_tuple);
    world_edge(&w, one, world_str(&w, "ä\\"));
    world_item(&w, d, one, v[5]);
    model_t *m = world_model(&w);
    expect_path(m, v[0], "d[-7]", true);
    expect_path(m, v[1], "d[(1, \"it's \\n\")]", true);
    expect_path(m, v[2], "d['abc…']", false);
    expect_path(m, v[3], "d[<app.User>]", false);
    expect_path(m, v[4], "d[()]", true);
    expect_path(m, v[5], "d[('ä\\\\',)]", true);
    expect_path(m, pair, "d > key (1, \"it's \\n\")", false);
    model_free(m);
    world_end(&w);
}

static void locals_are_steps_from_their_thread(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t frame = world_thread(&w, "MainThread", "main", "rows"), rows = world_list(&w),
             row = world_dict(&w);
    world_edge(&w, frame, rows);
    world_edge(&w, rows, row);
    model_t *m = world_model(&w);
    expect_path(m, rows, "thread MainThread > main() > rows", false);
    expect_path(m, row, "thread MainThread > main() > rows[0]", false);
    model_free(m);
    world_end(&w);
}

static void what_c_code_holds_says_so_and_garbage_too(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t held = world_list(&w), inner = world_list(&w), lost = world_list(&w),
             back = world_list(&w);
    w.objects[held].extra = 1;
    world_edge(&w, held, inner);
    world_edge(&w, lost, back);
    world_edge(&w, back, lost);
    model_t *m = world_model(&w);
    expect_path(m, inner, "C code > list[0]", false);
    assert_true(model_has_surplus(m, held));
    assert_true(model_is_garbage(m, lost));
    assert_true(model_is_garbage(m, back));
    assert_false(model_is_garbage(m, inner));
    assert_int_equal(model_totals(m)->unreachable_objects, 2);
    assert_int_equal(model_totals(m)->unreachable_bytes, 32);
    expect_path(m, lost, "garbage > list", false);
    model_free(m);
    world_end(&w);
}

static void a_long_chain_has_its_middle_left_out(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t list = world_list(&w), last = list;
    err_t e;
    model_path_t path;
    world_name(&w, w.main, "head", list);
    for (int i = 0; i < 200000; i++) {
        uint32_t next = world_list(&w);
        world_edge(&w, last, next);
        last = next;
    }
    model_t *m = world_model(&w);
    assert_int_equal(model_path_to(m, last, &path, &e), 0);
    assert_false(path.expression);
    assert_int_equal(strncmp(path.text, "head[0][0]", 10), 0);
    assert_non_null(strstr(path.text, " more …"));
    assert_true(strlen(path.text) < 400);
    assert_int_equal(model_retained_objects(m, list), 200001);
    model_path_free(&path);
    model_free(m);
    world_end(&w);
}

static void every_allocation_that_fails_is_reported(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t app = world_module(&w, "a.b"), cache = world_dict(&w);
    world_name(&w, app, "cache", cache);
    world_write(&w);
    for (long nth = 1;; nth++) {
        err_t e = {""};
        model_t *m = NULL;
        model_path_t path = {0};
        mem_fail_at(nth);
        int status = model_build(w.rec, &m, &e);
        if (!status) status = model_path_to(m, cache, &path, &e);
        long left = mem_fail_at(0);
        if (status) assert_true(e.text[0] != 0);
        model_path_free(&path);
        model_free(m);
        if (left > 0) break;
        assert_int_equal(status, -ENOMEM);
    }
    world_end(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_main_stand_bare_and_others_behind_their_module),
        cmocka_unit_test(modules_that_cannot_be_written_plainly_are_taken_from_sys_modules),
        cmocka_unit_test(keys_are_written_as_literals),
        cmocka_unit_test(locals_are_steps_from_their_thread),
        cmocka_unit_test(what_c_code_holds_says_so_and_garbage_too),
        cmocka_unit_test(a_long_chain_has_its_middle_left_out),
        cmocka_unit_test(every_allocation_that_fails_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
