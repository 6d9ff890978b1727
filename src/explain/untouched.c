#include "explain/untouched.h"

#include <errno.h>

int untouched_load(const lowtide_recording *rec, untouched_vec_t *out) {
    lowtide_table *t;
    lowtide_error error;
    int status = lowtide_table_load(rec, "untouched", &t, &error);
    if (status) return status == -ENOMEM ? status : 0;
    uint32_t object = lowtide_table_column(t, "object"), bytes = lowtide_table_column(t, "bytes");
    for (uint32_t i = 0; i < lowtide_table_rows(t) && !status; i++) {
        uint64_t id = lowtide_table_number(t, object, i);
        bool rises = !out->count || id > out->at[out->count - 1].id;
        if (id >= lowtide_objects(rec) || !rises) continue;
        status = untouched_vec_push(
            out, (untouched_row_t){(uint32_t)id, lowtide_table_number(t, bytes, i)});
    }
    lowtide_table_free(t);
    return status ? -ENOMEM : 0;
}

uint64_t untouched_less(untouched_vec_t *rows, size_t *next, uint32_t id, uint64_t bytes) {
    while (*next < rows->count && rows->at[*next].id < id) ++*next;
    if (*next == rows->count || rows->at[*next].id != id) return bytes;
    untouched_row_t *row = &rows->at[*next];
    if (row->bytes > bytes) row->bytes = bytes;
    return bytes - row->bytes;
}

uint64_t untouched_of(const untouched_vec_t *rows, uint32_t id) {
    size_t low = 0, high = rows->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (rows->at[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < rows->count && rows->at[low].id == id ? rows->at[low].bytes : 0;
}
