/* What a model answers: types, groups, ways to an object, alike objects, dominators, findings,
 * growth. */
#include "explain_world.h"

enum { MANY = 3000 };

static void expect_text(const char *text, const char *wanted) {
    assert_non_null(text);
    assert_string_equal(text, wanted);
}

static uint32_t user_class(world_t *w) {
    uint32_t user = world_class(w, "app", "User", 1);
    world_fixed(w, user, LOWTIDE_ATTRIBUTE, 0, "history");
    return user;
}

/* app.cache: `count` users under keys 0 …, each with a history of `bytes` bytes. */
static uint32_t fill_cache(world_t *w, uint32_t user_shape, uint32_t cache, uint32_t count,
                           uint64_t bytes) {
    uint32_t first = LOWTIDE_NONE;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t user = world_instance(w, user_shape), history = world_list(w);
        if (i == 0) first = user;
        world_edge(w, user, history);
        w->objects[history].size = bytes;
        world_item(w, cache, world_int(w, i), user);
    }
    return first;
}

static const model_type_t *type_named(const model_t *m, const char *name) {
    uint32_t count;
    const model_type_t *types = model_types(m, &count);
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(types[i].name, name) == 0) return &types[i];
    }
    fail_msg("no type %s", name);
    return NULL;
}

static void a_types_retained_bytes_are_those_of_the_whole_group(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t outer = world_list(&w), inner = world_list(&w), shared = world_dict(&w),
             twin = world_list(&w);
    world_name(&w, w.main, "outer", outer);
    world_name(&w, w.main, "twin", twin);
    world_edge(&w, outer, inner);
    world_edge(&w, inner, shared);
    world_edge(&w, twin, shared);
    w.objects[shared].size = 5000;
    model_t *m = world_model(&w);
    const model_type_t *list = type_named(m, "list");
    assert_int_equal(list->count, 3);
    assert_int_equal(list->shallow_bytes, 48);
    assert_int_equal(list->retained_bytes,
                     48); /* nested ones once; what two lists share goes with neither alone */
    assert_int_equal(model_retained(m, outer), 32);
    assert_true(model_dominates(m, outer, inner));
    assert_false(model_dominates(m, outer, shared));
    const uint32_t *from;
    assert_int_equal(model_referrers(m, shared, &from), 2);
    assert_int_equal(from[0] + from[1], inner + twin);
    model_free(m);
    world_end(&w);
}

static void what_was_never_touched_is_in_no_figure(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t outer = world_list(&w), zeros = world_list(&w), less = world_list(&w);
    world_name(&w, w.main, "outer", outer);
    world_edge(&w, outer, zeros);
    world_edge(&w, outer, less);
    w.objects[outer].size = 50;
    w.objects[zeros].size = UINT64_C(8) << 30;
    w.objects[zeros].untouched = UINT64_C(6) << 30;
    w.objects[less].size = 1000;
    w.objects[less].untouched = 5000; /* nobody can have more than there is */
    w.untouched = 1;
    model_t *m = world_model(&w);
    assert_int_equal(model_shallow(m, zeros), UINT64_C(2) << 30);
    assert_int_equal(model_shallow(m, less), 0);
    assert_int_equal(model_retained(m, outer), (UINT64_C(2) << 30) + 50);
    assert_int_equal(model_untouched(m, zeros), UINT64_C(6) << 30);
    assert_int_equal(model_untouched(m, outer), 0);
    assert_int_equal(model_retained_untouched(m, outer), (UINT64_C(6) << 30) + 1000);
    assert_int_equal(model_retained_untouched(m, less), 1000);
    assert_int_equal(model_totals(m)->untouched_bytes, (UINT64_C(6) << 30) + 1000);
    model_free(m);
    world_end(&w);
}

static void every_byte_belongs_to_one_group(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t app = world_module(&w, "app"), sub = world_module(&w, "app.sub"), a = world_list(&w),
             b = world_list(&w);
    uint32_t both = world_list(&w);
    w.objects[a].size = 1000;
    w.objects[b].size = 2000;
    w.objects[both].size = 4000;
    world_name(&w, app, "a", a);
    world_name(&w, sub, "b", b);
    world_name(&w, app, "both", both);
    world_name(&w, sub, "both", both);
    model_t *m = world_model(&w);
    for (int by = MODEL_BY_MODULE; by <= MODEL_BY_TASK; by++) {
        model_groups_t g;
        err_t e;
        uint64_t sum = 0;
        assert_int_equal(model_group_by(m, by, &g, &e), 0);
        for (uint32_t i = 0; i < g.count; i++) sum += g.groups[i].bytes;
        assert_int_equal(sum, model_totals(m)->shallow_bytes);
        for (uint32_t i = 0; i < g.count; i++) {
            if (by == MODEL_BY_MODULE && !strcmp(g.groups[i].name, "app.sub"))
                assert_in_range(g.groups[i].bytes, 2000, 3999);
            if (by == MODEL_BY_PACKAGE && !strcmp(g.groups[i].name, "app"))
                assert_in_range(g.groups[i].bytes, 3000, 3999);
        }
        model_groups_free(&g);
    }
    model_free(m);
    world_end(&w);
}

static void shared_objects_show_each_of_their_holders(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t app = world_module(&w, "app"), a = world_dict(&w), b = world_list(&w),
             user = world_list(&w), x = world_list(&w);
    uint32_t frame = world_thread(&w, "MainThread", "main", "row");
    world_name(&w, app, "a", a);
    world_name(&w, app, "b", b);
    world_set(&w, a, "k", user);
    world_edge(&w, b, world_list(&w));
    world_edge(&w, b, user);
    world_edge(&w, user, x);
    world_edge(&w, frame, user);
    model_t *m = world_model(&w);
    model_paths_t p;
    err_t e;
    assert_int_equal(model_why(m, x, NULL, 5, &p, &e), 0);
    assert_int_equal(p.count, 3);
    expect_text(p.paths[0].text, "app.a['k'][0]");
    expect_text(p.paths[1].text, "app.b[1][0]");
    expect_text(p.paths[2].text, "thread MainThread > main() > row[0]");
    assert_false(p.more);
    model_paths_free(&p);
    assert_int_equal(model_why(m, x, NULL, 2, &p, &e), 0);
    assert_int_equal(p.count, 2);
    assert_true(p.more);
    model_paths_free(&p);
    model_avoid_t avoid = {.ids = &a, .id_count = 1};
    assert_int_equal(model_why(m, x, &avoid, 5, &p, &e), 0);
    assert_int_equal(p.count, 2);
    expect_text(p.paths[0].text, "app.b[1][0]");
    model_paths_free(&p);
    avoid = (model_avoid_t){.ids = &app, .id_count = 1};
    assert_int_equal(model_why(m, x, &avoid, 5, &p, &e), 0);
    expect_text(p.paths[0].text, "thread MainThread > main() > row[0]");
    model_paths_free(&p);
    model_free(m);
    world_end(&w);
}

static void alike_objects_are_counted_by_the_shape_of_their_paths(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t app = world_module(&w, "app"), cache = world_dict(&w), user_shape = user_class(&w);
    world_name(&w, app, "cache", cache);
    fill_cache(&w, user_shape, cache, MANY, 100);
    uint32_t root = world_instance(&w, user_shape), extra = world_list(&w);
    world_name(&w, app, "root", root);
    world_name(&w, app, "extra", extra);
    world_edge(&w, extra, world_instance(&w, user_shape));
    model_t *m = world_model(&w);
    model_found_t found;
    model_routes_t r;
    err_t e;
    assert_int_equal(model_find(m, "User", &found, &e), 0);
    assert_int_equal(found.what, MODEL_WHAT_TYPE);
    assert_int_equal(found.count, MANY + 2);
    assert_int_equal(model_routes_of(m, found.ids, found.count, NULL, &r, &e), 0);
    assert_int_equal(r.total, MANY + 2);
    assert_int_equal(r.count, 3);
    assert_int_equal(r.routes[0].count, MANY);
    expect_text(r.routes[0].text, "app.cache[…]");
    expect_text(r.routes[0].through, "app.cache");
    assert_int_equal(r.routes[0].through_id, cache);
    assert_int_equal(r.routes[0].retained_bytes, MANY * 116);
    model_routes_free(&r);
    model_avoid_t avoid = {.ids = &cache, .id_count = 1};
    assert_int_equal(model_routes_of(m, found.ids, found.count, &avoid, &r, &e), 0);
    for (uint32_t i = 0; i < r.count; i++) assert_null(strstr(r.routes[i].text, "app.cache"));
    model_routes_free(&r);
    model_found_free(&found);
    model_free(m);
    world_end(&w);
}

static void chains_of_any_length_are_one_way(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t list = world_list(&w), last = list;
    world_name(&w, w.main, "head", list);
    for (int i = 0; i < 50000; i++) {
        uint32_t next = world_list(&w);
        world_edge(&w, last, next);
        last = next;
    }
    model_t *m = world_model(&w);
    model_found_t found;
    model_routes_t r;
    err_t e;
    assert_int_equal(model_find(m, "list", &found, &e), 0);
    assert_int_equal(model_routes_of(m, found.ids, found.count, NULL, &r, &e), 0);
    assert_int_equal(r.count, 2);
    assert_int_equal(r.routes[0].count, 50000);
    expect_text(r.routes[0].text, "head[…]");
    model_routes_free(&r);
    model_found_free(&found);
    model_free(m);
    world_end(&w);
}

static void expect_found(const model_t *m, const char *what, uint32_t id) {
    model_found_t found;
    err_t e;
    int status = model_find(m, what, &found, &e);
    if (id == LOWTIDE_NONE) {
        assert_int_equal(status, -ENOENT);
        assert_non_null(strstr(e.text, what));
        return;
    }
    if (status) fail_msg("%s", e.text);
    assert_int_equal(found.what, MODEL_WHAT_OBJECT);
    assert_int_equal(found.ids[0], id);
    model_found_free(&found);
}

static void objects_are_found_by_path_and_address(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t app = world_module(&w, "app"), dotted = world_module(&w, "a.b"),
             cache = world_dict(&w), x = world_list(&w);
    uint32_t user_shape = user_class(&w), first, deep = world_list(&w),
             pair = world_instance(&w, w.s_tuple);
    world_name(&w, app, "cache", cache);
    world_name(&w, dotted, "x", x);
    world_name(&w, w.main, "here", x);
    first = fill_cache(&w, user_shape, cache, 10, 100);
    uint32_t history = w.objects[first].edges[1];
    world_edge(&w, history, deep);
    world_edge(&w, pair, world_int(&w, 1));
    world_edge(&w, pair, world_str(&w, "]'"));
    world_item(&w, cache, pair, x);
    world_set(&w, cache, "u17", deep);
    world_edge(&w, world_thread(&w, "MainThread", "main", "rows"), deep);
    model_t *m = world_model(&w);
    char address[32];
    expect_found(m, "thread MainThread > main() > rows", deep);
    expect_found(m, "thread MainThread > main() > rows[0]", LOWTIDE_NONE);
    expect_found(m, "thread MainThread > main() > row", LOWTIDE_NONE);
    expect_found(m, "thread MainThread > mine() > rows", LOWTIDE_NONE);
    expect_found(m, "thread Other > main() > rows", LOWTIDE_NONE);
    expect_found(m, "app.cache", cache);
    expect_found(m, "app.cache[0]", first);
    expect_found(m, "app.cache[0].history[0]", deep);
    expect_found(m, "app.cache[0].history[-1]", deep);
    expect_found(m, "app.cache['u17']", deep);
    expect_found(m, "app.cache[\"u17\"]", deep);
    expect_found(m, "app.cache[(1, \"]'\")]", x);
    expect_found(m, " here ", x);
    expect_found(m, "a.b.x", x);
    expect_found(m, "sys.modules['a.b'].x", x);
    snprintf(address, sizeof address, "0x%x", 0x10000 + 64 * deep);
    expect_found(m, address, deep);
    static const char *const nothing[] = {"nowhere",
                                          "app.nothing",
                                          "app.cache[99]",
                                          "app.cache[0",
                                          "app.cache['u1']",
                                          "app..cache",
                                          "0x10",
                                          "here[7]",
                                          "here.x",
                                          "[",
                                          "app.cache[0]]",
                                          "0xfffffffffffffffffffffffff",
                                          "."};
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
        model_found_t found;
        err_t e = {""};
        assert_int_equal(model_find(m, nothing[i], &found, &e), -ENOENT);
        assert_true(e.text[0] != 0);
    }
    model_free(m);
    world_end(&w);
}

static void a_million_equal_children_are_one_line(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t app = world_module(&w, "app"), cache = world_dict(&w), user_shape = user_class(&w);
    world_name(&w, app, "cache", cache);
    fill_cache(&w, user_shape, cache, MANY, 1000);
    model_t *m = world_model(&w);
    model_dominators_t d;
    err_t e;
    assert_int_equal(model_dominators(m, 20, 1000, &d, &e), 0);
    assert_true(d.count >= 3);
    expect_text(d.lines[0].path, "app.cache");
    assert_true(d.lines[0].expression);
    assert_int_equal(d.lines[0].parent, UINT32_MAX);
    assert_int_equal(d.lines[0].retained_bytes, model_retained(m, cache));
    expect_text(d.lines[1].path, "app.cache[…]");
    assert_int_equal(d.lines[1].members, MANY);
    assert_int_equal(d.lines[1].parent, 0);
    assert_int_equal(d.lines[1].retained_bytes, MANY * 1016);
    expect_text(d.lines[2].path, "app.cache[…].history");
    model_dominators_free(&d);
    model_free(m);
    world_end(&w);
}

static const model_finding_t *finding_of(const model_findings_t *f, const char *kind) {
    for (uint32_t i = 0; i < f->count; i++) {
        if (strcmp(f->findings[i].kind, kind) == 0) return &f->findings[i];
    }
    return NULL;
}

static void
a_container_that_has_gathered_much_is_a_suspect_and_a_healthy_heap_has_none(void **state) {
    (void)state;
    /* The last: one user alone keeps a third of it all. */
    static const struct {
        uint64_t bytes, first;
    } cases[] = {{100, 0}, {10000, 0}, {10000, 14000000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t bytes = cases[i].bytes;
        world_t w;
        world_begin(&w);
        uint32_t app = world_module(&w, "app"), cache = world_dict(&w);
        world_name(&w, app, "cache", cache);
        uint32_t first = fill_cache(&w, user_class(&w), cache, MANY, bytes);
        uint32_t text = world_str(&w, "large");
        world_edge(&w, first + 1, text); /* its history */
        w.objects[text].size += cases[i].first;
        model_t *m = world_model(&w);
        model_findings_t f;
        err_t e;
        assert_int_equal(model_findings(m, &f, &e), 0);
        const model_finding_t *suspect = finding_of(&f, "leak-suspect");
        if (bytes == 100) {
            assert_int_equal(f.count, 0);
        } else {
            assert_non_null(suspect);
            expect_text(suspect->path, "app.cache");
            assert_true(suspect->expression);
            assert_int_equal(suspect->bytes, model_retained(m, cache));
            assert_non_null(strstr(suspect->title, "3,000 app.User"));
            assert_non_null(strstr(suspect->fix, "app.cache"));
        }
        model_findings_free(&f);
        model_free(m);
        world_end(&w);
    }
}

static void a_linked_list_is_named_by_its_head(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t link = world_class(&w, "app", "Link", 1), last;
    world_fixed(&w, link, LOWTIDE_ATTRIBUTE, 0, "next");
    world_name(&w, w.main, "Link", w.shapes[link].type);
    world_name(&w, w.main, "head", last = world_instance(&w, link));
    for (int i = 0; i < 100000; i++) {
        uint32_t next = world_instance(&w, link);
        w.objects[next].size = 200;
        world_edge(&w, last, next);
        last = next;
    }
    model_t *m = world_model(&w);
    model_findings_t f;
    model_dominators_t d;
    err_t e;
    assert_int_equal(model_findings(m, &f, &e), 0);
    assert_int_equal(f.count, 1);
    expect_text(f.findings[0].path, "head");
    assert_int_equal(f.findings[0].bytes, 16 + 200 * 100000);
    model_findings_free(&f);
    assert_int_equal(model_dominators(m, 20, 1000, &d, &e), 0);
    assert_true(d.count > 0);
    model_dominators_free(&d);
    model_free(m);
    world_end(&w);
}

static void cycles_of_garbage_are_named_by_what_closes_them(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t node = world_class(&w, "app", "Node", 1);
    world_fixed(&w, node, LOWTIDE_ATTRIBUTE, 0, "children");
    world_fixed(&w, node, LOWTIDE_ATTRIBUTE, 0, "parent");
    world_name(&w, w.main, "Node", w.shapes[node].type);
    for (int i = 0; i < MANY; i++) {
        uint32_t parent = world_instance(&w, node), children = world_list(&w),
                 child = world_instance(&w, node);
        world_edge(&w, parent, children);
        world_edge(&w, parent, REC_NULL);
        world_edge(&w, children, child);
        world_edge(&w, child, world_list(&w));
        world_edge(&w, child, parent);
        w.objects[child].size = 1000;
    }
    model_t *m = world_model(&w);
    model_cycles_t c;
    model_findings_t f;
    err_t e;
    assert_int_equal(model_totals(m)->unreachable_objects, MANY * 4);
    assert_int_equal(model_totals(m)->unreachable_bytes, MANY * (1000 + 3 * 16));
    assert_int_equal(model_cycles(m, 10, &c, &e), 0);
    assert_int_equal(c.count, 1);
    assert_int_equal(c.cycles[0].count, MANY);
    assert_int_equal(c.cycles[0].bytes, MANY * (1000 + 3 * 16));
    expect_text(c.cycles[0].text, "app.Node.children[…].parent");
    expect_text(c.cycles[0].edge, "app.Node.parent");
    model_cycles_free(&c);
    assert_int_equal(model_findings(m, &f, &e), 0);
    assert_non_null(finding_of(&f, "garbage-cycle"));
    assert_int_equal(finding_of(&f, "garbage-cycle")->bytes, MANY * (1000 + 3 * 16));
    model_findings_free(&f);
    model_free(m);
    world_end(&w);
}

static void kept_exceptions_and_what_c_code_keeps_are_found(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t traceback = world_class(&w, "", "traceback", 0),
             error = world_class(&w, "", "ValueError", 0);
    world_fixed(&w, traceback, LOWTIDE_ATTRIBUTE, 0, "tb_next");
    world_fixed(&w, traceback, LOWTIDE_ATTRIBUTE, 0, "tb_frame");
    world_fixed(&w, error, LOWTIDE_ATTRIBUTE, 0, "__traceback__");
    uint32_t exc = world_instance(&w, error), tb = world_instance(&w, traceback),
             rows = world_list(&w);
    uint32_t held = world_list(&w);
    world_name(&w, w.main, "last_error", exc);
    world_edge(&w, exc, tb);
    world_edge(&w, tb, REC_NULL);
    world_edge(&w, tb, rows);
    w.objects[rows].size = 5 << 20;
    w.objects[held].size = 20 << 20;
    w.objects[held].extra = 1;
    model_t *m = world_model(&w);
    model_findings_t f;
    err_t e;
    assert_int_equal(model_findings(m, &f, &e), 0);
    const model_finding_t *x = finding_of(&f, "held-traceback");
    assert_non_null(x);
    expect_text(x->path, "last_error");
    assert_int_equal(x->bytes, (5 << 20) + 16);
    x = finding_of(&f, "native-reference");
    assert_non_null(x);
    assert_int_equal(x->bytes, 20 << 20);
    assert_ptr_equal(x, &f.findings[0]);
    model_findings_free(&f);
    model_free(m);
    world_end(&w);
}

static void containers_that_grow_each_time_are_named(void **state) {
    (void)state;
    world_t w[3];
    const model_t *m[3];
    for (uint32_t k = 0; k < 3; k++) {
        world_begin(&w[k]);
        uint32_t app = world_module(&w[k], "app"), cache = world_dict(&w[k]),
                 steady = world_list(&w[k]);
        world_name(&w[k], app, "cache", cache);
        world_name(&w[k], app, "steady", steady);
        w[k].objects[steady].size = 3 << 20;
        fill_cache(&w[k], user_class(&w[k]), cache, 500 * (k + 1), 4000);
        m[k] = world_model(&w[k]);
    }
    model_diff_t d;
    err_t e;
    assert_int_equal(model_diff(m, 1, &d, &e), -EINVAL);
    assert_int_equal(model_diff(m, 3, &d, &e), 0);
    expect_text(d.paths[0].path, "app.cache");
    assert_true(d.paths[0].steady);
    assert_int_equal(d.paths[0].count[0], 500);
    assert_int_equal(d.paths[0].grown_count, 1000);
    for (uint32_t i = 0; i < d.path_count; i++)
        assert_string_not_equal(d.paths[i].path, "app.steady");
    expect_text(d.types[0].type, "dict");
    assert_int_equal(d.findings.count, 1);
    expect_text(d.findings.findings[0].kind, "growing-container");
    expect_text(d.findings.findings[0].path, "app.cache");
    expect_text(d.findings.findings[0].confidence, "high");
    model_diff_free(&d);
    for (uint32_t k = 0; k < 3; k++) {
        model_free((model_t *)m[k]);
        world_end(&w[k]);
    }
}

/* Asks everything of one model; the first failure ends it. */
static int ask_all(world_t *w, err_t *e) {
    model_t *m = NULL;
    model_paths_t paths = {0};
    model_found_t found = {0};
    model_routes_t routes = {0};
    model_dominators_t d = {0};
    model_groups_t g = {0};
    model_cycles_t c = {0};
    model_findings_t f = {0};
    model_diff_t diff = {0};
    int status = model_build(w->rec, &m, e);
    const model_t *pair[2] = {m, m};
    if (!status) status = model_find(m, "app.cache[1].history", &found, e);
    if (!status) status = model_why(m, found.ids[0], NULL, 3, &paths, e);
    model_found_free(&found);
    if (!status) status = model_find(m, "User", &found, e);
    if (!status) status = model_routes_of(m, found.ids, found.count, NULL, &routes, e);
    if (!status) status = model_dominators(m, 20, 1, &d, e);
    if (!status) status = model_group_by(m, MODEL_BY_MODULE, &g, e);
    if (!status) status = model_cycles(m, 5, &c, e);
    if (!status) status = model_findings(m, &f, e);
    if (!status) status = model_diff(pair, 2, &diff, e);
    model_diff_free(&diff);
    model_findings_free(&f);
    model_cycles_free(&c);
    model_groups_free(&g);
    model_dominators_free(&d);
    model_routes_free(&routes);
    model_paths_free(&paths);
    model_found_free(&found);
    model_free(m);
    return status;
}

static void every_allocation_that_fails_is_reported(void **state) {
    (void)state;
    world_t w;
    world_begin(&w);
    uint32_t app = world_module(&w, "app"), cache = world_dict(&w), user_shape = user_class(&w),
             cycle = world_list(&w);
    world_name(&w, app, "cache", cache);
    world_name(&w, w.main, "too", world_list(&w));
    uint32_t first = fill_cache(&w, user_shape, cache, 120, 100 << 10);
    world_edge(&w, w.objects[w.main_dict].edges[2], first);
    world_edge(&w, cycle, cycle);
    w.objects[cycle].size = 3 << 20;
    w.objects[cycle].untouched = 1 << 20;
    w.untouched = 1;
    world_write(&w);
    long nth = 1;
    for (;; nth++) {
        err_t e = {""};
        mem_fail_at(nth);
        int status = ask_all(&w, &e);
        long left = mem_fail_at(0);
        if (left > 0) {
            assert_int_equal(status, 0);
            break;
        }
        assert_int_equal(status, -ENOMEM);
        assert_true(e.text[0] != 0);
    }
    assert_true(nth > 100);
    world_end(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_types_retained_bytes_are_those_of_the_whole_group),
        cmocka_unit_test(what_was_never_touched_is_in_no_figure),
        cmocka_unit_test(every_byte_belongs_to_one_group),
        cmocka_unit_test(shared_objects_show_each_of_their_holders),
        cmocka_unit_test(alike_objects_are_counted_by_the_shape_of_their_paths),
        cmocka_unit_test(chains_of_any_length_are_one_way),
        cmocka_unit_test(objects_are_found_by_path_and_address),
        cmocka_unit_test(a_million_equal_children_are_one_line),
        cmocka_unit_test(
            a_container_that_has_gathered_much_is_a_suspect_and_a_healthy_heap_has_none),
        cmocka_unit_test(a_linked_list_is_named_by_its_head),
        cmocka_unit_test(cycles_of_garbage_are_named_by_what_closes_them),
        cmocka_unit_test(kept_exceptions_and_what_c_code_keeps_are_found),
        cmocka_unit_test(containers_that_grow_each_time_are_named),
        cmocka_unit_test(every_allocation_that_fails_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
