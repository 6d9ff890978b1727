/* The recorder's tables, as docs/format.md lists them. */
#ifndef LOWTIDE_COLLECT_COLLECT_WRITE_H
#define LOWTIDE_COLLECT_COLLECT_WRITE_H

#include "collect/collect.h"

void write_tables(const collect_t *c, rec_writer_t *w, const collect_rows_t *rows);
void write_meta(const collect_t *c, rec_writer_t *w, bool heap);
void write_samples(const collect_samples_t *samples, rec_writer_t *w);

#endif
