#define _GNU_SOURCE
#include "agent/ledger/pins.h"

#include <inttypes.h>
#include <stdio.h>

enum { SAID_TYPES = 4, NAME_BYTES = 40 };

static bool looks_like_type(const rt_t *rt, rt_addr_t at) {
    rt_addr_t meta = 0;
    uint64_t flags = 0;
    if (!at || at % 8 || rt_peek(at + (rt_addr_t)rt->layout->object_type, &meta, sizeof meta))
        return false;
    if (meta == rt->types.type) return true;
    return meta && meta % 8 == 0 &&
           rt_peek(meta + (rt_addr_t)rt->layout->type_flags, &flags, sizeof flags) == 0 &&
           flags & RT_TPFLAGS_TYPE_SUBCLASS &&
           rt_ptr(meta, rt->layout->object_type) == rt->types.type;
}

static bool is_type(pins_t *p, rt_addr_t at) {
    size_t i = at / 16 % PINS_KNOWN;
    if (p->known[i].at != at) {
        p->known[i].at = at;
        p->known[i].is_type = looks_like_type(p->rt, at);
    }
    return p->known[i].is_type;
}

/* An object stands at the front of its block, or behind a collector's head, managed slots, or the debug allocator's fence. */
static rt_addr_t type_in(pins_t *p, const uint8_t *block, uint32_t bytes) {
    const layout_t *l = p->rt->layout;
    for (uint32_t at = 0; at <= 48 && at + (uint32_t)l->object_size <= bytes; at += 16) {
        rt_addr_t type = rt_ptr((rt_addr_t)block + at, l->object_type);
        int64_t count = rt_i64((rt_addr_t)block + at, l->object_refcnt);
        if (count && type && type % 8 == 0 && type > 65536 && is_type(p, type)) return type;
    }
    return 0;
}

static void count(pins_t *p, rt_addr_t type, uint32_t arena) {
    uint32_t i = 0;
    while (i < p->type_count && p->types[i].type != type) i++;
    p->blocks++;
    if (!type || i == PINS_TYPES) {
        p->unknown++;
        return;
    }
    if (i == p->type_count) p->types[p->type_count++] = (struct pins_type){.type = type};
    p->types[i].blocks++;
    p->types[i].arenas += p->types[i].last_arena != arena;
    p->types[i].last_arena = arena;
}

void pins_add(pins_t *p, const pym_map_t *map, uint32_t arena) {
    bool is_free[PYM_BLOCKS_MAX];
    for (uint32_t i = 0; i < map->carved; i++) {
        const pym_pool_t *pool = pym_pool_at(map, i);
        uint32_t laid_out, free_count, size = pym_block_bytes(pool);
        if (map->is_free[i] || !pym_blocks(pool, is_free, &laid_out, &free_count)) continue;
        for (uint32_t b = 0; b < laid_out; b++) {
            const uint8_t *block = (const uint8_t *)pool + PYM_OVERHEAD + (size_t)b * size;
            if (!is_free[b]) count(p, type_in(p, block, size), arena);
        }
    }
}

static void type_name(const pins_t *p, rt_addr_t type, char out[NAME_BYTES]) {
    rt_addr_t name = rt_ptr(type, p->rt->layout->type_name);
    size_t n = 0;
    while (n + 1 < NAME_BYTES && rt_peek(name + n, out + n, 1) == 0 && out[n] > ' ') n++;
    out[n] = '\0';
}

void pins_say(pins_t *p, char *out, size_t room) {
    size_t at = 0;
    out[0] = '\0';
    for (int said = 0; said < SAID_TYPES; said++) {
        struct pins_type *best = NULL;
        for (uint32_t i = 0; i < p->type_count; i++)
            if (p->types[i].blocks && (!best || p->types[i].arenas > best->arenas))
                best = &p->types[i];
        if (!best) return;
        char name[NAME_BYTES];
        type_name(p, best->type, name);
        int n = snprintf(out + at, room - at, "%s%" PRIu64 " %s in %" PRIu32 "%s", said ? ", " : "",
                         best->blocks, name, best->arenas, said ? "" : " arenas");
        if (n < 0 || (size_t)n >= room - at) {
            out[at] = '\0';
            return;
        }
        at += (size_t)n;
        best->blocks = 0;
    }
}
