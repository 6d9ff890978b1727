#define _GNU_SOURCE
#include "collect/symbols_lines.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *function_of(void *library, const char *name, int *missing) {
    void *f = dlsym(library, name);
    if (!f) *missing = 1;
    return f;
}

static void libdw_open(symbols_tools_t *t) {
    int missing = 0;
    t->libdw = dlopen("libdw.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!t->libdw) return;
    *(void **)&t->begin = function_of(t->libdw, "dwarf_begin", &missing);
    *(void **)&t->end = function_of(t->libdw, "dwarf_end", &missing);
    *(void **)&t->addrdie = function_of(t->libdw, "dwarf_addrdie", &missing);
    *(void **)&t->getsrc_die = function_of(t->libdw, "dwarf_getsrc_die", &missing);
    *(void **)&t->linesrc = function_of(t->libdw, "dwarf_linesrc", &missing);
    *(void **)&t->lineno = function_of(t->libdw, "dwarf_lineno", &missing);
    if (!missing) return;
    dlclose(t->libdw);
    t->libdw = NULL;
}

void symbols_tools_open(symbols_tools_t *t) {
    *t = (symbols_tools_t){0};
    libdw_open(t);
    t->libcxx = dlopen("libstdc++.so.6", RTLD_NOW | RTLD_LOCAL);
    if (t->libcxx) *(void **)&t->demangle = dlsym(t->libcxx, "__cxa_demangle");
}

void symbols_tools_close(symbols_tools_t *t) {
    if (t->libdw) dlclose(t->libdw);
    if (t->libcxx) dlclose(t->libcxx);
    *t = (symbols_tools_t){0};
}

void symbols_lines_open(const symbols_tools_t *t, symbols_lines_t *l, int fd) {
    if (!t->libdw) return;
    l->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    l->dwarf = l->fd >= 0 ? t->begin(l->fd, 0 /* read */) : NULL;
    if (!l->dwarf && l->fd >= 0) close(l->fd);
}

void symbols_lines_close(const symbols_tools_t *t, symbols_lines_t *l) {
    if (!l->dwarf) return;
    t->end(l->dwarf);
    close(l->fd);
    l->dwarf = NULL;
}

void symbols_line_find(const symbols_tools_t *t, const symbols_lines_t *l, uint64_t address,
                       char *file, size_t room, uint32_t *line) {
    symbols_die_t unit;
    int number = 0;
    void *row =
        l->dwarf && t->addrdie(l->dwarf, address, &unit) ? t->getsrc_die(&unit, address) : NULL;
    const char *source = row ? t->linesrc(row, NULL, NULL) : NULL;
    if (!source || t->lineno(row, &number) || number <= 0) return;
    snprintf(file, room, "%s", source);
    *line = (uint32_t)number;
}

void symbols_demangle(const symbols_tools_t *t, const char *name, char *to, size_t room) {
    int status = -1;
    char *plain =
        t->demangle && strncmp(name, "_Z", 2) == 0 ? t->demangle(name, NULL, NULL, &status) : NULL;
    snprintf(to, room, "%s", plain && !status ? plain : name);
    free(plain);
}
