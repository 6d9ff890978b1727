/* Writes a small recording that is the same on every machine: what the exact-output tests of the command line read.
 *
 *     view_recording OUT [SESSIONS [hostile]]
 *
 * A shop: __main__.cache keeps SESSIONS sessions (1,000), each with a user and a history; __main__.matrix owns a big
 * buffer; the main thread stands in serve() with 200 rows; 50 pairs of Node are garbage; C code alone holds a list.
 * "hostile" names things by what a terminal must never get raw.
 */
#define _GNU_SOURCE
#include "format/rec_writer.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NODES_MAX = 40000, SHAPES_MAX = 40, EDGES_MAX = 8 };

typedef struct node {
    uint32_t shape;
    uint64_t size, buffer;
    int extra; /* references that C code holds; -1: immortal */
    uint32_t *edges, edge_count;
    int value;
    char text[64];
    int64_t integer;
} node_t;

static node_t nodes[NODES_MAX];
static uint32_t count;
static rec_writer_t *writer;
static rec_shape_t shapes[SHAPES_MAX];
static rec_label_t labels[SHAPES_MAX][EDGES_MAX];
static uint32_t shape_count;

static uint32_t text_of(const char *text) {
    return rec_string(writer, text, strlen(text));
}

static uint32_t add(uint32_t shape, uint64_t size) {
    nodes[count] = (node_t){.shape = shape, .size = size};
    return count++;
}

static void hold(uint32_t from, uint32_t to) {
    node_t *n = &nodes[from];
    if ((n->edge_count & (n->edge_count - 1)) == 0)
        n->edges = realloc(n->edges, (n->edge_count ? n->edge_count * 2 : 1) * sizeof *n->edges);
    n->edges[n->edge_count++] = to;
}

static uint32_t shape(int kind, uint32_t flags, const char *name, const char *module) {
    rec_shape_t *s = &shapes[shape_count];
    *s = (rec_shape_t){.kind = (uint8_t)kind,
                       .flags = flags,
                       .type = LOWTIDE_NONE,
                       .name = text_of(name),
                       .module = module ? text_of(module) : LOWTIDE_NONE,
                       .fixed = labels[shape_count]};
    return shape_count++;
}

static void label(uint32_t shape, int kind, const char *name, bool borrowed) {
    labels[shape][shapes[shape].fixed_count++] =
        (rec_label_t){(uint8_t)kind, borrowed, name ? text_of(name) : LOWTIDE_NONE};
}

static void repeat(uint32_t shape, int kind) {
    shapes[shape].repeat[shapes[shape].repeat_count++] =
        (rec_label_t){(uint8_t)kind, 0, LOWTIDE_NONE};
}

/* A built-in type's instances: their reference to it does not count. */
static uint32_t plain(const char *name, uint32_t flags) {
    uint32_t s = shape(LOWTIDE_SHAPE_OBJECT, flags, name, "builtins");
    label(s, LOWTIDE_CLASS, NULL, true);
    return s;
}

static uint32_t heap_class(const char *name, const char *module) {
    uint32_t s =
        shape(LOWTIDE_SHAPE_OBJECT, LOWTIDE_SHAPE_HEAP_TYPE | LOWTIDE_SHAPE_HAS_GC, name, module);
    label(s, LOWTIDE_CLASS, NULL, false);
    return s;
}

static struct {
    uint32_t type, str, integer, dict, space, list, module, runtime, interpreter, thread, frame;
    uint32_t session, node, array, type_id, str_id, int_id, dict_id, list_id, module_id;
    uint32_t session_id, node_id, array_id;
} of;

static uint32_t make(uint32_t shape, uint32_t type, uint64_t size) {
    uint32_t id = add(shape, size);
    hold(id, type);
    return id;
}

static uint32_t text(const char *value) {
    uint32_t id = make(of.str, of.str_id, 49 + strlen(value));
    nodes[id].value = LOWTIDE_VALUE_STR;
    snprintf(nodes[id].text, sizeof nodes[id].text, "%s", value);
    return id;
}

static uint32_t number(int64_t value) {
    uint32_t id = make(of.integer, of.int_id, 28);
    nodes[id].value = LOWTIDE_VALUE_INT;
    nodes[id].integer = value;
    return id;
}

static void item(uint32_t dict, uint32_t key, uint32_t value) {
    hold(dict, key);
    hold(dict, value);
}

static uint32_t type_object(const char *name, bool immortal) {
    uint32_t id = make(of.type, 0, immortal ? 408 : 1064);
    nodes[id].value = LOWTIDE_VALUE_NAME;
    nodes[id].extra = immortal ? -1 : 0;
    snprintf(nodes[id].text, sizeof nodes[id].text, "%s", name);
    return id;
}

static void make_shapes(bool hostile) {
    of.runtime = shape(LOWTIDE_SHAPE_RUNTIME, 0, "runtime", NULL);
    label(of.runtime, LOWTIDE_ROOT, "interpreter 0", false);
    of.interpreter = shape(LOWTIDE_SHAPE_INTERPRETER, 0, "interpreter", NULL);
    label(of.interpreter, LOWTIDE_ROOT, "modules", false);
    label(of.interpreter, LOWTIDE_ROOT, "thread", false);
    of.thread = shape(LOWTIDE_SHAPE_THREAD, 0, "thread", NULL);
    label(of.thread, LOWTIDE_ROOT, "frame", false);
    of.frame = shape(LOWTIDE_SHAPE_FRAME, 0, "frame", NULL);
    label(of.frame, LOWTIDE_LOCAL, "rows", false);
    of.type = plain("type", LOWTIDE_SHAPE_IS_TYPE | LOWTIDE_SHAPE_HAS_GC);
    of.str = plain("str", 0);
    of.integer = plain("int", 0);
    of.dict = plain("dict", LOWTIDE_SHAPE_HAS_GC);
    of.space = plain("dict", LOWTIDE_SHAPE_HAS_GC | LOWTIDE_SHAPE_IS_NAMESPACE);
    of.list = plain("list", LOWTIDE_SHAPE_HAS_GC);
    of.module = plain("module", LOWTIDE_SHAPE_HAS_GC | LOWTIDE_SHAPE_IS_MODULE);
    label(of.module, LOWTIDE_FIELD, "__dict__", false);
    for (uint32_t s = of.dict; s <= of.space; s++) repeat(s, LOWTIDE_KEY), repeat(s, LOWTIDE_VALUE);
    repeat(of.list, LOWTIDE_INDEX);
    of.session = heap_class(hostile ? "Ses\033[31msion\u202e会议" : "Session", "__main__");
    label(of.session, LOWTIDE_ATTRIBUTE, "user", false);
    label(of.session, LOWTIDE_ATTRIBUTE, "history", false);
    of.node = heap_class("Node", "__main__");
    label(of.node, LOWTIDE_ATTRIBUTE, "parent", false);
    label(of.node, LOWTIDE_ATTRIBUTE, "children", false);
    of.array = heap_class("ndarray", "numpy");
}

static void make_shop(uint32_t space, int sessions, bool hostile) {
    uint32_t cache = make(of.dict, of.dict_id, 36944);
    item(space, text("cache"), cache);
    for (int i = 0; i < sessions; i++) {
        char name[64];
        snprintf(name, sizeof name, hostile ? "u%d\033]0;pwned\007\u202e\n\u7528\u6237" : "u%d", i);
        uint32_t one = make(of.session, of.session_id, 56),
                 history = make(of.list, of.list_id, 184);
        uint32_t user = text(name);
        nodes[user].size += 24000;
        hold(one, user);
        hold(one, history);
        for (int k = 0; k < 4; k++) hold(history, number(1000 * i + k));
        item(cache, text(name), one);
    }
    uint32_t matrix = make(of.array, of.array_id, 112);
    nodes[matrix].buffer = 8 << 20;
    item(space, text("matrix"), matrix);
}

static void make_garbage(void) {
    for (int i = 0; i < 50; i++) {
        uint32_t parent = make(of.node, of.node_id, 64), child = make(of.node, of.node_id, 64);
        uint32_t children = make(of.list, of.list_id, 64), none = make(of.list, of.list_id, 56);
        hold(parent, LOWTIDE_NONE);
        hold(parent, children);
        hold(children, child);
        hold(child, parent);
        nodes[child].buffer = 65536;
        hold(child, none);
    }
}

static uint32_t make_all(int sessions, bool hostile) {
    make_shapes(hostile);
    uint32_t runtime = add(of.runtime, 0), interpreter = add(of.interpreter, 0);
    hold(runtime, interpreter);
    /* type's own type is itself: its id is known before it is made. */
    of.type_id = count;
    struct {
        uint32_t *id;
        const char *name;
        bool immortal;
    } types[] = {{&of.type_id, "type", true},        {&of.str_id, "str", true},
                 {&of.int_id, "int", true},          {&of.dict_id, "dict", true},
                 {&of.list_id, "list", true},        {&of.module_id, "module", true},
                 {&of.session_id, "Session", false}, {&of.node_id, "Node", false},
                 {&of.array_id, "ndarray", false}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        uint32_t id = type_object(types[i].name, types[i].immortal);
        *types[i].id = id;
        nodes[id].edges[0] = of.type_id;
    }
    uint32_t modules = make(of.dict, of.dict_id, 232), main = make(of.module, of.module_id, 72);
    uint32_t space = make(of.space, of.dict_id, 352), thread = add(of.thread, 0);
    uint32_t frame = add(of.frame, 0), rows = make(of.list, of.list_id, 1656);
    hold(interpreter, modules);
    hold(interpreter, thread);
    item(modules, text("__main__"), main);
    nodes[main].value = LOWTIDE_VALUE_NAME;
    strcpy(nodes[main].text, "__main__");
    hold(main, space);
    hold(thread, frame);
    nodes[thread].value = nodes[frame].value = LOWTIDE_VALUE_NAME;
    strcpy(nodes[thread].text, "MainThread");
    strcpy(nodes[frame].text, "serve\x1fshop.py\x1f"
                              "42");
    hold(frame, rows);
    for (int i = 0; i < 200; i++)
        hold(rows, text("a row of the answer that is being put together"));
    item(space, text("Session"), of.session_id);
    item(space, text("Node"), of.node_id);
    item(space, text("ndarray"), of.array_id);
    make_shop(space, sessions, hostile);
    uint32_t reached = count;
    uint32_t native = make(of.list, of.list_id, 12582968);
    nodes[native].extra = 1;
    make_garbage();
    return reached;
}

static void count_references(uint64_t *refs) {
    for (uint32_t i = 0; i < count; i++) {
        const rec_shape_t *s = &shapes[nodes[i].shape];
        for (uint32_t k = 0; k < nodes[i].edge_count; k++) {
            bool borrowed = k < s->fixed_count && s->fixed[k].borrowed;
            if (!borrowed && nodes[i].edges[k] != LOWTIDE_NONE) refs[nodes[i].edges[k]]++;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        bool object = shapes[nodes[i].shape].kind == LOWTIDE_SHAPE_OBJECT;
        refs[i] = !object || nodes[i].extra < 0 ? 0 : refs[i] + (uint64_t)nodes[i].extra;
    }
}

static void write_all(void) {
    static uint64_t refs[NODES_MAX];
    count_references(refs);
    for (uint32_t s = 0; s < shape_count; s++) rec_shape_add(writer, &shapes[s]);
    for (uint32_t i = 0; i < count; i++) {
        const node_t *n = &nodes[i];
        bool gc = shapes[n->shape].flags & LOWTIDE_SHAPE_HAS_GC;
        rec_object(writer, n->shape, 0x7f0000000000 + 64ull * i, n->size, refs[i],
                   gc ? LOWTIDE_TRACKED : 0);
        for (uint32_t k = 0; k < n->edge_count; k++) rec_edge(writer, n->edges[k]);
        if (n->buffer) rec_buffer(writer, n->buffer);
        if (n->value == LOWTIDE_VALUE_INT) rec_value_int(writer, n->value, n->integer);
        if (n->value == LOWTIDE_VALUE_NAME || n->value == LOWTIDE_VALUE_STR) {
            uint64_t points = 0;
            for (const char *c = n->text; *c; c++) points += (*c & 0xc0) != 0x80;
            rec_value_text(writer, n->value, points, n->text, strlen(n->text));
        }
    }
}

static void write_meta(bool hostile) {
    static const char *const pairs[][2] = {
        {"pid", "4711"},
        {"command", "python\x1f/srv/shop/app.py\x1f--port\x1f"
                    "8000"},
        {"python", "3.13.0"},
        {"build", "release"},
        {"started", "2026-11-21T07:37:56Z"},
        {"captured", "2026-11-21T09:51:53Z"},
        {"duration_s", "8037"},
        {"rss_bytes", "134217728"},
        {"peak_rss_bytes", "150994944"},
        {"pause_ms", "1.9"},
        {"walk_ms", "3.2"},
        {"values", "prefix"},
        {"mode", "fork"},
        {"lowtide", "0.1.0"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        rec_meta(writer, pairs[i][0], pairs[i][1]);
    if (hostile) rec_meta(writer, "command", "python\x1f\033[2J\u202e\xff\x1f--\u7528\u6237");
}

int main(int argc, char **argv) {
    err_t e;
    int sessions = argc > 2 ? atoi(argv[2]) : 1000;
    bool hostile = argc > 3;
    if (argc < 2 || sessions < 1 || sessions > 4000) return 2;
    int fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || rec_open(&writer, fd, 0, 1795254713000000000ull, &e)) return 1;
    /* Small chunks, so that of a cut recording something is left. */
    writer->chunk_objects = writer->count_most = 2000;
    write_meta(hostile);
    uint32_t reached = make_all(sessions, hostile);
    write_all();
    int status = rec_close(writer, reached, 0, &e);
    if (status) fprintf(stderr, "%s\n", e.text);
    return status || close(fd) ? 1 : 0;
}
