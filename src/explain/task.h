/* What asyncio and generators run on: tasks, and functions that are suspended in the middle.
 *
 * A path that leads through one of them is said by it, not by what happens to hold it:
 * `task 'worker-3' > crawl() > rows`, `thread MainThread > main() > rows`.
 */
#ifndef LOWTIDE_EXPLAIN_TASK_H
#define LOWTIDE_EXPLAIN_TASK_H

#include "base/strbuf.h"
#include "explain/model_data.h"

bool task_is(const model_t *m, uint32_t id);
/* The name that asyncio shows ("worker-3", "Task-7"); nothing is put where it is not known. */
int task_put_name(const model_t *m, uint32_t id, strbuf_t *out, err_t *e);

/* A generator, coroutine or asynchronous generator. */
bool suspended_is(const model_t *m, uint32_t id);
int suspended_put_name(const model_t *m, uint32_t id, strbuf_t *out, err_t *e); /* "crawl()" */

#endif
