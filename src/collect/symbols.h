/* What C functions are called, and on which lines their calls stand: from the symbol tables and debug information of the libraries,
 * while a program is recorded or after the fact, on any machine.
 *
 * A library is looked for by its path, as the process sees it or as we do, and its debug information apart, by its build id: in the
 * directories that were given, then in /usr/lib/debug. A file that was built otherwise (another build id) is not believed. Symbols are
 * read here. Lines need elfutils' libdw and C++'s names the C++ library: they are loaded where they are, and else done without.
 *
 * One thread. Files are whoever's: every number in them is checked.
 */
#ifndef LOWTIDE_COLLECT_SYMBOLS_H
#define LOWTIDE_COLLECT_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct symbols symbols_t;

/* debug_path: directories with colons between (DIR/.build-id/xx/yyy.debug, DIR/xx/yyy.debug, DIR/NAME.debug and DIR/NAME are looked
 * for); NULL: what LOWTIDE_DEBUG_PATH says. NULL is returned where there is no memory. */
symbols_t *symbols_new(const char *debug_path);
void symbols_free(symbols_t *s);
bool symbols_have_lines(const symbols_t *s); /* libdw is here */

enum { SYMBOLS_PLACES_MAX = 16 };
typedef struct symbols_place {
    char function[512]; /* "" where it has no name */
    char file[1024];    /* the source file; "" where nothing is told */
    uint32_t line;      /* 0: not known */
} symbols_place_t;

/* The functions at an address, innermost first, each inlined into the next; how many, 0 where nothing is known. `out` has room for
 * SYMBOLS_PLACES_MAX. address: as the library's symbol table counts. build_id: in hex, or "" to believe any file at `path`. pid: whose
 * view of the files is tried after ours; 0: nobody's. */
uint32_t symbols_find(symbols_t *s, pid_t pid, const char *path, const char *build_id,
                      uint64_t address, symbols_place_t *out);

#endif
