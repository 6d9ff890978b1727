/* Lines, by elfutils' libdw, and C++'s names, by its library: both are loaded where this machine has them, so that nothing depends
 * on them. One thread. */
#ifndef LOWTIDE_COLLECT_SYMBOLS_LINES_H
#define LOWTIDE_COLLECT_SYMBOLS_LINES_H

#include "base/vec.h"
#include "collect/symbols.h"

#include <stddef.h>
#include <stdint.h>

/* As <elfutils/libdw.h> has them. */
typedef struct symbols_die {
    void *addr, *cu, *abbrev;
    long padding;
} symbols_die_t;
typedef struct symbols_attribute {
    unsigned code, form;
    void *valp, *cu;
} symbols_attribute_t;

typedef struct symbols_tools {
    void *libdw, *libcxx; /* NULL: not here */
    void *(*begin)(int fd, int how);
    int (*end)(void *dwarf);
    int (*nextcu)(void *dwarf, uint64_t at, uint64_t *next, size_t *head, uint64_t *abbrev,
                  uint8_t *address_bytes, uint8_t *offset_bytes);
    void *(*offdie)(void *dwarf, uint64_t at, symbols_die_t *out);
    ptrdiff_t (*ranges)(symbols_die_t *die, ptrdiff_t at, uint64_t *base, uint64_t *begin,
                        uint64_t *end);
    void *(*getsrc_die)(symbols_die_t *unit, uint64_t address);
    const char *(*linesrc)(void *line, uint64_t *changed, uint64_t *bytes);
    int (*lineno)(void *line, int *out);
    int (*getscopes)(symbols_die_t *unit, uint64_t address, symbols_die_t **out);
    int (*getscopes_die)(symbols_die_t *die, symbols_die_t **out);
    int (*tag)(symbols_die_t *die);
    const char *(*diename)(symbols_die_t *die);
    void *(*attr)(symbols_die_t *die, unsigned name, symbols_attribute_t *out);
    void *(*attr_integrate)(symbols_die_t *die, unsigned name, symbols_attribute_t *out);
    const char *(*formstring)(symbols_attribute_t *attribute);
    int (*formudata)(symbols_attribute_t *attribute, uint64_t *out);
    int (*getsrcfiles)(symbols_die_t *unit, void **files, size_t *count);
    const char *(*filesrc)(void *files, size_t i, uint64_t *changed, uint64_t *bytes);
    char *(*demangle)(const char *name, char *to, size_t *room, int *status);
} symbols_tools_t;

void symbols_tools_open(symbols_tools_t *t);
void symbols_tools_close(symbols_tools_t *t);

/* Some addresses of a unit: not every compiler writes a table of them (.debug_aranges), so it is made from the units themselves. */
typedef struct symbols_range {
    uint64_t begin, end, unit;
} symbols_range_t;
VEC_DEFINE(symbols_ranges, symbols_range_t);

/* The debug information of one file. */
typedef struct symbols_lines {
    void *dwarf; /* NULL: none */
    int fd;
    symbols_ranges_t ranges; /* by begin */
} symbols_lines_t;

void symbols_lines_open(const symbols_tools_t *t, symbols_lines_t *l,
                        int fd); /* fd stays the caller's */
void symbols_lines_close(const symbols_tools_t *t, symbols_lines_t *l);
/* Up to SYMBOLS_PLACES_MAX functions, innermost first; how many, 0 where nothing is known. What is not known of one is left empty. */
uint32_t symbols_lines_find(const symbols_tools_t *t, const symbols_lines_t *l, uint64_t address,
                            symbols_place_t *out);

void symbols_demangle(const symbols_tools_t *t, const char *name, char *to, size_t room);

#endif
