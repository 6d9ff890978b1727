/* From words to objects: a path as Python writes it, the name of a type, an address. */
#include "explain/find_local.h"
#include "explain/find_near.h"
#include "explain/literal.h"
#include "explain/names.h"
#include "explain/path.h"
#include "explain/told.h"

#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct find {
    const model_t *m;
    const char *at, *end;
    uint32_t id; /* what the text before `at` leads to */
    err_t *e;
} find_t;

static size_t find_word(const char *at, const char *end) {
    const char *p = at;
    while (p < end && (*p == '_' || (unsigned char)*p >= 0x80 || (*p >= '0' && *p <= '9') ||
                       (*p >= 'A' && *p <= 'Z') || (*p >= 'a' && *p <= 'z'))) {
        p++;
    }
    return (size_t)(p - at);
}

static void find_spaces(find_t *f) {
    while (f->at < f->end && *f->at == ' ') f->at++;
}

/* A name: of __main__, a module (the longest dotted name of sys.modules that fits), a builtin. */
static int find_name(find_t *f) {
    const names_t *names = f->m->names;
    size_t bytes = find_word(f->at, f->end), whole = bytes;
    uint32_t dict;
    if (!bytes) return -ENOENT;
    f->id = names_get(&names->main, f->at, bytes);
    if (f->id == LOWTIDE_NONE) {
        for (size_t n = bytes;;) {
            uint32_t module = names_get(&names->modules, f->at, n);
            if (module != LOWTIDE_NONE) {
                f->id = module;
                whole = n;
            }
            if (f->at + n >= f->end || f->at[n] != '.') break;
            size_t next = find_word(f->at + n + 1, f->end);
            if (!next) break;
            n += 1 + next;
        }
    }
    if (f->id == LOWTIDE_NONE && names->builtins != LOWTIDE_NONE) {
        int status = names_namespace(f->m, names->builtins, &dict, f->e);
        if (!status) status = names_lookup(f->m, dict, f->at, bytes, &f->id, f->e);
        if (status) return status;
    }
    f->at += whole;
    return f->id == LOWTIDE_NONE ? -ENOENT : 0;
}

static int find_cell(find_t *f, uint32_t *found) {
    lowtide_object o;
    int status = model_read(f->m, f->id, &o, f->e);
    const lowtide_shape *shape = model_shape_of(f->m, f->id);
    for (uint32_t k = 0; !status && k < shape->fixed_count; k++) {
        if (shape->fixed[k].kind == LOWTIDE_CELL) *found = o.edges[k];
    }
    return status;
}

/* As attribute access goes: a field of the object, its namespace, its class. */
static int find_attribute(find_t *f, const char *name, size_t bytes) {
    uint32_t found, dict, type = model_shape_of(f->m, f->id)->type;
    bool is_type = model_shape_of(f->m, f->id)->flags & LOWTIDE_SHAPE_IS_TYPE;
    int status = names_field(f->m, f->id, name, bytes, &found, f->e);
    if (!status && found == LOWTIDE_NONE) {
        status = names_namespace(f->m, f->id, &dict, f->e);
        if (bytes == 8 && memcmp(name, "__dict__", 8) == 0)
            found = dict;
        else if (!status)
            status = names_lookup(f->m, dict, name, bytes, &found, f->e);
    }
    if (!status && found == LOWTIDE_NONE)
        status = told_find(f->m, f->id, name, bytes, &found, f->e);
    if (!status && found == LOWTIDE_NONE && bytes == 13 && memcmp(name, "cell_contents", 13) == 0) {
        status = find_cell(f, &found);
    }
    if (!status && found == LOWTIDE_NONE && is_type)
        status = names_in_class(f->m, f->id, name, bytes, &found, f->e);
    if (!status && found == LOWTIDE_NONE && bytes == 9 && memcmp(name, "__class__", 9) == 0)
        found = type;
    if (!status && found == LOWTIDE_NONE && type != LOWTIDE_NONE) {
        status = names_in_class(f->m, type, name, bytes, &found, f->e);
    }
    if (!status && is_type && found != LOWTIDE_NONE &&
        strcmp(model_type_name(f->m, found), "staticmethod") == 0)
        status = names_field(f->m, found, "__func__", 8, &found, f->e);
    if (status) return status;
    f->id = found;
    return found == LOWTIDE_NONE ? -ENOENT : 0;
}

/* Where the subscript that begins behind '[' ends: its ']'. Brackets and quotes inside are passed
 * over. */
static const char *find_bracket(const char *at, const char *end) {
    int depth = 0;
    for (char quote = 0; at < end; at++) {
        if (quote) {
            if (*at == '\\')
                at++;
            else if (*at == quote)
                quote = 0;
        } else if (*at == '\'' || *at == '"') {
            quote = *at;
        } else if (*at == '[' || *at == '(') {
            depth++;
        } else if (*at == ')') {
            depth--;
        } else if (*at == ']' && depth-- == 0) {
            return at;
        }
    }
    return NULL;
}

/* Bring a key as somebody typed it into the form that literal_put writes. Strings alone may
 * differ: in their quotes. */
static void find_normal(const char *key, size_t bytes, strbuf_t *out) {
    if (bytes < 2 || key[0] != '"' || key[bytes - 1] != '"' || memchr(key, '\\', bytes) ||
        memchr(key, '\'', bytes)) {
        strbuf_put(out, key, bytes);
        return;
    }
    strbuf_putc(out, '\'');
    strbuf_put(out, key + 1, bytes - 2);
    strbuf_putc(out, '\'');
}

static int find_key(find_t *f, path_ids_t *edges, const char *wanted) {
    strbuf_t text = {0};
    int status = 0;
    uint32_t found = LOWTIDE_NONE;
    for (size_t i = 0; i + 1 < edges->count && !status && found == LOWTIDE_NONE; i += 2) {
        bool exact = true;
        strbuf_clear(&text);
        status = literal_put(f->m, edges->at[i], &text, &exact, f->e);
        if (!status && text.failed)
            status = err_set(f->e, -ENOMEM, "no memory for the keys of a dict");
        if (!status && strcmp(strbuf_text(&text), wanted) == 0) found = edges->at[i + 1];
    }
    strbuf_free(&text);
    f->id = found;
    return status ? status : found == LOWTIDE_NONE ? -ENOENT : 0;
}

static int find_item(find_t *f, const char *key, size_t bytes) {
    lowtide_object o;
    path_ids_t edges = {0};
    int status = model_read(f->m, f->id, &o, f->e);
    if (status) return status;
    const lowtide_shape *shape = lowtide_shape_at(f->m->rec, o.shape);
    bool pairs = shape->repeat_count == 2;
    if (!shape->repeat_count) return -ENOENT;
    if (!pairs) {
        char *stop;
        long long i = strtoll(key, &stop, 10), count = (long long)o.edge_count - shape->fixed_count;
        if (i < 0) i += count;
        if (stop != key + bytes || i < 0 || i >= count) return -ENOENT;
        f->id = o.edges[shape->fixed_count + i];
        return f->id == LOWTIDE_NONE ? -ENOENT : 0;
    }
    for (uint32_t k = shape->fixed_count; k + 1 < o.edge_count && !status; k += 2) {
        if (o.edges[k] == LOWTIDE_NONE || o.edges[k + 1] == LOWTIDE_NONE) continue;
        status = path_ids_push(&edges, o.edges[k]) || path_ids_push(&edges, o.edges[k + 1])
                     ? -ENOMEM
                     : 0;
    }
    strbuf_t wanted = {0};
    find_normal(key, bytes, &wanted);
    if (status || wanted.failed)
        status = err_set(f->e, -ENOMEM, "no memory for the keys of a dict");
    else
        status = find_key(f, &edges, strbuf_text(&wanted));
    strbuf_free(&wanted);
    path_ids_free(&edges);
    return status;
}

/* The names of a path's beginning that are no plain names. */
static int find_start(find_t *f) {
    static const char *const modules[] = {"sys.modules[", "__import__('sys').modules["};
    for (size_t i = 0; i < 2; i++) {
        size_t n = strlen(modules[i]);
        if ((size_t)(f->end - f->at) < n || memcmp(f->at, modules[i], n) != 0) continue;
        f->id = f->m->names->modules.dict;
        f->at += n - 1;
        return f->id == LOWTIDE_NONE ? -ENOENT : 0;
    }
    int status = find_local(f->m, &f->at, f->end, &f->id, f->e);
    return status == -ENOENT ? find_name(f) : status;
}

/* The dict that a functools.lru_cache keeps its answers in. */
static int find_lru_cache(find_t *f) {
    lowtide_object o;
    int status = model_read(f->m, f->id, &o, f->e);
    if (status) return status;
    for (uint32_t k = lowtide_shape_at(f->m->rec, o.shape)->fixed_count; k < o.edge_count; k++) {
        if (o.edges[k] == LOWTIDE_NONE || strcmp(model_type_name(f->m, o.edges[k]), "dict") != 0)
            continue;
        f->id = o.edges[k];
        return 0;
    }
    return -ENOENT;
}

static int find_path(find_t *f) {
    static const char cache[] = "'s lru_cache";
    int status = find_start(f);
    while (!status && f->at < f->end) {
        if (*f->at == '.') {
            size_t bytes = find_word(f->at + 1, f->end);
            const char *name = f->at + 1;
            if (!bytes) return -ENOENT;
            f->at += 1 + bytes;
            status = find_attribute(f, name, bytes);
        } else if (*f->at == '[') {
            const char *key = f->at + 1, *end = find_bracket(key, f->end);
            if (!end) return -ENOENT;
            f->at = end + 1;
            status = find_item(f, key, (size_t)(end - key));
        } else if ((size_t)(f->end - f->at) >= sizeof cache - 1 &&
                   memcmp(f->at, cache, sizeof cache - 1) == 0) {
            f->at += sizeof cache - 1;
            status = find_lru_cache(f);
        } else {
            return -ENOENT;
        }
    }
    return status;
}

static int find_address(const model_t *m, uint64_t address, uint32_t *id, err_t *e) {
    lowtide_chunk *c = NULL;
    lowtide_error error;
    int status = 0;
    *id = LOWTIDE_NONE;
    for (uint32_t k = 0; k < lowtide_chunks(m->rec) && !status && *id == LOWTIDE_NONE; k++) {
        status = lowtide_chunk_load(m->rec, k, LOWTIDE_COL_ADDRESS, &c, &error);
        if (status) err_set(e, status, "%s", error.text);
        for (uint32_t i = 0; !status && i < c->count && *id == LOWTIDE_NONE; i++) {
            bool object = model_shape_of(m, c->first + i)->kind == LOWTIDE_SHAPE_OBJECT;
            if (c->address[i] == address && object) *id = c->first + i;
        }
    }
    lowtide_chunk_free(c);
    if (!status && *id == LOWTIDE_NONE)
        return err_set(e, -ENOENT, "no object at 0x%llx", (unsigned long long)address);
    return status;
}

/* Whether a type goes by that name: all of it, or what stands behind a dot. */
static bool find_is_named(const model_type_t *type, const char *what, size_t bytes) {
    size_t n = strlen(type->name);
    return n >= bytes && memcmp(type->name + n - bytes, what, bytes) == 0 &&
           (n == bytes || type->name[n - bytes - 1] == '.');
}

static int find_type(const model_t *m, const char *what, size_t bytes, uint32_t *type) {
    *type = LOWTIDE_NONE;
    for (uint32_t i = 0; i < m->type_count; i++) {
        if (!find_is_named(&m->types[i], what, bytes)) continue;
        bool whole = strlen(m->types[i].name) == bytes;
        if (*type == LOWTIDE_NONE || whole) *type = i;
        if (whole) break;
    }
    return *type == LOWTIDE_NONE ? -ENOENT : 0;
}

static int find_instances(const model_t *m, uint32_t type, model_found_t *out, err_t *e) {
    *out = (model_found_t){.what = MODEL_WHAT_TYPE, .type = type, .count = m->types[type].count};
    out->ids = mem_alloc((size_t)out->count * sizeof *out->ids);
    if (!out->ids)
        return err_set(e, -ENOMEM, "no memory for %llu objects", (unsigned long long)out->count);
    uint64_t at = 0;
    for (uint32_t id = 0; id < m->g.n && at < out->count; id++) {
        if (model_type_of(m, id) == type) out->ids[at++] = id;
    }
    return 0;
}

static int find_one(uint32_t id, model_found_t *out, err_t *e) {
    *out =
        (model_found_t){.what = MODEL_WHAT_OBJECT, .count = 1, .ids = mem_alloc(sizeof *out->ids)};
    if (!out->ids) return err_set(e, -ENOMEM, "no memory for an answer");
    out->ids[0] = id;
    return 0;
}

int model_find(const model_t *m, const char *what, model_found_t *out, err_t *e) {
    uint32_t id, type;
    char *stop;
    *out = (model_found_t){0};
    find_t f = {.m = m, .at = what, .end = what + strlen(what), .e = e};
    find_spaces(&f);
    while (f.end > f.at && f.end[-1] == ' ') f.end--;
    size_t bytes = (size_t)(f.end - f.at);
    if (bytes > 2 && f.at[0] == '0' && (f.at[1] == 'x' || f.at[1] == 'X')) {
        unsigned long long address = strtoull(f.at, &stop, 16);
        if (stop == f.end) {
            int status = find_address(m, address, &id, e);
            return status ? status : find_one(id, out, e);
        }
    }
    const char *name = f.at;
    bool is_type = find_type(m, name, bytes, &type) == 0;
    int status = find_path(&f);
    if (status && status != -ENOENT) return status;
    if (is_type && (status || f.id == m->types[type].type_id))
        return find_instances(m, type, out, e);
    return status ? find_near(m, what, e) : find_one(f.id, out, e);
}

void model_found_free(model_found_t *found) {
    mem_free(found->ids);
    *found = (model_found_t){0};
}
