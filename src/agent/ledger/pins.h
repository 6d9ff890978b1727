/* Which objects keep arenas that are nearly empty: blocks in use there, by the type that they look like objects of. */
#ifndef LOWTIDE_AGENT_LEDGER_PINS_H
#define LOWTIDE_AGENT_LEDGER_PINS_H

#include "agent/ledger/pymalloc.h"

enum { PINS_TYPES = 64, PINS_KNOWN = 512 };

typedef struct pins {
    const rt_t *rt;
    uint64_t blocks, unknown; /* in use; of these, none that looks like an object */
    struct pins_type {
        rt_addr_t type;
        uint64_t blocks;
        uint32_t arenas, last_arena;
    } types[PINS_TYPES];
    uint32_t type_count;
    struct {
        rt_addr_t at;
        bool is_type;
    } known[PINS_KNOWN]; /* a cache: asking whether something is a type costs system calls */
} pins_t;

/* The GIL is held. `arena` counts from 1. */
void pins_add(pins_t *p, const pym_map_t *map, uint32_t arena);
/* "1200 tuple in 400 arenas, 3 dict in 2", the widest spread first. */
void pins_say(pins_t *p, char *out, size_t room);

#endif
