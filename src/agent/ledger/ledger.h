/* The ledger: where every resident byte of this process is, in lines that add up to what /proc/self/smaps says.
 *
 *     ledger_prepare       no GIL        takes the loader's lock, and that of another malloc than glibc's: never in a forked child
 *     ledger_read_python   GIL held      pymalloc's books, frames           some ms a GB
 *     ledger_read_system   no GIL        smaps, libc's heaps, thread stacks; adds up
 *     ledger_free          no GIL
 *
 * The last two may as well run in a child that was forked while the GIL was held: it reads its own copy of the books, and its
 * parent's smaps. Each mapping's resident bytes are handed to lines one after the other, and what no line asks for goes to
 * "unexplained": so the sum is exact whatever happens between the calls. Swap and huge pages are told apart, for they are no part
 * of the sum, or within it.
 *
 * ledger_t is big: mapped, or of the caller's, and zeroed. No malloc, no stdio streams. One thread at a time.
 */
#ifndef LOWTIDE_AGENT_LEDGER_LEDGER_H
#define LOWTIDE_AGENT_LEDGER_LEDGER_H

#include "agent/free/libc_trim.h"
#include "agent/ledger/pools.h"
#include "agent/runtime/runtime.h"
#include "base/err.h"

enum { LEDGER_LINES = 48, LEDGER_NAME_BYTES = 120, LEDGER_NOTE_BYTES = 320 };

typedef struct ledger_line {
    char name[LEDGER_NAME_BYTES];
    uint64_t bytes, returnable_bytes;
    char note[LEDGER_NOTE_BYTES]; /* "" or one line */
} ledger_line_t;

/* One heap of glibc's. */
typedef struct ledger_heap {
    uintptr_t address;
    bool main; /* the program break; else of a thread's arena */
    uint64_t bytes, resident_bytes, free_bytes, top_bytes, returnable_bytes;
} ledger_heap_t;
VEC_DEFINE(ledger_heaps, ledger_heap_t);

/* A mapping, or a large block of malloc's, that some object may own. */
typedef struct ledger_mapping {
    uintptr_t begin, end;
    uint64_t resident_bytes; /* of it, what its line has */
    const char *line;
} ledger_mapping_t;
VEC_DEFINE(ledger_mappings, ledger_mapping_t);

typedef struct ledger {
    ledger_line_t lines
        [LEDGER_LINES]; /* those of 0 bytes are left out; "unexplained" is last, and always there */
    uint32_t count;
    uint64_t rss_bytes; /* the sum of the lines */
    uint64_t swap_bytes, huge_bytes;
    pools_t pools;
    ledger_heaps_t heaps;
    ledger_mappings_t mappings; /* by address */
    const rt_t *rt;
    bool glibc, has_books; /* has_books: of another malloc, told by itself */
    libc_books_t books;
    char malloc_name[24],
        python[4096]; /* whose malloc it is; the file that holds the interpreter */
} ledger_t;

int ledger_prepare(ledger_t *l, rt_t *rt, err_t *e);

/* The runtime proven. What cannot be read is a note, not an error. */
int ledger_read_python(ledger_t *l, rt_t *rt, err_t *e);
/* of: 0 for this process, or the parent's PID in a forked child. */
int ledger_read_system(ledger_t *l, uint32_t of, err_t *e);
/* Does this address lie in one of the mappings? */
bool ledger_in_mapping(const ledger_t *l, uintptr_t address);
/* What the calls took; in any case, and before ledger_t is used again. */
void ledger_free(ledger_t *l);

#endif
