#include "explain/literal.h"
#include "explain/names.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>

/* The main interpreter is named so, or the only one; its sys.modules is a root of it. */
static int names_find_roots(model_t *m, uint32_t *modules, err_t *e) {
    lowtide_object o;
    uint32_t index;
    *modules = LOWTIDE_NONE;
    m->names->interpreter = LOWTIDE_NONE;
    if (m->g.n == 0) return 0;
    int status = model_read(m, 0, &o, e);
    if (status) return status;
    for (uint32_t k = 0; k < o.edge_count; k++) {
        if (o.edges[k] == LOWTIDE_NONE ||
            model_shape_of(m, o.edges[k])->kind != LOWTIDE_SHAPE_INTERPRETER)
            continue;
        lowtide_label label = lowtide_label_at(lowtide_shape_at(m->rec, o.shape), k, &index);
        bool main = strcmp(lowtide_string(m->rec, label.name), "main interpreter") == 0;
        if (main || m->names->interpreter == LOWTIDE_NONE) m->names->interpreter = o.edges[k];
    }
    if (m->names->interpreter == LOWTIDE_NONE) return 0;
    return names_field(m, m->names->interpreter, "modules", 7, modules, e);
}

int names_build(model_t *m, err_t *e) {
    uint32_t modules, main, dict = LOWTIDE_NONE;
    m->names = mem_alloc(sizeof *m->names);
    if (!m->names) return err_set(e, -ENOMEM, "no memory for the names of the recording");
    *m->names = (names_t){0};
    int status = names_find_roots(m, &modules, e);
    if (!status) status = names_read_table(m, &m->names->modules, modules, e);
    if (status) return status;
    m->names->builtins = names_get(&m->names->modules, "builtins", 8);
    main = names_get(&m->names->modules, "__main__", 8);
    if (main != LOWTIDE_NONE) status = names_namespace(m, main, &dict, e);
    return status ? status : names_read_table(m, &m->names->main, dict, e);
}

static void names_free_table(names_table_t *t) {
    names_vec_free(&t->entries);
    map_free(&t->index);
}

void names_free(names_t *names) {
    if (!names) return;
    names_free_table(&names->modules);
    names_free_table(&names->main);
    map_free(&names->descriptors);
    mem_free(names);
}

/* Whether `a.b.c`, written bare, leads to that module: each part but the first must be an
 * attribute of the one before. */
static int names_is_plain(const model_t *m, const names_entry_t *module, bool *plain, err_t *e) {
    const names_t *names = m->names;
    const char *at = module->name, *end = at + module->bytes;
    uint32_t found = LOWTIDE_NONE;
    *plain = false;
    while (at < end) {
        const char *dot = memchr(at, '.', (size_t)(end - at));
        size_t bytes = (size_t)((dot ? dot : end) - at);
        uint32_t dict;
        if (!names_is_identifier(at, bytes)) return 0;
        if (at == module->name) {
            uint32_t shadow = names_get(&names->main, at, bytes);
            found = names_get(&names->modules, at, bytes);
            if (found == LOWTIDE_NONE || (shadow != LOWTIDE_NONE && shadow != found)) return 0;
        } else {
            int status = names_namespace(m, found, &dict, e);
            if (!status) status = names_lookup(m, dict, at, bytes, &found, e);
            if (status) return status;
            if (found == LOWTIDE_NONE) return 0;
        }
        at += bytes + 1;
    }
    *plain = found == module->id;
    return 0;
}

int names_module(const model_t *m, names_entry_t *module, const char **text, err_t *e) {
    bool plain;
    *text = module->expression;
    if (*text) return 0;
    int status = names_is_plain(m, module, &plain, e);
    if (status) return status;
    if (plain) {
        *text = module->expression = module->name;
        return 0;
    }
    const names_t *names = m->names;
    uint32_t shadow = names_get(&names->main, "sys", 3);
    bool bare = shadow == LOWTIDE_NONE || shadow == names_get(&names->modules, "sys", 3);
    strbuf_t s = {0};
    strbuf_puts(&s, bare ? "sys.modules[" : "__import__('sys').modules[");
    literal_put_str(&s, module->name, module->bytes, true);
    strbuf_putc(&s, ']');
    const char *copy =
        s.failed ? NULL : arena_text(&((model_t *)m)->arena, strbuf_text(&s), s.count);
    strbuf_free(&s);
    if (!copy) return err_set(e, -ENOMEM, "no memory for a path");
    *text = module->expression = copy;
    return 0;
}
