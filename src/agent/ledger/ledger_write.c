#include "agent/ledger/ledger_write.h"

#include "format/rec_table.h"

#include <string.h>

static void write_lines(const ledger_t *l, rec_writer_t *w) {
    static const rec_table_column_t columns[] = {{"name", REC_TEXT},
                                                 {"bytes", REC_VARINT},
                                                 {"returnable_bytes", REC_VARINT},
                                                 {"note", REC_TEXT}};
    if (!l->count) return;
    rec_table_begin(w, "ledger", columns, sizeof columns / sizeof columns[0]);
    for (uint32_t i = 0; i < l->count; i++) {
        const ledger_line_t *line = &l->lines[i];
        rec_table_text(w, line->name, strlen(line->name));
        rec_table_number(w, line->bytes);
        rec_table_number(w, line->returnable_bytes);
        rec_table_text(w, line->note, strlen(line->note));
    }
    rec_table_end(w);
}

/* For whoever explains: the objects that lie in these are what keeps them. */
static void write_arenas(const pools_arenas_t *arenas, rec_writer_t *w) {
    static const rec_table_column_t columns[] = {{"address", REC_VARINT},
                                                 {"bytes", REC_VARINT},
                                                 {"resident_bytes", REC_VARINT},
                                                 {"live_bytes", REC_VARINT},
                                                 {"returnable_bytes", REC_VARINT}};
    if (!arenas->count) return;
    rec_table_begin(w, "arenas", columns, sizeof columns / sizeof columns[0]);
    for (size_t i = 0; i < arenas->count; i++) {
        const pools_arena_t *a = &arenas->at[i];
        rec_table_number(w, a->address);
        rec_table_number(w, a->bytes);
        rec_table_number(w, a->resident_bytes);
        rec_table_number(w, a->live_bytes);
        rec_table_number(w, a->returnable_bytes);
    }
    rec_table_end(w);
}

static void write_heaps(const ledger_heaps_t *heaps, rec_writer_t *w) {
    static const rec_table_column_t columns[] = {
        {"address", REC_VARINT},         {"main", REC_VARINT},       {"bytes", REC_VARINT},
        {"resident_bytes", REC_VARINT},  {"free_bytes", REC_VARINT}, {"top_bytes", REC_VARINT},
        {"returnable_bytes", REC_VARINT}};
    if (!heaps->count) return;
    rec_table_begin(w, "heaps", columns, sizeof columns / sizeof columns[0]);
    for (size_t i = 0; i < heaps->count; i++) {
        const ledger_heap_t *h = &heaps->at[i];
        rec_table_number(w, h->address);
        rec_table_number(w, h->main);
        rec_table_number(w, h->bytes);
        rec_table_number(w, h->resident_bytes);
        rec_table_number(w, h->free_bytes);
        rec_table_number(w, h->top_bytes);
        rec_table_number(w, h->returnable_bytes);
    }
    rec_table_end(w);
}

static void write_mappings(const ledger_mappings_t *mappings, rec_writer_t *w) {
    static const rec_table_column_t columns[] = {{"address", REC_DELTA},
                                                 {"bytes", REC_VARINT},
                                                 {"resident_bytes", REC_VARINT},
                                                 {"line", REC_TEXT}};
    if (!mappings->count) return;
    rec_table_begin(w, "mappings", columns, sizeof columns / sizeof columns[0]);
    for (size_t i = 0; i < mappings->count; i++) {
        const ledger_mapping_t *m = &mappings->at[i];
        rec_table_number(w, m->begin);
        rec_table_number(w, m->end - m->begin);
        rec_table_number(w, m->resident_bytes);
        rec_table_text(w, m->line, strlen(m->line));
    }
    rec_table_end(w);
}

void ledger_write(const ledger_t *l, rec_writer_t *w) {
    write_lines(l, w);
    write_arenas(&l->pools.books, w);
    write_heaps(&l->heaps, w);
    write_mappings(&l->mappings, w);
}
