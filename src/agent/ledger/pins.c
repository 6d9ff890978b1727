#define _GNU_SOURCE
#include "agent/ledger/pins.h"

#include <stdio.h>

enum { CONTAINER_WEIGHT = 4 };

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

static struct pins_type *of_type(pins_t *p, rt_addr_t type) {
    uint32_t i = 0;
    while (i < p->type_count && p->types[i].type != type) i++;
    if (i == PINS_TYPES) return &p->types[0];
    if (i == p->type_count) p->types[p->type_count++] = (struct pins_type){.type = type};
    return &p->types[i];
}

static void add_pool(pins_t *p, const pym_pool_t *pool) {
    bool is_free[PYM_BLOCKS_MAX];
    uint32_t laid_out, free_count, size = pym_block_bytes(pool);
    if (!pym_blocks(pool, is_free, &laid_out, &free_count)) return;
    for (uint32_t b = 0; b < laid_out; b++) {
        if (is_free[b]) continue;
        const uint8_t *block = (const uint8_t *)pool + PYM_OVERHEAD + (size_t)b * size;
        struct pins_type *t = of_type(p, type_in(p, block, size));
        t->blocks++;
        t->here_bytes += size;
    }
}

/* Numbers and strings are rarely what somebody meant to keep: a container among them says more. */
static uint64_t weight(const pins_t *p, const struct pins_type *t) {
    if (!t->type || !t->here_bytes) return 0;
    uint64_t flags = rt_type_flags(p->rt, t->type);
    return t->here_bytes * (flags & RT_TPFLAGS_HAVE_GC ? CONTAINER_WEIGHT : 1);
}

void pins_add(pins_t *p, const pym_map_t *map, uint64_t resident_bytes, uint64_t returnable_bytes) {
    struct pins_type *most = of_type(p, 0); /* the first, where nothing is known */
    uint64_t heaviest = 0;
    for (uint32_t i = 0; i < map->carved; i++)
        if (!map->is_free[i]) add_pool(p, pym_pool_at(map, i));
    for (uint32_t i = 0; i < p->type_count; i++) {
        uint64_t w = weight(p, &p->types[i]);
        if (w <= heaviest) continue;
        heaviest = w;
        most = &p->types[i];
    }
    for (uint32_t i = 0; i < p->type_count; i++) p->types[i].here_bytes = 0;
    most->arenas++;
    most->bytes += resident_bytes;
    most->returnable_bytes += returnable_bytes;
}

static void type_name(const pins_t *p, rt_addr_t type, char out[PINS_NAME_BYTES]) {
    rt_addr_t name = type ? rt_ptr(type, p->rt->layout->type_name) : 0;
    size_t n = 0;
    if (!type) n = (size_t)snprintf(out, PINS_NAME_BYTES, "(no object)");
    while (type && n + 1 < PINS_NAME_BYTES && rt_peek(name + n, out + n, 1) == 0 && out[n] > ' ')
        n++;
    out[n] = '\0';
}

uint32_t pins_lines(pins_t *p, pins_line_t out[PINS_LINES]) {
    uint32_t count = 0;
    for (; count < PINS_LINES; count++) {
        struct pins_type *best = NULL;
        for (uint32_t i = 0; i < p->type_count; i++)
            if (p->types[i].arenas && (!best || p->types[i].bytes > best->bytes))
                best = &p->types[i];
        if (!best) break;
        out[count] = (pins_line_t){.objects = best->blocks,
                                   .arenas = best->arenas,
                                   .bytes = best->bytes,
                                   .returnable_bytes = best->returnable_bytes};
        type_name(p, best->type, out[count].type);
        best->arenas = 0;
    }
    return count;
}
