/* A tree of paths that keeps clear of given objects and types. */
#include "explain/path.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>

static void path_tree_mark(const model_t *m, const model_avoid_t *avoid, uint64_t *avoided) {
    for (uint32_t i = 0; i < avoid->id_count; i++) {
        if (avoid->ids[i] < m->g.n) graph_set(avoided, avoid->ids[i]);
    }
    for (uint32_t id = 0; avoid->type_count && id < m->g.n; id++) {
        for (uint32_t k = 0; k < avoid->type_count; k++) {
            if (model_type_of(m, id) == avoid->types[k]) graph_set(avoided, id);
        }
    }
}

int path_tree_avoiding(const model_t *m, const model_avoid_t *avoid, uint32_t **out, err_t *e) {
    size_t n = m->g.n, bits = graph_words(n) * sizeof(uint64_t);
    uint64_t *avoided = mem_map(bits);
    uint32_t *via = mem_map(n * sizeof *via), *depth = mem_map(n * sizeof *depth);
    int status = avoided && via && depth
                     ? 0
                     : err_set(e, -ENOMEM, "no memory for the paths of %zu objects", n);
    if (status) {
        mem_unmap(via, n * sizeof *via);
        via = NULL;
    } else {
        memset(via, 0xFF, n * sizeof *via);
        path_tree_mark(m, avoid, avoided);
        depth[0] = 1;
    }
    /* Ids stand in breadth-first order, so one sweep settles nearly all; the last one finds
     * nothing new. */
    for (bool more = !status; more;) {
        more = false;
        for (uint32_t id = 1; id < n; id++) {
            const uint32_t *from;
            uint32_t count =
                         depth[id] || graph_bit(avoided, id) ? 0 : model_referrers(m, id, &from),
                     best = 0;
            for (uint32_t k = 0; k < count; k++) {
                uint32_t d = depth[from[k]];
                if (!d || graph_bit(avoided, from[k]) || (best && d >= best)) continue;
                best = d;
                via[id] = from[k];
            }
            depth[id] = best ? best + 1 : depth[id];
            if (best) more = true;
        }
    }
    mem_unmap(avoided, bits);
    mem_unmap(depth, n * sizeof *depth);
    *out = via;
    return status;
}
