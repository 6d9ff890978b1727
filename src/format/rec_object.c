#include "format/rec_reader.h"

#include <errno.h>

/* The chunk that holds an id: chunks are in order of ids. */
static uint32_t rec_chunk_of(const lowtide_recording *rec, uint32_t id) {
    uint32_t low = 0, high = (uint32_t)rec->chunks.count - 1;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        if (rec->chunks.at[middle].first <= id) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

/* The chunk from the cache, or loaded in place of the one used longest ago. */
static int rec_chunk_cached(lowtide_recording *rec, uint32_t number, lowtide_chunk **out,
                            lowtide_error *error) {
    int oldest = 0;
    for (int i = 0; i < REC_CACHE_CHUNKS; i++) {
        if (rec->cache[i].used && rec->cache[i].number == number) {
            oldest = i;
            break;
        }
        if (rec->cache[i].used < rec->cache[oldest].used) oldest = i;
    }
    if (!rec->cache[oldest].used || rec->cache[oldest].number != number) {
        rec->cache[oldest].used = 0;
        int status =
            lowtide_chunk_load(rec, number, LOWTIDE_COL_ALL, &rec->cache[oldest].chunk, error);
        if (status) return status;
        rec->cache[oldest].number = number;
    }
    rec->cache[oldest].used = ++rec->cache_clock;
    *out = rec->cache[oldest].chunk;
    return 0;
}

int lowtide_object_at(lowtide_recording *rec, uint32_t id, lowtide_object *out,
                      lowtide_error *error) {
    if (id >= rec->objects) {
        return err_set(rec_err(error), -EINVAL, "%s has no object %u", rec->name, id);
    }
    lowtide_chunk *chunk;
    int status = rec_chunk_cached(rec, rec_chunk_of(rec, id), &chunk, error);
    if (status) return status;
    uint32_t i = id - chunk->first;
    *out = (lowtide_object){.id = id,
                            .shape = chunk->shape[i],
                            .address = chunk->address[i],
                            .size = chunk->size[i],
                            .refcount = chunk->refcount[i],
                            .buffers = chunk->buffers[i],
                            .flags = chunk->flags[i],
                            .edges = chunk->edges + chunk->edge_begin[i],
                            .edge_count = chunk->edge_begin[i + 1] - chunk->edge_begin[i],
                            .value = chunk->values[i]};
    return 0;
}
