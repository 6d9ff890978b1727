#include "explain/literal.h"
#include "explain/names.h"
#include "explain/path.h"
#include "explain/task.h"
#include "explain/told.h"

#include <errno.h>
#include <string.h>

enum { SAY_STEPS_MAX = 64, SAY_HEAD = 40, SAY_TAIL = 8 };

/* What the text so far stands for. */
enum say_state {
    SAY_ROOT,     /* nothing yet, or a pseudo-object */
    SAY_MODULES,  /* sys.modules */
    SAY_VALUE,    /* the object at hand */
    SAY_NAMESPACE /* the owner of the namespace dict at hand */
};

typedef struct say {
    const model_t *m;
    strbuf_t *out;
    int style;
    int state;
    bool expression;
    uint32_t owner;
    size_t thread_end; /* frames are put behind the name of their thread */
    uint32_t local;    /* what a frame's local is, while the path is there */
    /* A staticmethod of a class, and where the text has its ".__dict__['f']": what is inside goes by ".f". */
    uint32_t wrapped;
    size_t wrapped_at;
    err_t *e;
} say_t;

static void say_step(say_t *s, const char *text) {
    if (s->out->count > 0) strbuf_puts(s->out, " > ");
    strbuf_puts(s->out, text);
    s->expression = false;
    s->state = SAY_VALUE;
}

static int say_describe(say_t *s, uint32_t id) {
    say_step(s, "");
    return path_describe(s->m, id, s->out, s->e);
}

static void say_in_dict(say_t *s, const char *name, size_t bytes) {
    strbuf_puts(s->out, ".__dict__[");
    literal_put_str(s->out, name, bytes, true);
    strbuf_putc(s->out, ']');
}

static void say_dot(say_t *s, const char *name, size_t bytes) {
    strbuf_putc(s->out, '.');
    strbuf_put(s->out, name, bytes);
}

/* An attribute that the object itself has: inline value, slot, or in its __dict__. */
static int say_attribute(say_t *s, uint32_t id, const char *name, size_t bytes) {
    const lowtide_shape *shape = model_shape_of(s->m, id);
    bool shadowed = false, opaque = false;
    if (shape->flags & LOWTIDE_SHAPE_HEAP_TYPE && s->style == PATH_EXACT) {
        int status = names_shadowed(s->m, shape->type, name, bytes, &shadowed, s->e);
        if (!status) status = names_overrides(s->m, shape->type, "__getattribute__", &opaque, s->e);
        if (status) return status;
    }
    if (opaque) s->expression = false;
    if (shadowed || !names_is_identifier(name, bytes))
        say_in_dict(s, name, bytes);
    else
        say_dot(s, name, bytes);
    return 0;
}

/* What stands in a class is handed out as it is only where it is no descriptor. */
static void say_class_attribute(say_t *s, uint32_t value, const char *name, size_t bytes) {
    static const char *const plain[] = {
        "function", "int",  "str",   "float", "bytes",     "bool",   "NoneType",
        "list",     "dict", "tuple", "set",   "frozenset", "module", "builtin_function_or_method"};
    bool safe = model_shape_of(s->m, value)->flags & LOWTIDE_SHAPE_IS_TYPE;
    const char *type = model_type_name(s->m, value);
    for (size_t i = 0; i < sizeof plain / sizeof *plain && !safe; i++)
        safe = strcmp(type, plain[i]) == 0;
    /* Of the names that classes themselves have (__doc__, __module__ …), methods are only these. */
    bool dunder = bytes > 1 && name[0] == '_' && name[1] == '_';
    if (dunder && strcmp(type, "function") == 0)
        dunder = bytes >= 10 && memcmp(name, "__annotate", 10) == 0;
    if (safe && !dunder && names_is_identifier(name, bytes)) {
        say_dot(s, name, bytes);
        return;
    }
    if (strcmp(type, "staticmethod") == 0 && !dunder && names_is_identifier(name, bytes)) {
        s->wrapped = value;
        s->wrapped_at = s->out->count;
    }
    say_in_dict(s, name, bytes);
}

/* The function in a staticmethod is what the class hands out. */
static void say_unwrapped(say_t *s) {
    static const char dict[] = ".__dict__['";
    char name[256];
    const char *begin = strbuf_text(s->out) + s->wrapped_at + sizeof dict - 1;
    size_t bytes = strcspn(begin, "'");
    if (bytes >= sizeof name) return;
    memcpy(name, begin, bytes);
    s->out->count = s->wrapped_at;
    say_dot(s, name, bytes);
}

static void say_module_attribute(say_t *s, uint32_t value, const char *name, size_t bytes) {
    const names_t *names = s->m->names;
    const char *text = strbuf_text(s->out);
    /* Asking a module for what it imports lazily imports it. */
    if (strcmp(model_type_name(s->m, value), "lazy_import") == 0) s->expression = false;
    bool main = strcmp(text, "__main__") == 0;
    bool builtins = strcmp(text, "builtins") == 0 &&
                    names_get(&names->main, name, bytes) == LOWTIDE_NONE &&
                    names_get(&names->modules, name, bytes) == LOWTIDE_NONE;
    if (!names_is_identifier(name, bytes)) {
        say_in_dict(s, name, bytes);
    } else if (main || builtins) {
        strbuf_clear(s->out);
        strbuf_put(s->out, name, bytes);
    } else {
        say_dot(s, name, bytes);
    }
}

/* The namespace dict itself turns out to be on the path. */
static int say_dict_itself(say_t *s) {
    const lowtide_shape *shape = model_shape_of(s->m, s->owner);
    uint32_t shown = LOWTIDE_NONE;
    s->state = SAY_VALUE;
    if (shape->flags & LOWTIDE_SHAPE_IS_TYPE) {
        say_step(s, "__dict__");
        return 0;
    }
    /* Some classes made in C have a dict and do not show it. */
    int status = names_in_class(s->m, shape->type, "__dict__", 8, &shown, s->e);
    if (shown == LOWTIDE_NONE) s->expression = false;
    strbuf_puts(s->out, ".__dict__");
    return status;
}

/* From a namespace dict to a value: an attribute of its owner. Returns 1 when that cannot be said.
 */
static int say_namespace_value(say_t *s, uint32_t value, uint32_t key) {
    const char *text;
    char name[256];
    uint32_t bytes;
    int status = names_text(s->m, key, &text, &bytes, s->e);
    if (status) return status;
    if (!text || bytes > sizeof name) return 1;
    memcpy(name, text, bytes); /* the next read may move it */
    uint32_t flags = model_shape_of(s->m, s->owner)->flags;
    s->state = SAY_VALUE;
    if (flags & LOWTIDE_SHAPE_IS_MODULE)
        say_module_attribute(s, value, name, bytes);
    else if (flags & LOWTIDE_SHAPE_IS_TYPE)
        say_class_attribute(s, value, name, bytes);
    else
        return say_attribute(s, s->owner, name, bytes);
    return 0;
}

static int say_item(say_t *s, uint32_t id, const path_edge_t *edge) {
    const lowtide_shape *shape = model_shape_of(s->m, id);
    bool overridden = false;
    int status = 0;
    if (s->style == PATH_SHAPE) {
        strbuf_puts(s->out, "[…]");
        s->expression = false;
        return 0;
    }
    if (shape->flags & LOWTIDE_SHAPE_HEAP_TYPE) {
        status = names_overrides(s->m, shape->type, "__getitem__", &overridden, s->e);
        if (overridden) s->expression = false;
    }
    strbuf_putc(s->out, '[');
    if (edge->label.kind == LOWTIDE_INDEX)
        strbuf_printf(s->out, "%u", edge->index);
    else if (!status)
        status = literal_put(s->m, edge->key, s->out, &s->expression, s->e);
    strbuf_putc(s->out, ']');
    return status;
}

static int say_class(say_t *s, uint32_t id) {
    bool shadowed;
    int status =
        names_shadowed(s->m, model_shape_of(s->m, id)->type, "__class__", 9, &shadowed, s->e);
    if (shadowed) s->expression = false;
    say_dot(s, "__class__", 9);
    return status;
}

static int say_closure(say_t *s, uint32_t function) {
    lowtide_object o;
    say_step(s, "closure of ");
    int status = model_read(s->m, function, &o, s->e);
    if (!status && o.value.kind == LOWTIDE_VALUE_NAME)
        strbuf_put(s->out, o.value.text, o.value.text_bytes);
    return status;
}

static int say_suspended(say_t *s, uint32_t id) {
    say_step(s, "");
    return suspended_put_name(s->m, id, s->out, s->e);
}

/* From a task to what it runs or has: whoever holds the task matters less than its name. */
static int say_from_task(say_t *s, uint32_t task, uint32_t to) {
    strbuf_t name = {0};
    int status = task_put_name(s->m, task, &name, s->e);
    if (!status && name.count > 0) {
        strbuf_clear(s->out);
        say_step(s, s->style == PATH_SHAPE ? "task …" : "task ");
        if (s->style == PATH_EXACT) literal_put_str(s->out, strbuf_text(&name), name.count, true);
        s->thread_end = s->out->count;
    }
    strbuf_free(&name);
    if (status) return status;
    if (suspended_is(s->m, to)) return say_suspended(s, to);
    say_step(s, "reference");
    return 0;
}

/* A local of a function that is suspended. One that a frame of its event loop holds stands for itself. */
static int say_suspended_local(say_t *s, uint32_t from, const char *name) {
    int status = 0;
    if (from == s->local && s->thread_end > 0) {
        s->out->count = s->thread_end;
        if (s->out->at) s->out->at[s->out->count] = 0;
        status = say_suspended(s, from);
    }
    say_step(s, name);
    return status;
}

/* References that only tp_traverse tells of. */
static int say_told(say_t *s, uint32_t from, uint32_t to) {
    if (task_is(s->m, from)) return say_from_task(s, from, to);
    if (strcmp(model_type_name(s->m, from), "functools._lru_cache_wrapper") == 0 &&
        strcmp(model_type_name(s->m, to), "dict") == 0) {
        strbuf_puts(s->out, "'s lru_cache");
        s->expression = false;
        return 0;
    }
    const char *name = told_name(s->m, from, to);
    if (name)
        say_dot(s, name, strlen(name));
    else
        say_step(s, "reference");
    return 0;
}

/* From the object at hand along a reference. */
static int say_from_value(say_t *s, uint32_t from, uint32_t to, const path_edge_t *edge) {
    const char *name = lowtide_string(s->m->rec, edge->label.name);
    switch (edge->label.kind) {
    case LOWTIDE_ATTRIBUTE:
    case LOWTIDE_FIELD:
        if ((strcmp(name, "__dict__") == 0 || strcmp(name, "tp_dict") == 0) &&
            model_shape_of(s->m, to)->flags & LOWTIDE_SHAPE_IS_NAMESPACE) {
            s->state = SAY_NAMESPACE;
            s->owner = from;
            return 0;
        }
        if (edge->label.kind == LOWTIDE_FIELD) break;
        if (from == s->wrapped && strcmp(name, "__func__") == 0) {
            say_unwrapped(s);
            return 0;
        }
        if (!s->expression && s->style == PATH_EXACT && strcmp(name, "__closure__") == 0)
            return say_closure(s, from);
        /* Until somebody asks, a function's annotations are a tuple that no attribute hands out. */
        if (strcmp(name, "__annotations__") == 0 && strcmp(model_type_name(s->m, to), "tuple") == 0)
            s->expression = false;
        return say_attribute(s, from, name, strlen(name));
    case LOWTIDE_CLASS:
        return say_class(s, from);
    case LOWTIDE_INDEX:
    case LOWTIDE_VALUE:
        return say_item(s, from, edge);
    case LOWTIDE_KEY:
        say_step(s, s->style == PATH_SHAPE ? "key" : "key ");
        return s->style == PATH_SHAPE ? 0 : literal_put(s->m, to, s->out, &s->expression, s->e);
    case LOWTIDE_ELEMENT:
        name = "element";
        break;
    case LOWTIDE_STACK:
        if (suspended_is(s->m, from) && suspended_is(s->m, to)) return say_suspended(s, to);
        name = "evaluation stack";
        break;
    case LOWTIDE_CELL:
        if (name[0]) break;
        strbuf_puts(s->out, ".cell_contents");
        return 0;
    case LOWTIDE_LOCAL:
        if (suspended_is(s->m, from)) return say_suspended_local(s, from, name);
        break;
    case LOWTIDE_ROOT:
        break;
    default:
        return say_told(s, from, to);
    }
    say_step(s, name);
    return 0;
}

/* "thread MainThread", " > main()": a thread or frame that the path has come to. */
static int say_pseudo(say_t *s, uint32_t id) {
    lowtide_object o;
    int status = model_read(s->m, id, &o, s->e);
    if (status) return status;
    const lowtide_shape *shape = lowtide_shape_at(s->m->rec, o.shape);
    bool named = o.value.kind == LOWTIDE_VALUE_NAME;
    const char *end = named ? memchr(o.value.text, 0x1F, o.value.text_bytes) : NULL;
    size_t bytes = !named ? 0 : end ? (size_t)(end - o.value.text) : o.value.text_bytes;
    bool frame = shape->kind == LOWTIDE_SHAPE_FRAME;
    if (frame && s->out->count > s->thread_end) {
        /* A frame that is reached through the frames it called: those are not what holds. */
        s->out->count = s->thread_end;
        if (s->out->at) s->out->at[s->out->count] = 0;
    }
    say_step(s, frame && named ? "" : lowtide_string(s->m->rec, shape->name));
    s->state = SAY_ROOT;
    if (!frame && named) strbuf_putc(s->out, ' ');
    if (named) strbuf_put(s->out, o.value.text, bytes);
    if (frame && named) strbuf_puts(s->out, "()");
    if (!frame) s->thread_end = s->out->count;
    return 0;
}

static int say_module(say_t *s, uint32_t module, uint32_t key) {
    const char *text;
    uint32_t bytes;
    names_table_t *modules = &s->m->names->modules;
    int status = names_text(s->m, key, &text, &bytes, s->e);
    if (status) return status;
    s->state = SAY_VALUE;
    for (size_t i = 0; i < modules->entries.count; i++) {
        names_entry_t *entry = &modules->entries.at[i];
        if (entry->id != module ||
            (text && (entry->bytes != bytes || memcmp(entry->name, text, bytes) != 0)))
            continue;
        if ((status = names_module(s->m, entry, &text, s->e))) return status;
        strbuf_puts(s->out, text);
        return 0;
    }
    strbuf_puts(s->out, "sys.modules[");
    status = literal_put(s->m, key, s->out, &s->expression, s->e);
    strbuf_putc(s->out, ']');
    return status;
}

/* From the runtime, an interpreter, a thread or a frame. */
static int say_from_root(say_t *s, uint32_t from, uint32_t to, const path_edge_t *edge) {
    const names_t *names = s->m->names;
    int kind = model_shape_of(s->m, to)->kind;
    if (kind == LOWTIDE_SHAPE_INTERPRETER) {
        return to == names->interpreter ? 0 : say_pseudo(s, to);
    }
    if (kind != LOWTIDE_SHAPE_OBJECT) return say_pseudo(s, to);
    if (from == names->interpreter && to == names->modules.dict) {
        s->state = SAY_MODULES;
        return 0;
    }
    s->expression = false;
    if (s->out->count == 0)
        say_step(s, lowtide_string(s->m->rec, model_shape_of(s->m, from)->name));
    if (edge->label.kind == LOWTIDE_LOCAL) s->local = to;
    return say_from_value(s, from, to, edge);
}

static int say_reference(say_t *s, uint32_t from, uint32_t to) {
    path_edge_t edge;
    int status = path_edge_of(s->m, from, to, &edge, s->e);
    if (status) return status;
    if (s->state == SAY_NAMESPACE && edge.label.kind == LOWTIDE_VALUE) {
        status = say_namespace_value(s, to, edge.key);
        if (status != 1) return status;
    }
    if (s->state == SAY_NAMESPACE && (status = say_dict_itself(s))) return status;
    if (s->state == SAY_MODULES) {
        if (edge.label.kind == LOWTIDE_VALUE) return say_module(s, to, edge.key);
        strbuf_puts(s->out, "sys.modules");
        s->state = SAY_VALUE;
    }
    if (s->state == SAY_ROOT) return say_from_root(s, from, to, &edge);
    if (model_shape_of(s->m, to)->kind != LOWTIDE_SHAPE_OBJECT) return say_pseudo(s, to);
    return say_from_value(s, from, to, &edge);
}

static int say_end(say_t *s, uint32_t last) {
    if (s->state == SAY_NAMESPACE) return say_dict_itself(s);
    if (s->state == SAY_MODULES) strbuf_puts(s->out, "sys.modules");
    if (s->out->count == 0) return say_describe(s, last);
    if (s->state == SAY_ROOT) s->expression = false;
    return 0;
}

int path_say(const model_t *m, const uint32_t *nodes, size_t count, int style, strbuf_t *out,
             bool *expression, err_t *e) {
    say_t s = {.m = m,
               .out = out,
               .style = style,
               .state = SAY_ROOT,
               .expression = style == PATH_EXACT,
               .local = LOWTIDE_NONE,
               .wrapped = LOWTIDE_NONE,
               .e = e};
    size_t i = 1;
    int status = 0;
    if (nodes[0] >= m->g.n) {
        static const char *const origin[] = {"root", "C code", "immortal", "garbage"};
        say_step(&s, origin[nodes[0] - m->g.n]);
        if (count > 1) status = say_describe(&s, nodes[1]);
        i = 2;
    }
    for (; i < count && !status; i++) {
        if (count > SAY_STEPS_MAX && i == SAY_HEAD) {
            if (s.state == SAY_NAMESPACE && (status = say_dict_itself(&s))) break;
            strbuf_printf(out, " … %zu more …", count - SAY_TAIL - i);
            s.expression = false;
            s.state = SAY_VALUE;
            i = count - SAY_TAIL;
        }
        status = say_reference(&s, nodes[i - 1], nodes[i]);
    }
    if (!status) status = say_end(&s, nodes[count - 1]);
    if (!status && out->failed) status = err_set(e, -ENOMEM, "no memory for a path");
    *expression = s.expression;
    return status;
}

int path_say_from(const model_t *m, const uint32_t *nodes, size_t count, strbuf_t *out, err_t *e) {
    say_t s = {.m = m,
               .out = out,
               .style = PATH_SHAPE,
               .state = SAY_VALUE,
               .local = LOWTIDE_NONE,
               .wrapped = LOWTIDE_NONE,
               .e = e};
    int status = 0;
    strbuf_puts(out, model_type_name(m, nodes[0]));
    for (size_t i = 1; i < count && !status; i++)
        status = say_reference(&s, nodes[i - 1], nodes[i]);
    if (!status && out->failed) status = err_set(e, -ENOMEM, "no memory for a path");
    return status;
}
