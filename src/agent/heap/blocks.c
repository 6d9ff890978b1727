#include "agent/heap/blocks.h"

#include "format/rec_table.h"

#include <errno.h>

void blocks_look(walk_t *k, rt_addr_t block, uint64_t bytes) {
    const heap_options_t *o = k->options;
    if (o->untouched && block) k->untouched += o->untouched(o->untouched_arg, block, bytes, false);
}

static void note(walk_t *k, rt_addr_t block, uint64_t part) {
    const heap_options_t *o = k->options;
    if (!o->known || !block || !o->known(block)) return;
    if (u64_vec_push(&k->blocks, k->id) || u64_vec_push(&k->blocks, block) ||
        u64_vec_push(&k->blocks, part))
        walk_fail(k, -ENOMEM);
}

void blocks_note_part(walk_t *k, rt_addr_t block, uint64_t bytes) {
    note(k, block, bytes);
    blocks_untouched(k, block, bytes);
}

void blocks_note(walk_t *k, rt_addr_t block, uint64_t bytes) {
    note(k, block, 0);
    blocks_untouched(k, block, bytes);
}

static void write_table(walk_t *k, const char *name, const rec_table_column_t *columns,
                        uint32_t count, const u64_vec_t *values) {
    if (!values->count || k->status) return;
    rec_table_begin(k->w, name, columns, count);
    for (size_t i = 0; i < values->count; i++) rec_table_number(k->w, values->at[i]);
    rec_table_end(k->w);
}

void blocks_write(walk_t *k) {
    static const rec_table_column_t of_blocks[] = {
        {"object", REC_DELTA}, {"address", REC_DELTA}, {"bytes", REC_VARINT}};
    static const rec_table_column_t of_untouched[] = {{"object", REC_DELTA}, {"bytes", REC_VARINT}};
    write_table(k, "blocks", of_blocks, 3, &k->blocks);
    write_table(k, "untouched", of_untouched, 2, &k->unused);
}
