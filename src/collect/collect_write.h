/* The recorder's tables, as docs/format.md lists them. */
#ifndef LOWTIDE_COLLECT_COLLECT_WRITE_H
#define LOWTIDE_COLLECT_COLLECT_WRITE_H

#include "collect/collect.h"

void write_samples(const collect_samples_t *samples, rec_writer_t *w);

/* Appends to the live file what changed since the last time, and says in live_us when to do so again. */
void write_live(collect_t *c);

#endif
