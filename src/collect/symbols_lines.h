/* Lines, by elfutils' libdw, and C++'s names, by its library: both are loaded where this machine has them, so that nothing depends
 * on them. One thread. */
#ifndef LOWTIDE_COLLECT_SYMBOLS_LINES_H
#define LOWTIDE_COLLECT_SYMBOLS_LINES_H

#include <stddef.h>
#include <stdint.h>

/* As <elfutils/libdw.h> has it. */
typedef struct symbols_die {
    void *addr, *cu, *abbrev;
    long padding;
} symbols_die_t;

typedef struct symbols_tools {
    void *libdw, *libcxx; /* NULL: not here */
    void *(*begin)(int fd, int how);
    int (*end)(void *dwarf);
    void *(*addrdie)(void *dwarf, uint64_t address, symbols_die_t *unit);
    void *(*getsrc_die)(symbols_die_t *unit, uint64_t address);
    const char *(*linesrc)(void *line, uint64_t *changed, uint64_t *bytes);
    int (*lineno)(void *line, int *out);
    char *(*demangle)(const char *name, char *to, size_t *room, int *status);
} symbols_tools_t;

void symbols_tools_open(symbols_tools_t *t);
void symbols_tools_close(symbols_tools_t *t);

/* The debug information of one file. */
typedef struct symbols_lines {
    void *dwarf; /* NULL: none */
    int fd;
} symbols_lines_t;

void symbols_lines_open(const symbols_tools_t *t, symbols_lines_t *l,
                        int fd); /* fd stays the caller's */
void symbols_lines_close(const symbols_tools_t *t, symbols_lines_t *l);
/* Leaves what it does not know as it is. */
void symbols_line_find(const symbols_tools_t *t, const symbols_lines_t *l, uint64_t address,
                       char *file, size_t room, uint32_t *line);

void symbols_demangle(const symbols_tools_t *t, const char *name, char *to, size_t room);

#endif
