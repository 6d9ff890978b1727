/* A hash map from uint64_t to uint32_t: open addressing, linear probing, 16 bytes a slot in mapped
 * memory, filled to five eighths at most. Made for addresses to ids by the million. Any key but
 * MAP_NO_KEY; no removal. Start with a zeroed map_t; one thread at a time.
 *
 *     int fresh;
 *     uint32_t *id = map_put(&m, address, &fresh);    NULL: no memory, the map as it was
 *     if (fresh) *id = next_id++;                     id holds until the next map_put
 *
 * A probe into a big map waits for memory, so where the next keys are known, map_prefetch them
 * first.
 */
#ifndef LOWTIDE_BASE_MAP_H
#define LOWTIDE_BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

#define MAP_NO_KEY UINT64_MAX

typedef struct map_slot {
    uint64_t key; /* plus 1, so that zeroed memory is empty */
    uint32_t value;
    uint32_t unused;
} map_slot_t;

typedef struct map {
    map_slot_t *slots;
    size_t count;
    unsigned bits; /* 1 << bits slots once there are any */
} map_t;

/* Room for `count` keys without growing. 0 or -ENOMEM. */
int map_reserve(map_t *m, size_t count);
void map_free(map_t *m);

static inline size_t map_bytes(const map_t *m) {
    return m->slots ? sizeof(map_slot_t) << m->bits : 0;
}

/* Fibonacci hashing keeps neighbours apart; the fold brings the high bits of the key in. */
static inline size_t map_home(const map_t *m, uint64_t key) {
    return (size_t)(((key ^ key >> 32) * UINT64_C(0x9E3779B97F4A7C15)) >> (64 - m->bits));
}

static inline void map_prefetch(const map_t *m, uint64_t key) {
    if (m->slots) __builtin_prefetch(m->slots + map_home(m, key));
}

/* The slot that has the key, or the empty one where it would go. The map is never full. */
static inline map_slot_t *map_slot(const map_t *m, uint64_t key) {
    size_t mask = ((size_t)1 << m->bits) - 1;
    for (size_t i = map_home(m, key);; i = (i + 1) & mask) {
        map_slot_t *slot = m->slots + i;
        if (slot->key == key + 1 || slot->key == 0) return slot;
    }
}

static inline uint32_t *map_get(const map_t *m, uint64_t key) {
    if (!m->slots) return NULL;
    map_slot_t *slot = map_slot(m, key);
    return slot->key ? &slot->value : NULL;
}

static inline uint32_t *map_put(map_t *m, uint64_t key, int *fresh) {
    if (!m->slots || m->count >= ((size_t)5 << m->bits) / 8) {
        if (map_reserve(m, m->count * 2 + 8)) return NULL;
    }
    map_slot_t *slot = map_slot(m, key);
    *fresh = slot->key == 0;
    m->count += (size_t)*fresh;
    slot->key = key + 1;
    return &slot->value;
}

#endif
