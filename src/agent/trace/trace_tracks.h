/* Blocks that are known by a domain and an address of their own (PyTraceMalloc_Track): a hash table with linear probing, whose
 * entries move up when one is taken out. The caller holds the lock of trace_sites.h. */
#ifndef LOWTIDE_TRACE_TRACKS_H
#define LOWTIDE_TRACE_TRACKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct track {
    uintptr_t at;
    uint64_t bytes;
    uint32_t domain;
    uint32_t site; /* + 1; 0: empty */
} track_t;

/* The entry, made where it is not there (site 0: fill it in at once); NULL: no memory. */
track_t *tracks_put(uint32_t domain, uintptr_t at);
const track_t *tracks_get(uint32_t domain, uintptr_t at); /* or NULL */
/* false: it is not there. */
bool tracks_take(uint32_t domain, uintptr_t at, track_t *taken);
void tracks_clear(void);
size_t tracks_count(void);
size_t tracks_own_bytes(void);
void tracks_each(void (*tell)(void *arg, const track_t *track), void *arg);

#endif
