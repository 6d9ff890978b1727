#include "base/vec.h"

#include "base/mem.h"

#include <errno.h>
#include <stdint.h>

enum { VEC_PAGE_BYTES = 4096 };

int vec_grow(void **at, size_t *room, size_t size, size_t need) {
    if (need <= *room) return 0;
    if (need > SIZE_MAX / 4 / size) return -ENOMEM;
    size_t pages = (need * size + VEC_PAGE_BYTES - 1) / VEC_PAGE_BYTES;
    size_t wanted = pages * VEC_PAGE_BYTES / size;
    if (wanted < *room * 2) wanted = *room * 2;
    void *p = mem_remap(*at, *room * size, wanted * size);
    if (!p) return -ENOMEM;
    *at = p;
    *room = wanted;
    return 0;
}

void vec_release(void **at, size_t *room, size_t size) {
    mem_unmap(*at, *room * size);
    *at = NULL;
    *room = 0;
}
