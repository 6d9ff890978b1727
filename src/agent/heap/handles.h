/* Objects that stand for something of the system's: told in passing, so that who lists a process's resources knows who holds them.
 *
 * Those made in C by the layout they have had since 3.11, Python's own classes by their attributes. What is closed, ended
 * or not started yet is not told.
 */
#ifndef LOWTIDE_HEAP_HANDLES_H
#define LOWTIDE_HEAP_HANDLES_H

#include "agent/heap/kinds.h"

/* What the instances of a type are; HEAP_HANDLE_NONE for nearly all. */
enum heap_handle_kind handle_find(walk_t *k, const kind_t *t);
/* Tells k->options->handle of the object, if it is open. */
void handle_tell(walk_t *k, const kind_t *t, rt_addr_t object);

#endif
