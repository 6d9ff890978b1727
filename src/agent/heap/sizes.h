/* Shallow sizes: what sys.getsizeof would say, without asking Python code, and what it leaves out. */
#ifndef LOWTIDE_HEAP_SIZES_H
#define LOWTIDE_HEAP_SIZES_H

#include "agent/heap/kinds.h"

/* Chooses t->size_rule, t->size_of and t->pre_header. */
void size_choose(walk_t *k, kind_t *t);
/* Bytes of an object's own blocks. Adds to k->buffer what it owns beyond (array data …). */
uint64_t size_measure(walk_t *k, const kind_t *t, rt_addr_t object);
/* tp_basicsize + |ob_size| · tp_itemsize; a str's; a dict's; what the C function behind `__sizeof__` says: all without what stands
 * in front of the object. */
uint64_t size_basic(const walk_t *k, const kind_t *t, rt_addr_t object);
uint64_t size_str(const walk_t *k, rt_addr_t str);
uint64_t size_dict(const walk_t *k, const kind_t *t, rt_addr_t dict);
uint64_t size_call(walk_t *k, const kind_t *t, rt_addr_t object);
/* Notes a dict's table, and its values where they are a block of their own. */
void size_note_dict(walk_t *k, rt_addr_t dict);
/* Bytes of the array of inline values of instances whose shared keys these are. */
uint32_t size_inline_values(const walk_t *k, rt_addr_t keys);

#endif
