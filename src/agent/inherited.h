/* The copies of the agent that a forked child has from its parent.
 *
 * A process that is forked while an agent is in it inherits the agent's code and its hooks, but not its thread. The copy then follows
 * the child, or its hooks count nothing (call_forked); either way nobody in the child will ever take it out. So a later agent does,
 * which comes into that child:
 *
 *     the copy, orphaned by fork                       a younger agent, on its own thread
 *     agent_leave: hooks out, nobody inside  ◀──────── inherited_leave
 *     unmapped                               ◀──────── dlclose
 */
#ifndef LOWTIDE_AGENT_INHERITED_H
#define LOWTIDE_AGENT_INHERITED_H

#include "base/err.h"

#include <stddef.h>

/* Takes them out. The caller does not hold the GIL. 0 where there is none; else what one of them that stays said: -EALREADY it is
 * another lowtide's, which watches, -EINPROGRESS it waits for the GIL to take its hooks out, and where none says that -EAGAIN
 * another lowtide's, or why its hooks stay. */
int inherited_leave(err_t *e);

/* What a copy exports: takes its hooks out if it is orphaned; else, with a line, it leaves things as they are. INHERITED_STAYS: its
 * hooks are out, and a thread of its own waits for the last who is inside of them. */
enum { INHERITED_STAYS = 1 };
#define INHERITED_LEAVE "agent_leave"
typedef int inherited_leave_fn(char *text, size_t room);

#endif
