/* The ledger's tables of a recording (docs/format.md): ledger, arenas, heaps, mappings. */
#ifndef LOWTIDE_AGENT_LEDGER_LEDGER_WRITE_H
#define LOWTIDE_AGENT_LEDGER_LEDGER_WRITE_H

#include "agent/ledger/ledger.h"
#include "format/rec_writer.h"

/* Read whole, and not freed. Errors stick to the writer. */
void ledger_write(const ledger_t *l, rec_writer_t *w);

#endif
