/* Pseudo-objects: the runtime, interpreters, threads, their frames, and other holders in C.
 *
 *     runtime ─┬─ interpreter ─┬─ thread ── frame, frame …      each frame hangs from its thread
 *              │               ├─ modules, builtins, codecs …   one labelled root each
 *              │               └─ type cache, atexit …          arrays: a holder of their own
 *              └─ signal handlers, static objects …
 */
#ifndef LOWTIDE_HEAP_ROOTS_H
#define LOWTIDE_HEAP_ROOTS_H

#include "agent/heap/walk.h"

/* Learns what the walk needs before it begins: main interpreter, interned strings, threads' names, frozen objects. */
void roots_prepare(walk_t *k);
/* Writes the pseudo-object at hand. */
void roots_write(walk_t *k, unsigned tag);

#endif
