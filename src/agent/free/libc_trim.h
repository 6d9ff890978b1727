/* Giving back what the process's malloc holds free, by that allocator's own means, and by no other's: malloc_trim on a process
 * whose malloc is jemalloc's may crash it. Who provides malloc is asked of the dynamic loader.
 *
 *     glibc       malloc_trim(0), which goes over all arenas; their tops after it (arena_tops.h)
 *     jemalloc    mallctl("arena.4096.purge") (MALLCTL_ARENAS_ALL)
 *     mimalloc    mi_collect(true), which goes over the calling thread's heap
 *     tcmalloc    MallocExtension_ReleaseFreeMemory
 *     others      named, and left alone
 *
 * No GIL needed. It takes the allocator's locks, an arena at a time: never in a forked child.
 */
#ifndef LOWTIDE_AGENT_FREE_LIBC_TRIM_H
#define LOWTIDE_AGENT_FREE_LIBC_TRIM_H

#include <stdbool.h>
#include <stdint.h>

enum libc_kind { LIBC_OTHER, LIBC_GLIBC, LIBC_JEMALLOC, LIBC_MIMALLOC, LIBC_TCMALLOC };

typedef struct libc_found {
    int kind;          /* libc_kind */
    char name[24];     /* "glibc", "jemalloc", … */
    char library[256]; /* where malloc is from, for a note; may be cut */
    void *release;     /* the allocator's own function, NULL for others */
    void *
        tell; /* where its books are asked, NULL: it keeps none, or they are read otherwise (heaps.h) */
} libc_found_t;

/* What jemalloc or tcmalloc says of itself. */
typedef struct libc_books {
    uint64_t allocated_bytes, resident_bytes; /* in use; held for that, its own tables among it */
    uint64_t returnable_bytes;                /* resident, and libc_trim gives them back */
} libc_books_t;

/* Takes the loader's lock. */
void libc_find(libc_found_t *f);
void libc_trim(const libc_found_t *f);
/* False where it keeps no books. Takes the allocator's locks, too. */
bool libc_read_books(const libc_found_t *f, libc_books_t *out);

#endif
