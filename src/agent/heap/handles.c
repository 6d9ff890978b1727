#include "agent/heap/handles.h"

#include "agent/heap/attributes.h"
#include "agent/heap/py_text.h"

enum {
    WORD = sizeof(rt_addr_t),
    DESCRIPTOR = 16, /* of FileIO, socket, epoll: an int, below 0 when closed */
    MMAP_DATA = 16,
    MMAP_SIZE = 24,
    SQLITE_DB = 16, /* of a Connection: NULL when closed */
    CURSOR_CONNECTION = 16,
    CURSOR_ROW_FACTORY = 64, /* where the layout is as we know it … */
    CURSOR_CLOSED = 80,      /* … and then this is an int */
    MEMBERS_MAX = 16
};

static const struct {
    const char *type;
    int64_t basicsize; /* at least */
    enum heap_handle_kind kind;
} made_in_c[] = {{"_io.FileIO", DESCRIPTOR + 4, HEAP_HANDLE_DESCRIPTOR},
                 {"_socket.socket", DESCRIPTOR + 4, HEAP_HANDLE_DESCRIPTOR},
                 {"select.epoll", DESCRIPTOR + 4, HEAP_HANDLE_DESCRIPTOR},
                 {"mmap.mmap", MMAP_SIZE + WORD, HEAP_HANDLE_MAPPING},
                 {"sqlite3.Connection", SQLITE_DB + WORD, HEAP_HANDLE_CONNECTION},
                 {"sqlite3.Cursor", CURSOR_CLOSED + 4, HEAP_HANDLE_CURSOR}};

static const struct {
    const char *type, *module; /* of the module, how it begins */
    enum heap_handle_kind kind;
} made_in_python[] = {{"Popen", "subprocess", HEAP_HANDLE_CHILD},
                      {"Popen", "multiprocessing.popen_", HEAP_HANDLE_CHILD},
                      {"Thread", "threading", HEAP_HANDLE_THREAD}};

static enum heap_handle_kind find_python(walk_t *k, rt_addr_t type, const char *name) {
    char module[128];
    for (size_t i = 0; i < sizeof made_in_python / sizeof *made_in_python; i++) {
        if (strcmp(name, made_in_python[i].type) != 0) continue;
        rt_addr_t text = py_dict_get(k->rt, kind_type_dict(k, type), "__module__");
        if (!py_is_str(k->rt, text)) continue;
        size_t n = py_str_utf8(k->rt, text, module, sizeof module - 1);
        module[n] = '\0';
        if (strncmp(module, made_in_python[i].module, strlen(made_in_python[i].module)) == 0)
            return made_in_python[i].kind;
    }
    return HEAP_HANDLE_NONE;
}

enum heap_handle_kind handle_find(walk_t *k, const kind_t *t) {
    if (!k->options->handle) return HEAP_HANDLE_NONE;
    const char *name = (const char *)rt_ptr(t->c_base, k->lay->type_name);
    for (size_t i = 0; name && i < sizeof made_in_c / sizeof *made_in_c; i++)
        if (strcmp(name, made_in_c[i].type) == 0 && t->basicsize >= made_in_c[i].basicsize)
            return made_in_c[i].kind;
    enum heap_handle_kind kind = HEAP_HANDLE_NONE;
    for (rt_addr_t b = t->type; b && b != t->c_base && !kind; b = rt_ptr(b, k->lay->type_base)) {
        name = (const char *)rt_ptr(b, k->lay->type_name);
        if (name) kind = find_python(k, b, name);
    }
    return kind;
}

/* ── One object ── */

static bool number_of(walk_t *k, rt_addr_t object, const char *attribute, uint64_t *number) {
    rt_addr_t v = attribute_get(k, object, attribute);
    int64_t value;
    uint64_t bits;
    if (!v || !py_type_has(k->rt, v, RT_TPFLAGS_LONG_SUBCLASS) ||
        !py_int_value(k->rt, v, &value, &bits) || value <= 0)
        return false;
    *number = (uint64_t)value;
    return true;
}

static bool cursor_closed(const walk_t *k, rt_addr_t object) {
    const layout_t *l = k->lay;
    rt_addr_t m = rt_ptr(rt_type(k->rt, object), l->type_members);
    for (int i = 0; m && i < MEMBERS_MAX; i++, m += (rt_addr_t)l->member_def_size) {
        const char *name = (const char *)rt_ptr(m, l->member_def_name);
        if (!name) break;
        if (strcmp(name, "row_factory") == 0)
            return rt_i64(m, l->member_def_offset) == CURSOR_ROW_FACTORY &&
                   rt_i32(object, CURSOR_CLOSED) != 0;
    }
    return false;
}

static bool read_thread(walk_t *k, rt_addr_t object, heap_handle_t *h) {
    if (!number_of(k, object, "_ident", &h->number)) return false;
    rt_addr_t name = attribute_get(k, object, "_name"),
              daemon = attribute_get(k, object, "_daemonic");
    uint64_t one;
    if (py_is_str(k->rt, name)) {
        size_t n = py_str_utf8(k->rt, name, h->name, sizeof h->name - 1);
        h->name[n] = '\0';
    }
    /* Thread.run takes its target away when it ends; a class with a run of its own may not. */
    h->running = attribute_get(k, object, "_target") != 0;
    h->daemon = daemon && number_of(k, object, "_daemonic", &one);
    return true;
}

/* false: there is nothing open behind it. */
static bool read_handle(walk_t *k, rt_addr_t o, heap_handle_t *h) {
    switch (h->kind) {
    case HEAP_HANDLE_DESCRIPTOR:
        h->number = (uint64_t)(int64_t)rt_i32(o, DESCRIPTOR);
        return rt_i32(o, DESCRIPTOR) >= 0;
    case HEAP_HANDLE_MAPPING:
        h->number = rt_ptr(o, MMAP_DATA);
        h->bytes = h->number ? (uint64_t)rt_i64(o, MMAP_SIZE) : 0;
        return h->number != 0;
    case HEAP_HANDLE_CONNECTION:
        return rt_ptr(o, SQLITE_DB) != 0;
    case HEAP_HANDLE_CURSOR:
        return rt_ptr(o, CURSOR_CONNECTION) != 0 && !cursor_closed(k, o);
    case HEAP_HANDLE_CHILD:
        return attribute_get(k, o, "returncode") == k->rt->py_none &&
               number_of(k, o, "pid", &h->number);
    case HEAP_HANDLE_THREAD:
        return read_thread(k, o, h);
    case HEAP_HANDLE_NONE:
        break;
    }
    return false;
}

void handle_tell(walk_t *k, const kind_t *t, rt_addr_t object) {
    heap_handle_t h = {.kind = t->handle, .address = object, .block = object - t->pre_header};
    if (read_handle(k, object, &h)) k->options->handle(k->options->handle_arg, &h);
}
