/* The agent: what the shared object lowtide-agent.so does in somebody else's process.
 *
 * Brought in by the injector, or loaded by anybody who has a SOCK_SEQPACKET socketpair, it serves the requests of
 * control/control.h on the thread that calls agent_start, and returns when it is told BYE or the other side is gone. It then
 * holds nothing: no memory, no descriptor, no thread, no hook; the library may be unloaded.
 *
 * It opens files in /proc as it likes, with the GIL or without, and receives descriptors: the injector calls it on a thread with
 * a table of file descriptors of its own, where that takes no number that the program may count on. Code that runs on the
 * program's own threads (a hook, program.c, what lowtide.snapshot() calls) has no such table, and must not use a number from it.
 *
 * Preloaded by `lowtide run`, its constructor makes the first Python process of the program capture its heap when the program
 * ends (program.h).
 */
#ifndef LOWTIDE_AGENT_AGENT_H
#define LOWTIDE_AGENT_AGENT_H

/* The thread should have all signals blocked and at least 256 KiB of stack, and must not hold the GIL. fd stays the
 * caller's. Returns 0, or the negative errno that ended the talk. One at a time a process. */
__attribute__((visibility("default"))) int agent_start(int fd);

#endif
