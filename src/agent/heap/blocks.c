#include "agent/heap/blocks.h"

#include "format/rec_table.h"

#include <errno.h>

void blocks_note_part(walk_t *k, rt_addr_t block, uint64_t bytes) {
    const heap_options_t *o = k->options;
    if (!o->known || !block || !o->known(block)) return;
    if (u64_vec_push(&k->blocks, k->id) || u64_vec_push(&k->blocks, block) ||
        u64_vec_push(&k->blocks, bytes))
        walk_fail(k, -ENOMEM);
}

void blocks_note(walk_t *k, rt_addr_t block) {
    blocks_note_part(k, block, 0);
}

void blocks_write(walk_t *k) {
    static const rec_table_column_t columns[] = {
        {"object", REC_DELTA}, {"address", REC_DELTA}, {"bytes", REC_VARINT}};
    if (!k->blocks.count || k->status) return;
    rec_table_begin(k->w, "blocks", columns, 3);
    for (size_t i = 0; i < k->blocks.count; i++) rec_table_number(k->w, k->blocks.at[i]);
    rec_table_end(k->w);
}
