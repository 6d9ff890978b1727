/* What C functions are called, and on which lines their calls stand: from the symbol tables and debug information of the libraries,
 * after the fact.
 *
 * A library is looked for by its path, as the process sees it or as we do, and a file that was built otherwise (another build id) is
 * not believed; where it has no full symbol table, the distribution's is looked for (/usr/lib/debug/.build-id). Symbols are read
 * here. Lines need elfutils' libdw and C++'s names the C++ library: they are loaded where they are, and else done without.
 *
 * One thread. Files are whoever's: every number in them is checked.
 */
#ifndef LOWTIDE_COLLECT_SYMBOLS_H
#define LOWTIDE_COLLECT_SYMBOLS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct symbols symbols_t;

symbols_t *symbols_new(void); /* NULL: no memory */
void symbols_free(symbols_t *s);

typedef struct symbols_place {
    char function[512]; /* "" where it has no name */
    char file[1024];    /* the source file; "" where nothing is told */
    uint32_t line;      /* 0: not known */
} symbols_place_t;

/* address: as the library's symbol table counts. build_id: in hex, or "" to believe any file at `path`. */
void symbols_find(symbols_t *s, pid_t pid, const char *path, const char *build_id, uint64_t address,
                  symbols_place_t *out);

#endif
