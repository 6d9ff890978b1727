#define _GNU_SOURCE
#include "cli/native_names.h"

#include "collect/symbols.h"

#include <stddef.h>

static const char *debug_path;
static symbols_t *symbols;

void native_names_debug_path(const char *directories) {
    debug_path = directories;
}

static uint32_t name(void *self, const char *module, const char *build_id, uint64_t offset,
                     namer_place_t *out) {
    static symbols_place_t found[SYMBOLS_PLACES_MAX];
    _Static_assert((int)NAMER_PLACES_MAX >= (int)SYMBOLS_PLACES_MAX, "room for each");
    (void)self;
    if (!symbols) symbols = symbols_new(debug_path);
    uint32_t count = symbols ? symbols_find(symbols, 0, module, build_id, offset, found) : 0;
    for (uint32_t i = 0; i < count; i++)
        out[i] = (namer_place_t){found[i].function, found[i].file, found[i].line};
    return count;
}

void native_names_close(void) {
    symbols_free(symbols);
    symbols = NULL;
}

const namer_t *native_names(void) {
    static const namer_t namer = {NULL, name};
    return &namer;
}
