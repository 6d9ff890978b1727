/* CPython's C API for tracing other memory (PyTraceMalloc_Track, PyTraceMalloc_Untrack), which NumPy calls for its arrays, leads to
 * the interpreter's own tracer. While ours is on the calls of all extension modules come to trace_track and trace_untrack instead, by
 * their global offset tables (alloc_got.h); modules that are loaded later are patched when their first function is looked up.
 * Calls from within the interpreter itself, which has none, would not be seen. */
#ifndef LOWTIDE_TRACE_INTERPOSE_H
#define LOWTIDE_TRACE_INTERPOSE_H

#include "agent/trace/trace.h"

/* The caller holds the GIL. Where the system forbids it, Python's own blocks are traced all the same. */
void interpose_in(trace_traceback_fn *traceback);
void interpose_out(void);

#endif
