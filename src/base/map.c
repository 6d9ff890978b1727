#include "base/map.h"

#include "base/mem.h"

#include <errno.h>

enum { MAP_FIRST_BITS = 8, MAP_MOST_BITS = 40 };

int map_reserve(map_t *m, size_t count) {
    unsigned bits = m->slots ? m->bits : MAP_FIRST_BITS;
    while (bits <= MAP_MOST_BITS && ((size_t)5 << bits) / 8 <= count) bits++;
    if (m->slots && bits == m->bits) return 0;
    if (bits > MAP_MOST_BITS) return -ENOMEM;

    map_t grown = {.count = m->count, .bits = bits};
    grown.slots = mem_map(sizeof(map_slot_t) << bits);
    if (!grown.slots) return -ENOMEM;
    for (size_t i = 0; m->slots && i < (size_t)1 << m->bits; i++) {
        if (m->slots[i].key) *map_slot(&grown, m->slots[i].key - 1) = m->slots[i];
    }
    map_free(m);
    *m = grown;
    return 0;
}

void map_free(map_t *m) {
    mem_unmap(m->slots, map_bytes(m));
    *m = (map_t){0};
}
