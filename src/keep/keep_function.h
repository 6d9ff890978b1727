/* What @lowtide.cache makes of a function: functools.lru_cache's wrapper over a keep_store. */
#ifndef KEEP_FUNCTION_H
#define KEEP_FUNCTION_H

#include "keep/keep_compat.h"

extern PyTypeObject keep_function_type;
int keep_function_ready(void);

#endif
