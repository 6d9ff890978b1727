/* `lowtide run`: the agent preloaded into a program, to capture its heap when it ends.
 *
 *     lowtide run                          the program
 *     LD_PRELOAD, $LOWTIDE_RUN ──────────▶ constructor: not Python? then nothing, and a child may be one.
 *                                          Python: takes both out of the environment, adds an audit hook
 *              ◀── HELLO program begins ── at cpython.run_…: registers with atexit
 *              ◀── HELLO program ends ──── atexit, in the main thread with the GIL, before anything is torn down
 *     CAPTURE + descriptor ──────────────▶ captures; the program goes on to end
 *
 * So it is also captured after sys.exit and an unhandled exception, and not after os._exit, exec or a signal that kills.
 * Children that the program forks or starts are left alone. Nothing stays open in between.
 *
 * $LOWTIDE_RUN is "key:name:agent": the key to say, the abstract socket's name, and the agent's path as it stands first in
 * LD_PRELOAD.
 */
#ifndef LOWTIDE_AGENT_PROGRAM_H
#define LOWTIDE_AGENT_PROGRAM_H

#define PROGRAM_VARIABLE "LOWTIDE_RUN"

#endif
