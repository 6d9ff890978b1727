#include "explain/find_near.h"

#include "explain/names.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

enum { NEAR_MOST = 3, NEAR_WORD = 64, NEAR_WRONG_MOST = 2 };

typedef struct near {
    const model_t *m;
    const char *word; /* the last name in what was asked for */
    size_t bytes;
    unsigned wrong; /* of the names found so far: how many letters differ */
    unsigned count;
    strbuf_t found;
    err_t *e;
} near_t;

/* How many letters have to be put in, left out or changed; case does not count. */
static unsigned near_distance(const char *a, size_t n, const char *b, size_t m) {
    unsigned row[NEAR_WORD + 1];
    if (n > NEAR_WORD || m > NEAR_WORD) return NEAR_WORD;
    for (size_t j = 0; j <= m; j++) row[j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned corner = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned change = corner + ((a[i - 1] | 32) != (b[j - 1] | 32));
            corner = row[j];
            unsigned best = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            row[j] = best < change ? best : change;
        }
    }
    return row[m];
}

/* The last name in "app.cach['k']": cach. */
static void near_word(near_t *n, const char *what) {
    static const char ends[] = ".[]()'\" >";
    const char *end = strchr(what, '['), *begin;
    if (!end) end = what + strlen(what);
    while (end > what && strchr(ends, end[-1])) end--;
    for (begin = end; begin > what && !strchr(ends, begin[-1]);) begin--;
    n->word = begin;
    n->bytes = (size_t)(end - begin);
}

static void near_take(near_t *n, const char *module, const char *name, size_t bytes) {
    unsigned wrong = near_distance(n->word, n->bytes, name, bytes);
    if (wrong > NEAR_WRONG_MOST || wrong >= n->bytes / 2 + (wrong == 0) || wrong > n->wrong) return;
    if (wrong < n->wrong) {
        n->wrong = wrong;
        n->count = 0;
        strbuf_clear(&n->found);
    }
    if (n->count++ >= NEAR_MOST) return;
    if (n->found.count) strbuf_puts(&n->found, ", ");
    if (strcmp(module, "__main__") != 0) strbuf_printf(&n->found, "%s.", module);
    strbuf_put(&n->found, name, bytes);
}

static int near_module(near_t *n, names_entry_t *module) {
    lowtide_object o;
    uint32_t dict;
    const char *said;
    int status = names_namespace(n->m, module->id, &dict, n->e);
    if (status || dict == LOWTIDE_NONE) return status;
    if ((status = names_module(n->m, module, &said, n->e))) return status;
    for (uint32_t k = 0;; k += 2) {
        const char *text;
        uint32_t bytes, key;
        if ((status = model_read(n->m, dict, &o, n->e))) return status;
        const lowtide_shape *shape = lowtide_shape_at(n->m->rec, o.shape);
        if (shape->repeat_count != 2 || shape->fixed_count + k >= o.edge_count) return 0;
        key = o.edges[shape->fixed_count + k];
        if ((status = names_text(n->m, key, &text, &bytes, n->e))) return status;
        if (text) near_take(n, said, text, bytes);
    }
}

static const char *near_type(const near_t *n) {
    for (uint32_t i = 0; i < n->m->type_count; i++) {
        const char *name = n->m->types[i].name, *dot = strrchr(name, '.');
        if (strncasecmp(dot ? dot + 1 : name, n->word, n->bytes) == 0) return name;
    }
    return NULL;
}

int find_near(const model_t *m, const char *what, err_t *e) {
    near_t n = {.m = m, .wrong = NEAR_WRONG_MOST, .e = e};
    names_table_t *modules = &m->names->modules;
    int status = 0;
    near_word(&n, what);
    for (size_t i = 0; i < modules->entries.count && !status && n.bytes > 2; i++)
        status = near_module(&n, &modules->entries.at[i]);
    const char *type = n.bytes > 2 ? near_type(&n) : NULL;
    if (!status && n.count > 0)
        status =
            err_set(e, -ENOENT, "nothing is called %s in this recording; what comes near: %.300s",
                    what, strbuf_text(&n.found));
    else if (!status && type)
        status = err_set(e, -ENOENT,
                         "nothing is called %s in this recording; a type that comes near: %s", what,
                         type);
    else if (!status)
        status =
            err_set(e, -ENOENT,
                    "nothing is called %s in this recording; name a path (app.cache['k'][0]), a "
                    "type or an address",
                    what);
    strbuf_free(&n.found);
    return status;
}
