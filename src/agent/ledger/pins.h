/* Which objects keep arenas that are nearly empty: blocks in use there, by the type that they look like objects of. Each arena
 * counts for the type that has most bytes in it (a container's count fourfold: what it holds lies beside it), so that bytes of types add up. */
#ifndef LOWTIDE_AGENT_LEDGER_PINS_H
#define LOWTIDE_AGENT_LEDGER_PINS_H

#include "agent/ledger/pymalloc.h"

enum { PINS_TYPES = 64, PINS_KNOWN = 512, PINS_LINES = 8, PINS_NAME_BYTES = 64 };

typedef struct pins_line {
    char type[PINS_NAME_BYTES];
    uint64_t objects; /* blocks in use, in all nearly empty arenas */
    uint32_t arenas;  /* where this type has most */
    uint64_t bytes,
        returnable_bytes; /* resident, of these arenas; of it, what could go all the same */
} pins_line_t;

typedef struct pins {
    const rt_t *rt;
    struct pins_type {
        rt_addr_t type; /* 0: none that is known */
        uint64_t blocks, here_bytes, bytes, returnable_bytes;
        uint32_t arenas;
    } types[PINS_TYPES];
    uint32_t type_count;
    struct {
        rt_addr_t at;
        bool is_type;
    } known[PINS_KNOWN]; /* a cache: asking whether something is a type costs system calls */
} pins_t;

/* The GIL is held. */
void pins_add(pins_t *p, const pym_map_t *map, uint64_t resident_bytes, uint64_t returnable_bytes);
/* Most bytes first; how many. */
uint32_t pins_lines(pins_t *p, pins_line_t out[PINS_LINES]);

#endif
