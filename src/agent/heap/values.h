/* What is written of an object's contents, for names in paths and for reading: prefixes, numbers, names. */
#ifndef LOWTIDE_HEAP_VALUES_H
#define LOWTIDE_HEAP_VALUES_H

#include "agent/heap/kinds.h"

/* Writes the value of the object just begun, if it has one. */
void value_write(walk_t *k, const kind_t *t, rt_addr_t object);
/* Marks the keys of a namespace: they are written in full, and with values off they alone are. */
void value_mark_name(walk_t *k, uint32_t id);
/* With values off, before the walk: a key may be written long before the namespace that shows it to be a name. */
void value_find_names(walk_t *k);
/* With values on, before the walk: whose code a module is its file's whole path may tell. */
void value_find_paths(walk_t *k);
/* Text of a frame or code object, in k->text: qualname␟file␟line. */
size_t value_code_text(walk_t *k, rt_addr_t code, int32_t line);

#endif
