/* Recordings that no Python would write: whatever the reader hands out, the model explains it or
 * says why not. */
#include "explain_world.h"

static uint64_t seed = 88172645463325252u;

static uint32_t pick(uint32_t below) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 32) % below;
}

static const char *pick_name(void) {
    static const char *const names[] = {
        "__dict__", "tp_dict", "__mro__", "modules", "__traceback__",    "__class__",  "frame",
        "thread",   "x",       "no name", "",        "main interpreter", "__closure__"};
    return names[pick(sizeof names / sizeof *names)];
}

static void random_shape(world_t *w) {
    static const char *const types[] = {"dict",        "tuple", "traceback", "function",
                                        "lazy_import", "Task",  "NoneType"};
    uint32_t s = world_shape(w, pick(4) ? LOWTIDE_SHAPE_OBJECT : (int)pick(6), pick(32),
                             types[pick(7)], pick(2) ? "" : "app");
    /* The class comes first, where there is one. */
    if (w->shapes[s].kind == LOWTIDE_SHAPE_OBJECT && pick(2))
        world_fixed(w, s, LOWTIDE_CLASS, pick(2) != 0, NULL);
    for (uint32_t k = pick(5); k > 0; k--) {
        world_fixed(w, s, 2 + (int)pick(11), pick(6) == 0, pick(3) ? pick_name() : NULL);
    }
    for (uint32_t k = pick(3); k > 0; k--) world_repeat(w, s, 2 + (int)pick(11));
}

static void random_value(world_object_t *o) {
    static const char *const texts[] = {
        "__main__", "app", "a.b", "x", "sys", "builtins", "f\x1f/a.py\x1f\x33", "é'\"\n", ""};
    o->value_kind = (int)pick(8);
    if (o->value_kind == LOWTIDE_VALUE_BIG_INT || o->value_kind == LOWTIDE_VALUE_FLOAT)
        o->value_kind = 0;
    o->integer = pick(3);
    snprintf(o->text, WORLD_TEXT, "%s", texts[pick(9)]);
}

static void random_world(world_t *w) {
    memset(w, 0, sizeof *w);
    uint32_t shapes = 2 + pick(12), objects = 1 + pick(80);
    for (uint32_t s = 0; s < shapes; s++) random_shape(w);
    for (uint32_t id = 0; id < objects; id++) {
        uint32_t shape = pick(shapes);
        world_object(w, shape);
        w->objects[id].size = pick(20) ? pick(1000) : pick(3) * (uint64_t)5000000000;
        w->objects[id].extra = pick(10) == 0;
        w->objects[id].immortal = pick(20) == 0;
        random_value(&w->objects[id]);
    }
    for (uint32_t s = 0; s < shapes; s++) {
        bool class = w->shapes[s].fixed_count && w->shapes[s].fixed[0].kind == LOWTIDE_CLASS;
        w->shapes[s].type = class || pick(3) ? pick(objects) : LOWTIDE_NONE;
    }
    for (uint32_t id = 0; id < objects; id++) {
        const world_shape_t *s = &w->shapes[w->objects[id].shape];
        uint32_t count = s->fixed_count + s->repeat_count * pick(6);
        for (uint32_t k = 0; k < count; k++) {
            bool class = k == 0 && s->fixed_count && s->fixed[0].kind == LOWTIDE_CLASS &&
                         s->type != LOWTIDE_NONE;
            world_edge(w, id, class ? s->type : pick(8) ? pick(objects) : REC_NULL);
        }
    }
}

static void ask_about(const model_t *m, uint32_t id) {
    model_path_t path;
    model_paths_t paths;
    model_found_t found;
    err_t e;
    assert_int_equal(model_path_to(m, id, &path, &e), 0);
    assert_true(path.length > 0 && path.nodes[path.length - 1] == id);
    if (model_find(m, path.text, &found, &e) == 0) model_found_free(&found);
    model_path_free(&path);
    assert_int_equal(model_why(m, id, NULL, 4, &paths, &e), 0);
    for (uint32_t i = 0; i < paths.count; i++) {
        assert_int_equal(paths.paths[i].nodes[paths.paths[i].length - 1], id);
        for (uint32_t k = 0; k < i; k++) {
            bool same = paths.paths[i].length == paths.paths[k].length &&
                        !memcmp(paths.paths[i].nodes, paths.paths[k].nodes,
                                paths.paths[i].length * sizeof(uint32_t));
            assert_false(same);
        }
    }
    model_paths_free(&paths);
}

static void ask_for_lists(const model_t *m) {
    model_dominators_t d;
    model_groups_t g;
    model_cycles_t c;
    model_findings_t f;
    model_diff_t diff;
    model_routes_t r;
    const model_t *pair[2] = {m, m};
    err_t e;
    uint32_t ids[100], count = model_objects(m) < 100 ? model_objects(m) : 100;
    for (uint32_t id = 0; id < count; id++) ids[id] = id;
    assert_int_equal(model_routes_of(m, ids, count, NULL, &r, &e), 0);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < r.count; i++) sum += r.routes[i].count;
    assert_int_equal(sum, count);
    model_routes_free(&r);
    assert_int_equal(model_dominators(m, 30, 0, &d, &e), 0);
    model_dominators_free(&d);
    for (int by = MODEL_BY_CLASS; by <= MODEL_BY_TASK; by++) {
        assert_int_equal(model_group_by(m, by, &g, &e), 0);
        model_groups_free(&g);
    }
    assert_int_equal(model_cycles(m, 10, &c, &e), 0);
    sum = 0;
    for (uint32_t i = 0; i < c.count; i++) sum += c.cycles[i].bytes;
    assert_true(sum <= model_totals(m)->unreachable_bytes);
    model_cycles_free(&c);
    assert_int_equal(model_findings(m, &f, &e), 0);
    model_findings_free(&f);
    assert_int_equal(model_diff(pair, 2, &diff, &e), 0);
    assert_int_equal(diff.type_count + diff.path_count + diff.findings.count, 0);
    model_diff_free(&diff);
}

static void any_recording_is_explained(void **state) {
    (void)state;
    for (int round = 0; round < 200; round++) {
        world_t w;
        random_world(&w);
        world_write(&w);
        err_t e;
        model_t *m;
        assert_int_equal(model_build(w.rec, &m, &e), 0);
        for (uint32_t id = 0; id < model_objects(m); id++) ask_about(m, id);
        ask_for_lists(m);
        model_free(m);
        world_end(&w);
    }
}

static void a_recording_cut_anywhere_is_explained(void **state) {
    (void)state;
    world_t w;
    random_world(&w);
    world_write(&w);
    for (size_t n = 0; n < w.size; n += 3) {
        lowtide_recording *rec;
        lowtide_error error;
        err_t e;
        model_t *m;
        if (lowtide_open_memory(w.bytes, n, &rec, &error)) continue;
        if (model_build(rec, &m, &e) == 0) {
            ask_for_lists(m);
            model_free(m);
        }
        lowtide_close(rec);
    }
    world_end(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_recording_is_explained),
        cmocka_unit_test(a_recording_cut_anywhere_is_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
