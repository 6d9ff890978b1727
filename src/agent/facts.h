/* What the system says of this process, gathered before the fork and written into the recording after it.
 *
 * No malloc, no stdio, no locale or time zone tables: it runs in strange processes. A fact that cannot be had stays
 * empty or 0 and is left out. One thread at a time.
 */
#ifndef LOWTIDE_AGENT_FACTS_H
#define LOWTIDE_AGENT_FACTS_H

#include "format/rec_writer.h"

#include <stdint.h>

typedef struct facts {
    uint32_t pid;
    uint64_t captured_ns; /* since 1970 */
    uint64_t age_ms;      /* of the process */
    uint64_t rss_bytes, peak_rss_bytes;
    char hostname[256];
    char command[32768]; /* arguments separated by U+001F */
} facts_t;

/* pid: as the command line knows it, 0: as this process knows it. */
void facts_gather(facts_t *f, uint32_t pid);
void facts_write(const facts_t *f, rec_writer_t *w);

void facts_meta_number(rec_writer_t *w, const char *key, uint64_t v);
/* Thousandths: 12345 → "12.345". */
void facts_meta_thousandths(rec_writer_t *w, const char *key, uint64_t v);

/* 2026-11-21T09:57:18Z into `out`. */
void facts_iso8601(uint64_t ns, char out[32]);

#endif
