/* What the process has of the system beside memory, for the table `resources` (docs/format.md): descriptors, threads, children,
 * mappings, database cursors; which object holds each, and where it was opened.
 *
 *     resources_read_descriptors   before a forked child closes what it inherited     some µs each
 *     resources_handle             told by the walk of the heap (heap.h)
 *     resources_read_threads       after the walk
 *     resources_write              the table
 *
 * All in the forked child of a capture, or in place with the GIL held. No malloc, no lock, no stdio streams; memory is mapped.
 * Bounded: RESOURCES_MAX rows, what is beyond is counted. What cannot be read is left out.
 */
#ifndef LOWTIDE_AGENT_RESOURCES_H
#define LOWTIDE_AGENT_RESOURCES_H

#include "agent/heap/heap.h"
#include "base/vec.h"
#include "format/rec_table.h"

enum { RESOURCES_MAX = 65536 };

typedef struct resource {
    const char *kind;
    int64_t number; /* descriptor, PID or TID; -1: none */
    uint64_t ident; /* of a thread */
    rt_addr_t address, block;
    uint64_t bytes;
    uint32_t name, note; /* in texts */
    bool running;        /* of a thread's object: it has not ended, as far as one can tell */
} resource_t;
VEC_DEFINE(resource_vec, resource_t);
VEC_DEFINE(resource_texts, char);

/* Zeroed by the caller. */
typedef struct resources {
    resource_vec_t rows;
    resource_texts_t texts; /* zero-terminated; 0 is "" */
    uint32_t descriptors;   /* rows of them, which stand first, by number */
    uint64_t beyond;
    resource_vec_t threads; /* Thread objects, alive or not, until they are matched */
} resources_t;

/* of: 0 for this thread's table of descriptors, or a PID for that of its main thread: an agent's thread has one of its own. ours,
 * peer: descriptors of this thread whose files are not told; -1: none. */
void resources_read_descriptors(resources_t *r, uint32_t of, int ours, int peer);
/* arg: a resources_t. */
void resources_handle(void *arg, const heap_handle_t *h);
/* of: 0 for this process, or the parent's PID in a forked child. hide_tid: the agent's own thread. */
void resources_read_threads(resources_t *r, const rt_t *rt, uint32_t of, uint64_t hide_tid);
void resources_write(const resources_t *r, rec_writer_t *w);
void resources_free(resources_t *r);

/* For the files of this room: NULL where there is no room. */
resource_t *resources_add(resources_t *r, const char *kind, int64_t number);
uint32_t resources_text(resources_t *r, const char *text);

#endif
