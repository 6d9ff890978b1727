/* Which pages are in memory: what the kernel's page table says (/proc/self/pagemap).
 *
 * No malloc, no stdio. One thread at a time; res_open before, res_close after. Where pagemap cannot be read everything counts as
 * resident, and `guessed` is set.
 */
#ifndef LOWTIDE_AGENT_LEDGER_RESIDENT_H
#define LOWTIDE_AGENT_LEDGER_RESIDENT_H

#include <stdbool.h>
#include <stdint.h>

enum { RES_PAGE = 4096, RES_WINDOW = 512 };

typedef struct res {
    int fd;
    bool guessed;
    uint64_t window; /* first page number in `entries` */
    uint64_t entries[RES_WINDOW];
} res_t;

void res_open(res_t *r);
void res_close(res_t *r);
/* Forgets what was read: after something changed. */
void res_forget(res_t *r);

/* Resident bytes of the pages that lie wholly in [begin, end). */
uint64_t res_bytes(res_t *r, uintptr_t begin, uintptr_t end);
/* Is the page with this address resident? */
bool res_page(res_t *r, uintptr_t address);

/* The resident size of this process as /proc/self/statm has it, 0 where it cannot be read. */
uint64_t res_rss(void);

#endif
