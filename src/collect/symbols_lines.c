#define _GNU_SOURCE
#include "collect/symbols_lines.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of <dwarf.h>, which needs not be here. */
enum {
    TAG_ENTRY_POINT = 0x03,
    TAG_INLINED = 0x1d,
    TAG_FUNCTION = 0x2e,
    AT_CALL_FILE = 0x58,
    AT_CALL_LINE = 0x59,
    AT_LINKAGE_NAME = 0x6e,
};
enum { UNITS_MAX = 1 << 20, RANGES_MAX = 1 << 22 };

static bool libdw_functions(symbols_tools_t *t) {
    const struct {
        const char *name;
        void *to;
    } wanted[] = {
        {"begin", &t->begin},
        {"end", &t->end},
        {"nextcu", &t->nextcu},
        {"offdie", &t->offdie},
        {"ranges", &t->ranges},
        {"getsrc_die", &t->getsrc_die},
        {"linesrc", &t->linesrc},
        {"lineno", &t->lineno},
        {"getscopes", &t->getscopes},
        {"getscopes_die", &t->getscopes_die},
        {"tag", &t->tag},
        {"diename", &t->diename},
        {"attr", &t->attr},
        {"attr_integrate", &t->attr_integrate},
        {"formstring", &t->formstring},
        {"formudata", &t->formudata},
        {"getsrcfiles", &t->getsrcfiles},
        {"filesrc", &t->filesrc},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "dwarf_%s", wanted[i].name);
        void *function = dlsym(t->libdw, name);
        if (!function) return false;
        memcpy(wanted[i].to, &function, sizeof function);
    }
    return true;
}

void symbols_tools_open(symbols_tools_t *t) {
    *t = (symbols_tools_t){0};
    t->libdw = dlopen("libdw.so.1", RTLD_NOW | RTLD_LOCAL);
    if (t->libdw && !libdw_functions(t)) {
        dlclose(t->libdw);
        t->libdw = NULL;
    }
    t->libcxx = dlopen("libstdc++.so.6", RTLD_NOW | RTLD_LOCAL);
    if (t->libcxx) *(void **)&t->demangle = dlsym(t->libcxx, "__cxa_demangle");
}

void symbols_tools_close(symbols_tools_t *t) {
    if (t->libdw) dlclose(t->libdw);
    if (t->libcxx) dlclose(t->libcxx);
    *t = (symbols_tools_t){0};
}

/* ── Units ── */

static int range_order(const void *a, const void *b) {
    const symbols_range_t *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static void take_ranges(const symbols_tools_t *t, void *dwarf, symbols_ranges_t *ranges) {
    uint64_t at = 0, next;
    size_t head;
    for (int i = 0; i < UNITS_MAX; i++, at = next) {
        symbols_die_t unit;
        uint64_t base, begin, end;
        ptrdiff_t place = 0;
        if (t->nextcu(dwarf, at, &next, &head, NULL, NULL, NULL) || next <= at) return;
        if (!t->offdie(dwarf, at + head, &unit)) continue;
        while ((place = t->ranges(&unit, place, &base, &begin, &end)) > 0) {
            const symbols_range_t range = {begin, end, at + head};
            /* What the linker threw away lies at 0. */
            if (!begin || begin >= end) continue;
            if (ranges->count >= RANGES_MAX || symbols_ranges_push(ranges, range)) return;
        }
    }
}

void symbols_lines_open(const symbols_tools_t *t, symbols_lines_t *l, int fd) {
    if (!t->libdw) return;
    l->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    l->dwarf = l->fd >= 0 ? t->begin(l->fd, 0 /* read */) : NULL;
    if (!l->dwarf) {
        if (l->fd >= 0) close(l->fd);
        return;
    }
    take_ranges(t, l->dwarf, &l->ranges);
    if (l->ranges.count) qsort(l->ranges.at, l->ranges.count, sizeof(symbols_range_t), range_order);
}

void symbols_lines_close(const symbols_tools_t *t, symbols_lines_t *l) {
    if (!l->dwarf) return;
    t->end(l->dwarf);
    close(l->fd);
    symbols_ranges_free(&l->ranges);
    *l = (symbols_lines_t){0};
}

/* Ranges of honest files do not overlap: the nearest that begins before it. */
static bool unit_at(const symbols_tools_t *t, const symbols_lines_t *l, uint64_t address,
                    symbols_die_t *out) {
    size_t low = 0, high = l->ranges.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (l->ranges.at[middle].begin <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && address < l->ranges.at[low - 1].end &&
           t->offdie(l->dwarf, l->ranges.at[low - 1].unit, out);
}

/* ── Functions and lines ── */

static void name_function(const symbols_tools_t *t, symbols_die_t *die, symbols_place_t *out) {
    symbols_attribute_t attribute;
    const char *linkage =
        t->attr_integrate(die, AT_LINKAGE_NAME, &attribute) ? t->formstring(&attribute) : NULL;
    const char *plain = t->diename(die);
    if (linkage && (t->demangle || !plain))
        symbols_demangle(t, linkage, out->function, sizeof out->function);
    else if (plain)
        snprintf(out->function, sizeof out->function, "%s", plain);
}

static void line_of(const symbols_tools_t *t, symbols_die_t *unit, uint64_t address,
                    symbols_place_t *out) {
    int number = 0;
    void *row = t->getsrc_die(unit, address);
    const char *source = row ? t->linesrc(row, NULL, NULL) : NULL;
    if (!source || t->lineno(row, &number) || number <= 0) return;
    snprintf(out->file, sizeof out->file, "%s", source);
    out->line = (uint32_t)number;
}

/* Where the code of an inlined function would have been called. */
static void line_of_call(const symbols_tools_t *t, symbols_die_t *unit, symbols_die_t *inlined,
                         symbols_place_t *out) {
    symbols_attribute_t attribute;
    uint64_t file, line;
    void *files;
    size_t count;
    if (!t->attr(inlined, AT_CALL_LINE, &attribute) || t->formudata(&attribute, &line) || !line ||
        line > UINT32_MAX || !t->attr(inlined, AT_CALL_FILE, &attribute) ||
        t->formudata(&attribute, &file) || t->getsrcfiles(unit, &files, &count) || file >= count)
        return;
    const char *source = t->filesrc(files, file, NULL, NULL);
    if (!source) return;
    snprintf(out->file, sizeof out->file, "%s", source);
    out->line = (uint32_t)line;
}

/* From the scope outwards, in the code as it lies: each function, and where what was inlined into it is called. */
static uint32_t take_chain(const symbols_tools_t *t, symbols_die_t *unit, symbols_die_t *scopes,
                           int count, symbols_place_t *out) {
    uint32_t taken = 0;
    for (int i = 0; i < count && taken < SYMBOLS_PLACES_MAX; i++) {
        int tag = t->tag(&scopes[i]);
        bool inlined = tag == TAG_INLINED;
        if (!inlined && tag != TAG_FUNCTION && tag != TAG_ENTRY_POINT) continue;
        name_function(t, &scopes[i], &out[taken++]);
        if (!inlined) break;
        if (taken < SYMBOLS_PLACES_MAX) line_of_call(t, unit, &scopes[i], &out[taken]);
    }
    return taken;
}

uint32_t symbols_lines_find(const symbols_tools_t *t, const symbols_lines_t *l, uint64_t address,
                            symbols_place_t *out) {
    symbols_die_t unit, *scopes = NULL, *around = NULL;
    uint32_t taken = 0;
    memset(out, 0, sizeof *out * SYMBOLS_PLACES_MAX);
    if (!l->dwarf || !unit_at(t, l, address, &unit)) return 0;
    line_of(t, &unit, address, out);
    int count = t->getscopes(&unit, address, &scopes), i = 0;
    while (i < count && t->tag(&scopes[i]) != TAG_INLINED && t->tag(&scopes[i]) != TAG_FUNCTION)
        i++;
    if (i < count && t->tag(&scopes[i]) == TAG_INLINED) {
        /* What getscopes tells beyond it is where it was written; wanted is where it lies. */
        int more = t->getscopes_die(&scopes[i], &around);
        taken = take_chain(t, &unit, around, more, out);
        free(around);
    } else if (i < count) {
        taken = take_chain(t, &unit, scopes + i, count - i, out);
    }
    if (count > 0) free(scopes);
    return taken ? taken : out->line > 0;
}

void symbols_demangle(const symbols_tools_t *t, const char *name, char *to, size_t room) {
    int status = -1;
    char *plain =
        t->demangle && strncmp(name, "_Z", 2) == 0 ? t->demangle(name, NULL, NULL, &status) : NULL;
    snprintf(to, room, "%s", plain && !status ? plain : name);
    free(plain);
}
