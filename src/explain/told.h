/* Names of references that only tp_traverse tells of: the fields of extension types show in no structure that we know, but of a few types
 * that hold much memory it is known by which attribute each is had, and told apart by what it is. */
#ifndef LOWTIDE_EXPLAIN_TOLD_H
#define LOWTIDE_EXPLAIN_TOLD_H

#include "explain/model_data.h"

/* The attribute of `from` that is `to`; NULL where that is not known. */
const char *told_name(const model_t *m, uint32_t from, uint32_t to);
/* The other way round; LOWTIDE_NONE: nothing is known by that name. 0 or a status. */
int told_find(const model_t *m, uint32_t from, const char *name, size_t bytes, uint32_t *out,
              err_t *e);

#endif
