/* Walks the whole heap of this process into a recording.
 *
 * Breadth-first from object 0, the runtime: interpreters, what they hold, threads, frames, and from there every object,
 * whether the collector tracks it or not. When nothing reachable is left, the objects on the collector's lists that were not
 * mentioned follow. An object's id is the order of its first mention (docs/format.md).
 *
 * It runs in a raw-cloned child of the target, made while the caller held the GIL, or in place with the GIL held. It takes no
 * malloc, no lock, changes no reference count and no GC head, and runs no Python code; memory comes from mem_map. Between
 * rt_refresh and the end of the walk nothing may load or unload a library.
 *
 *     rt_prove(&rt, &e); rt_refresh(&rt, &e);            GIL held
 *     clone → rec_open(&w, fd, …); rec_meta(w, …) …
 *     heap_capture(&rt, &options, w, &stats, &e);
 *     rec_close(w, stats.reached, stats.skipped, &e);
 *
 * While it walks, SIGSEGV and SIGBUS of this thread are its own: an object whose C code or memory faults is marked skipped and
 * the walk goes on. The handlers found are put back at the end.
 *
 * Names it writes (value kind 6): a module's name; a type's `module.qualname` (builtins bare); a function's qualname; a code
 * object's and a frame's qualname␟file␟line; a thread's name.
 */
#ifndef LOWTIDE_AGENT_HEAP_H
#define LOWTIDE_AGENT_HEAP_H

#include "agent/runtime/runtime.h"
#include "base/err.h"
#include "format/rec_writer.h"

#include <stdbool.h>
#include <stdint.h>

/* An object that stands for something of the system's, and is open (handles.h). */
enum heap_handle_kind {
    HEAP_HANDLE_NONE,
    HEAP_HANDLE_DESCRIPTOR, /* number: of the descriptor */
    HEAP_HANDLE_MAPPING,    /* number: where it begins; bytes */
    HEAP_HANDLE_CONNECTION, /* sqlite3's */
    HEAP_HANDLE_CURSOR,
    HEAP_HANDLE_CHILD, /* not waited for; number: its PID */
    HEAP_HANDLE_THREAD /* number: threading.get_ident() */
};
enum { HEAP_HANDLE_NAME = 64 };
typedef struct heap_handle {
    enum heap_handle_kind kind;
    rt_addr_t address, block; /* of the object, and of its memory with what stands in front */
    uint64_t number, bytes;
    bool daemon,
        running; /* of a thread; running: its function has not returned, as far as one can tell */
    char name[HEAP_HANDLE_NAME]; /* of a thread */
} heap_handle_t;

typedef struct heap_options {
    bool values;       /* false: only namespace keys are written, no other contents */
    uint64_t hide_tid; /* Linux TID of a thread that is the agent's own: left out; 0: none */
    /* Asked every few thousand objects; not 0 (a negative errno) ends the walk with it. May be NULL. */
    int (*tick)(void *arg, uint64_t objects);
    void *tick_arg;
    /* Does a profile know the block at that address? May be wrong in saying so. May be NULL: there is none. */
    bool (*known)(uintptr_t block);
    /* So many bytes of a mapping of the program's, or of a large block, are address space that nobody ever touched, and no memory. Asked once
     * of each. May be NULL: all is memory. */
    uint64_t (*untouched)(void *arg, uintptr_t begin, uint64_t bytes, bool mapping);
    void *untouched_arg;
    /* Told of each handle, in the middle of the walk: must not fault. May be NULL. */
    void (*handle)(void *arg, const heap_handle_t *h);
    void *handle_arg;
} heap_options_t;

typedef struct heap_stats {
    uint64_t objects;    /* pseudo-objects among them */
    uint64_t references; /* NULL ones not counted */
    uint32_t reached;    /* first id found on the collector's lists alone: for rec_close */
    uint64_t skipped;    /* objects whose references could not be read */
    uint64_t nonsense;   /* references that cannot be addresses; written as none */
    uint64_t shallow_bytes, buffer_bytes;
    uint32_t types;
    uint32_t walk_ms;
} heap_stats_t;

/* 0; -ENOMEM; or the writer's first error. The writer stays the caller's to close, also after an error. */
int heap_capture(const rt_t *rt, const heap_options_t *options, rec_writer_t *w,
                 heap_stats_t *stats, err_t *e);

#endif
