/* "thread MainThread > main() > rows": what a local of a running function leads to.
 */
#ifndef LOWTIDE_EXPLAIN_FIND_LOCAL_H
#define LOWTIDE_EXPLAIN_FIND_LOCAL_H

#include "explain/model_data.h"

/* Reads such words from *at on and moves it behind them. -ENOENT: they are no such words, or lead to
 * nothing. Where a function runs more than once, its last call that has the local counts. */
int find_local(const model_t *m, const char **at, const char *end, uint32_t *id, err_t *e);

#endif
