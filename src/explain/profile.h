/* The allocation profile of a recording: which lines made the memory, now, at the peak, in total.
 *
 *     lowtide_open → profile_build → ask → profile_free → lowtide_close
 *
 *     cell    what one stack of one process allocated in one domain: a row of `allocations`
 *     site    a line of a function, with all cells whose innermost Python frame it is (where a stack
 *             has none, its innermost frame); processes and domains taken together
 *     node    a frame below its callers, with all cells that passed it: what a flame graph draws
 *
 * A recording without allocations gives an empty profile (mode PROFILE_NONE), no error. Everything
 * lives as long as the profile, which borrows the recording. Rows that make no sense are passed
 * over. Where a recording was sampled the figures are estimates; *_error_bytes is the half width of
 * their 95 % interval, 1.96 · sqrt(variance).
 */
#ifndef LOWTIDE_EXPLAIN_PROFILE_H
#define LOWTIDE_EXPLAIN_PROFILE_H

#include "explain/model.h"

enum profile_mode { PROFILE_NONE, PROFILE_SAMPLED, PROFILE_EXACT };
enum profile_frame_kind { PROFILE_PYTHON = 1, PROFILE_NATIVE, PROFILE_OTHER };
enum profile_figure {
    PROFILE_LIVE,
    PROFILE_PEAK,
    PROFILE_RSS_PEAK,
    PROFILE_TOTAL,
    PROFILE_FIGURES
};

typedef struct profile_process {
    uint32_t parent; /* LOWTIDE_NONE for the first */
    uint64_t pid, how, begin_us, end_us, interval_bytes;
    int mode;
    bool ended, has_exit;
    int exit_status; /* as a shell tells it: 128 + the signal that killed it */
    const char *command, *python;
    uint64_t rss_peak_bytes, heap_peak_bytes, peak_us; /* of its timeline */
} profile_process_t;

typedef struct profile_frame {
    uint32_t kind, line, first_line;
    const char *function, *file;
} profile_frame_t;

typedef struct profile_sums {
    uint64_t bytes[PROFILE_FIGURES], blocks[PROFILE_FIGURES];
    double variance[PROFILE_FIGURES]; /* bytes²; that of the RSS peak is the peak's */
} profile_sums_t;

typedef struct profile_cell {
    uint32_t process, stack, domain;
    profile_sums_t sums;
} profile_cell_t;

typedef struct profile_site {
    profile_frame_t frame;
    profile_sums_t sums;
} profile_site_t;

typedef struct profile_point {
    uint32_t process;
    uint64_t t_us, rss_bytes, heap_bytes;
} profile_point_t;

enum { PROFILE_EVENT_GC = 1, PROFILE_EVENT_MARK, PROFILE_EVENT_HEAP, PROFILE_EVENT_LIMIT };
typedef struct profile_event {
    uint32_t process, kind;
    uint64_t t_us, duration_us, value;
    const char *text;
} profile_event_t;

typedef struct profile_stack {
    uint32_t parent; /* LOWTIDE_NONE at the outermost */
    uint32_t frame, site;
} profile_stack_t;

/* A block that was alive when the heap was captured. */
typedef struct profile_sample {
    uint32_t process, stack, domain;
    uint32_t object; /* after profile_join: the object that lies in it, or LOWTIDE_NONE */
    uint64_t address, bytes, weight; /* weight: the bytes that it stands for */
} profile_sample_t;

typedef struct profile {
    int mode;
    uint64_t interval_bytes; /* of the first process that has one */
    uint32_t process_count, frame_count, stack_count, cell_count, site_count, point_count,
        event_count, sample_count;
    profile_process_t *processes;
    profile_frame_t *frames;
    profile_stack_t *stacks;
    profile_cell_t *cells;
    profile_site_t *sites; /* most bytes at the peak first */
    profile_point_t *points;
    profile_event_t *events;
    profile_sample_t *samples; /* by process, then address */
    profile_sums_t sums;       /* of all sites */
    uint64_t rss_peak_bytes;   /* highest of any process, 0: no timeline */
    uint64_t peak_us;          /* when that was, since the recording's begin */
    uint32_t peak_process;
    arena_t arena;
    struct profile_tables *tables; /* what the texts lie in */
} profile_t;

int profile_build(const lowtide_recording *rec, profile_t **out, err_t *e);
void profile_free(profile_t *p);

uint64_t profile_error(const profile_sums_t *sums, int figure);
/* Sites by another figure, most first: an array of site_count indexes for the caller to mem_free. */
int profile_order(const profile_t *p, int figure, uint32_t **out, err_t *e);

/* The object of each sample, by its address, from the heap of the recording: that of the process
 * the heap belongs to. Once, before what follows. */
int profile_join(profile_t *p, const model_t *m, err_t *e);

typedef struct profile_share {
    uint32_t site;
    uint64_t bytes; /* estimated */
    uint64_t samples;
} profile_share_t;
/* The sites that made what `id` retains, most bytes first; at most `max`. Returns how many. */
uint32_t profile_makers(const profile_t *p, const model_t *m, uint32_t id, uint32_t max,
                        profile_share_t *out);
/* The objects that a site made, as far as samples tell: ids for the caller to mem_free. */
int profile_made(const profile_t *p, uint32_t site, uint32_t **ids, uint32_t *count, err_t *e);

/* Adds findings that the profile alone can tell (temporary-peak), and to those that are there the
 * site that made what they name. `m` may be a model without objects. */
int profile_findings(profile_t *p, const model_t *m, model_findings_t *findings, err_t *e);

#endif
