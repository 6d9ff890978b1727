#include "explain/told.h"

#include <string.h>

/* By how the types' names begin; the first row that fits. */
static const struct {
    const char *from, *to, *name; /* to "": any; name NULL: none is known */
} told[] = {
    {"pandas.core.internals.managers.", "tuple", "blocks"},
    {"pandas.core.internals.managers.", "list", "axes"},
    {"pandas.core.internals.blocks.", "pandas._libs.internals.BlockPlacement", "_mgr_locs"},
    {"pandas.core.internals.blocks.", "pandas._libs.internals.BlockValuesRefs", "refs"},
    {"pandas.core.internals.blocks.", "dict", NULL},
    {"pandas.core.internals.blocks.", "type", NULL},
    {"pandas.core.internals.blocks.", "", "values"},
    {"pandas._libs.internals.BlockValuesRefs", "list", "referenced_blocks"},
    {"pandas._libs.index.", "pandas._libs.hashtable.", "mapping"},
    {"pandas._libs.index.", "numpy.ndarray", "values"},
    {"_io.TextIOWrapper", "_io.Buffered", "buffer"},
    {"_io.Buffered", "_io.FileIO", "raw"},
};

static bool begins(const char *text, const char *with) {
    return strncmp(text, with, strlen(with)) == 0;
}

const char *told_name(const model_t *m, uint32_t from, uint32_t to) {
    if (from >= m->g.n || to >= m->g.n) return NULL;
    const char *holder = model_type_name(m, from), *held = model_type_name(m, to);
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        if (begins(holder, told[i].from) && begins(held, told[i].to)) return told[i].name;
    return NULL;
}

int told_find(const model_t *m, uint32_t from, const char *name, size_t bytes, uint32_t *out,
              err_t *e) {
    lowtide_object o;
    *out = LOWTIDE_NONE;
    int status = model_read(m, from, &o, e);
    if (status) return status;
    const lowtide_shape *shape = lowtide_shape_at(m->rec, o.shape);
    for (uint32_t k = 0; k < o.edge_count && *out == LOWTIDE_NONE; k++) {
        uint32_t index;
        if (o.edges[k] == LOWTIDE_NONE ||
            lowtide_label_at(shape, k, &index).kind != LOWTIDE_REFERENCE)
            continue;
        const char *known = told_name(m, from, o.edges[k]);
        if (known && strlen(known) == bytes && memcmp(known, name, bytes) == 0) *out = o.edges[k];
    }
    return 0;
}
