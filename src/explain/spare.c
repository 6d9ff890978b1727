#include "explain/spare.h"

#include "base/mem.h"

#include <string.h>

uint32_t *spare_take(spare_t *s) {
    return s->count ? s->at[--s->count] : mem_map(s->bytes);
}

uint32_t *spare_take_zeroed(spare_t *s) {
    if (!s->count) return mem_map(s->bytes);
    return memset(s->at[--s->count], 0, s->bytes);
}

void spare_give(spare_t *s, uint32_t *array) {
    if (!array) return;
    if (s->count < SPARE_MAX)
        s->at[s->count++] = array;
    else
        mem_unmap(array, s->bytes);
}

void spare_free(spare_t *s) {
    while (s->count > 0) mem_unmap(s->at[--s->count], s->bytes);
}
