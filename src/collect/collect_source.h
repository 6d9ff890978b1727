/* The source of the lines that frames stand in, as it is when the recording is written: so the recording says it on any
 * machine, also when the file has changed since. */
#ifndef LOWTIDE_COLLECT_COLLECT_SOURCE_H
#define LOWTIDE_COLLECT_COLLECT_SOURCE_H

#include "collect/collect_sites.h"

typedef struct collect_sources {
    collect_texts_t texts;      /* zero-terminated; 0 is "" */
    collect_numbers_t of_frame; /* in texts */
} collect_sources_t;

/* Files named *.py that are regular and not huge, each read once. What cannot be had is "". */
void sources_read(const collect_sites_t *sites, collect_sources_t *out);
/* The same of one line of a file, its begin: `room` bytes with the 0, "" where it cannot be had. */
void source_line(const char *path, uint32_t line, char *text, size_t room);
const char *sources_at(const collect_sources_t *s, size_t frame);
void sources_free(collect_sources_t *s);

#endif
