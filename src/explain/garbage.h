/* How much of a heap nobody holds: the graph and a walk of it, without dominators, names or types. */
#ifndef LOWTIDE_EXPLAIN_GARBAGE_H
#define LOWTIDE_EXPLAIN_GARBAGE_H

#include "base/err.h"
#include "lowtide/recording.h"

/* 0 or a negative errno. */
int garbage_bytes(const lowtide_recording *rec, uint64_t *bytes, err_t *e);

#endif
