/* The forked child that walks: how it is made, and how it comes to be nobody's nuisance.
 *
 * It has one thread, the locks of its parent as they happened to be, and a copy of its memory. What runs in it uses no
 * malloc and no lock.
 */
#ifndef LOWTIDE_AGENT_CHILD_H
#define LOWTIDE_AGENT_CHILD_H

#include "control/control.h"

#include <sys/types.h>

/* Clones with exit signal 0 and runs work(arg) in the child, which then ends. Returns the child's PID, to be reaped with
 * __WALL, or a negative errno. Every descriptor but keep and peer (either may be -1) is closed in the child, after look(arg) has
 * seen them (NULL: nobody looks). Its soft limits on memory are raised to the hard ones: a walk needs tables of its own. */
pid_t child_start(void (*look)(void *arg), void (*work)(void *arg), void *arg, int keep, int peer);

/* In the child, first of all: goes on in a child of its own, that nobody has to reap; the first one ends, with 0 where that
 * went well. */
void child_leave(void);

/* In the child: its parent is gone, so nobody reads the shared page: says it on `peer`. */
void child_report_if_orphan(const ctl_result_t *result);

#endif
