#define _GNU_SOURCE
#include "agent/alloc/alloc_index.h"

#include "base/mem.h"

#include <stddef.h>
#include <sys/mman.h>

enum { FIRST_BITS = 10, LEVEL_BITS = 3, PROBES = 8, PROBES_LAST = 256 };

static size_t slots_bytes(int levels) {
    size_t slots = 0;
    for (int i = 0; i < levels; i++) slots += (size_t)1 << (FIRST_BITS + i * LEVEL_BITS);
    return slots * sizeof(_Atomic uint64_t);
}

bool index_open(alloc_index_t *x, int levels) {
    const size_t bytes = slots_bytes(levels);
    x->levels = levels;
    x->slots = mem_map(bytes);
    /* Sparse: huge pages would make memory of what is never touched. */
    if (x->slots) madvise((void *)x->slots, bytes, MADV_NOHUGEPAGE);
    return x->slots != NULL;
}

void index_close(alloc_index_t *x) {
    mem_unmap((void *)x->slots, slots_bytes(x->levels));
    x->slots = NULL;
}

uint32_t index_find(alloc_index_t *x, uint64_t hash, bool (*same)(uint32_t number, const void *key),
                    uint32_t (*make)(const void *key), const void *key) {
    _Atomic uint64_t *level = x->slots;
    const uint64_t tag = hash & 0xffffffff00000000ull;
    uint32_t made = INDEX_NONE;
    for (int i = 0, bits = FIRST_BITS; i < x->levels;
         level += 1u << bits, bits += LEVEL_BITS, i++) {
        const uint32_t probes = i == x->levels - 1 ? PROBES_LAST : PROBES;
        for (uint32_t probe = 0; probe < probes; probe++) {
            _Atomic uint64_t *slot = &level[(hash + probe) & ((1u << bits) - 1)];
            uint64_t seen = atomic_load_explicit(slot, memory_order_acquire);
            if (!seen) {
                if (made == INDEX_NONE) made = make(key);
                if (made == INDEX_NONE) return INDEX_NONE;
                if (atomic_compare_exchange_strong(slot, &seen, tag | (made + 1))) return made;
            }
            if ((seen & 0xffffffff00000000ull) == tag && same((uint32_t)seen - 1, key))
                return (uint32_t)seen - 1;
        }
    }
    return INDEX_NONE;
}
