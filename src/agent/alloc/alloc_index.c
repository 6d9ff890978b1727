#define _GNU_SOURCE
#include "agent/alloc/alloc_index.h"

#include "base/mem.h"

#include <stddef.h>
#include <sys/mman.h>

enum { LEVELS = 4, FIRST_BITS = 10, LEVEL_BITS = 3, PROBES = 8 };
#define SLOTS ((1u << 10) + (1u << 13) + (1u << 16) + (1u << 19))

bool index_open(alloc_index_t *x) {
    x->slots = mem_map(SLOTS * sizeof *x->slots);
    /* Sparse: huge pages would make memory of what is never touched. */
    if (x->slots) madvise((void *)x->slots, SLOTS * sizeof *x->slots, MADV_NOHUGEPAGE);
    return x->slots != NULL;
}

void index_close(alloc_index_t *x) {
    mem_unmap((void *)x->slots, SLOTS * sizeof *x->slots);
    x->slots = NULL;
}

uint32_t index_find(alloc_index_t *x, uint64_t hash, bool (*same)(uint32_t number, const void *key),
                    uint32_t (*make)(const void *key), const void *key) {
    _Atomic uint64_t *level = x->slots;
    const uint64_t tag = hash & 0xffffffff00000000ull;
    uint32_t made = INDEX_NONE;
    for (int i = 0, bits = FIRST_BITS; i < LEVELS; level += 1u << bits, bits += LEVEL_BITS, i++) {
        for (uint32_t probe = 0; probe < PROBES; probe++) {
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
