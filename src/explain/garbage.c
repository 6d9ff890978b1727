#include "explain/garbage.h"

#include "explain/order.h"

int garbage_bytes(const lowtide_recording *rec, uint64_t *bytes, err_t *e) {
    graph_t g;
    order_t o;
    *bytes = 0;
    int status = graph_load(&g, rec, e);
    if (status) return status;
    status = order_build(&o, &g, e);
    for (uint32_t place = status ? UINT32_MAX : o.first_garbage + 1; place < o.count; place++)
        *bytes += graph_shallow(&g, o.id[place]);
    if (!status) order_free(&o, &g.spare);
    graph_free(&g);
    return status;
}
