/* What somebody may have meant who asked for something that is not there. */
#ifndef LOWTIDE_EXPLAIN_FIND_NEAR_H
#define LOWTIDE_EXPLAIN_FIND_NEAR_H

#include "explain/model_data.h"

/* Says in one line that nothing is called so, and what comes near: names of the same spelling or nearly so in any module,
 * and a type whose name begins so. Always -ENOENT, unless reading failed. */
int find_near(const model_t *m, const char *what, err_t *e);

#endif
