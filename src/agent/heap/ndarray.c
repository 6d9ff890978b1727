#include "agent/heap/ndarray.h"

#include "agent/heap/blocks.h"

enum {
    ND_DATA = 16,
    ND_COUNT = 24,
    ND_DIMENSIONS = 32,
    ND_STRIDES = 40,
    ND_BASE = 48,
    ND_DESCR = 56,
    ND_FLAGS = 64,
    ND_HANDLER = 88, /* since 1.22 */
    DESCR_TYPE_NUMBER = 28,
    NPY_OBJECT = 17,
    NPY_OWNDATA = 4,
    ND_DIMENSIONS_MAX = 64
};

/* Arrays that own their data are made contiguous, so the widest stride times its count is all of it. */
static uint64_t ndarray_bytes(rt_addr_t array) {
    int32_t n = rt_i32(array, ND_COUNT);
    if (n < 0 || n > ND_DIMENSIONS_MAX) return 0;
    rt_addr_t dims = rt_ptr(array, ND_DIMENSIONS), strides = rt_ptr(array, ND_STRIDES);
    uint64_t bytes = n ? 0 : 8;
    for (int32_t i = 0; i < n; i++) {
        int64_t count = rt_i64(dims, i * 8), stride = rt_i64(strides, i * 8);
        if (count <= 0) return 0;
        uint64_t span = (uint64_t)count * (uint64_t)(stride < 0 ? -stride : stride);
        if (span > bytes) bytes = span;
    }
    return bytes;
}

static bool ndarray_owns(rt_addr_t array) {
    return rt_i32(array, ND_FLAGS) & NPY_OWNDATA && rt_ptr(array, ND_DATA);
}

uint64_t ndarray_size(walk_t *k, const kind_t *t, rt_addr_t array) {
    if (ndarray_owns(array)) {
        uint64_t bytes = ndarray_bytes(array);
        k->buffer += bytes;
        blocks_note(k, rt_ptr(array, ND_DATA), bytes);
    }
    int32_t n = rt_i32(array, ND_COUNT);
    return (uint64_t)t->basicsize + (n > 0 ? 2 * 8 * (uint64_t)n : 0);
}

void ndarray_add_fields(walk_t *k, kind_t *t) {
    kind_add_field(t, ND_BASE, walk_label(k, LOWTIDE_ATTRIBUTE, "base", false));
    kind_add_field(t, ND_DESCR, walk_label(k, LOWTIDE_ATTRIBUTE, "dtype", false));
    if (rt_i64(t->c_base, k->lay->type_basicsize) >= ND_HANDLER + 8)
        kind_add_field(t, ND_HANDLER, walk_label(k, LOWTIDE_FIELD, "mem_handler", false));
}

void ndarray_edges(walk_t *k, rt_addr_t array) {
    rt_addr_t descr = rt_ptr(array, ND_DESCR), data = rt_ptr(array, ND_DATA);
    if (!descr || !ndarray_owns(array) || rt_i32(descr, DESCR_TYPE_NUMBER) != NPY_OBJECT) return;
    uint64_t n = ndarray_bytes(array) / 8;
    for (uint64_t i = 0; i < n; i++) walk_edge(k, rt_ptr(data + i * 8, 0));
}
