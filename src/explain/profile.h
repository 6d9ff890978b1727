/* The allocation profile of a recording: which lines made the memory, now, at the peak, in total.
 *
 *     lowtide_open → profile_build → ask → profile_free → lowtide_close
 *
 *     cell    what one stack of one process allocated in one domain: a row of `allocations`
 *     site    a line of a function, with all cells whose innermost Python frame it is (where a stack
 *             has none, its innermost frame); processes and domains taken together
 *     line    the program's own line by which a cell came about: of its stack's frames the innermost
 *             that is no library's; what is to be changed. Where there is none, the site itself. Functions
 *             that stand in one line (a generator expression and what it is in) are taken together
 *
 * A recording without allocations gives an empty profile (mode PROFILE_NONE), no error. Everything
 * lives as long as the profile, which borrows the recording. Rows that make no sense are passed
 * over. Where a recording was sampled the figures are estimates, each with its error: profile_error.
 */
#ifndef LOWTIDE_EXPLAIN_PROFILE_H
#define LOWTIDE_EXPLAIN_PROFILE_H

#include "explain/model.h"

enum profile_mode { PROFILE_NONE, PROFILE_SAMPLED, PROFILE_EXACT };
enum { PROFILE_ATTACHED = 4 }; /* how a process came: docs/format.md */
enum profile_frame_kind { PROFILE_PYTHON = 1, PROFILE_NATIVE, PROFILE_OTHER };
enum profile_figure {
    PROFILE_LIVE,
    PROFILE_PEAK,
    PROFILE_RSS_PEAK,
    PROFILE_TOTAL,
    PROFILE_GONE, /* alive when its process ended, and gone with it: no part of PROFILE_LIVE */
    PROFILE_FIGURES
};

typedef struct profile_process {
    uint32_t parent; /* LOWTIDE_NONE for the first */
    uint64_t pid, how, begin_us, end_us, interval_bytes;
    int mode;
    bool ended, has_exit;
    uint64_t lines_until_us; /* its rows of `lines` end there, before it does; 0: it has all */
    int exit_status;         /* as a shell tells it: 128 + the signal that killed it */
    const char *command, *python;
    uint64_t rss_peak_bytes, peak_us; /* of its timeline; and when that was */
    /* Which is what PROFILE_PEAK tells of. */
    uint64_t heap_peak_bytes, heap_peak_us;
    /* At the heap's highest much was reserved and never touched: PROFILE_PEAK is PROFILE_RSS_PEAK. */
    bool peak_is_rss;
} profile_process_t;

typedef struct profile_frame {
    uint32_t kind, line, first_line;
    uint32_t inlined_in; /* native: the frame that it was inlined into, or LOWTIDE_NONE */
    uint64_t offset;     /* native: of the instruction, in the file */
    const char *function, *file, *module, *build_id;
    const char *source; /* of the line; "" where not known */
} profile_frame_t;

typedef struct profile_sums {
    uint64_t bytes[PROFILE_FIGURES], blocks[PROFILE_FIGURES];
    double variance[PROFILE_FIGURES]; /* bytes²; that of the RSS peak is the peak's */
} profile_sums_t;

typedef struct profile_cell {
    uint32_t process, stack, domain;
    uint32_t line; /* index in lines */
    profile_sums_t sums;
} profile_cell_t;

/* A site or a line. */
typedef struct profile_site {
    profile_frame_t frame;
    profile_sums_t sums;
    uint32_t most; /* of a site: the line that most of it came by; of a line: the site that made
                      most of it. Of the peak's bytes, or of all where the peak has none */
} profile_site_t;

typedef struct profile_point {
    uint32_t process;
    uint64_t t_us, rss_bytes, heap_bytes;
} profile_point_t;

/* What a frame's line had from then on, and what it made since the row of the heap before; frame LOWTIDE_NONE: the heap of the process,
 * behind the rows of the same moment, with the most that was alive since (profile_course.h). */
typedef struct profile_course {
    uint32_t process, frame, line;
    uint64_t t_us, live_bytes, made_bytes, high_bytes;
} profile_course_t;

enum { PROFILE_EVENT_GC = 1, PROFILE_EVENT_MARK, PROFILE_EVENT_HEAP, PROFILE_EVENT_LIMIT };
typedef struct profile_event {
    uint32_t process, kind;
    uint64_t t_us, duration_us, value;
    const char *text;
} profile_event_t;

typedef struct profile_stack {
    uint32_t parent; /* LOWTIDE_NONE at the outermost */
    uint32_t frame, site;
    uint32_t line; /* or LOWTIDE_NONE: no frame is the program's own */
} profile_stack_t;

/* A block that was alive when the heap was captured. */
typedef struct profile_sample {
    uint32_t process, stack, domain;
    uint32_t line;   /* in lines */
    uint32_t object; /* after profile_join: the object that lies in it, or LOWTIDE_NONE */
    uint64_t address, bytes, weight; /* weight: the bytes that it stands for */
} profile_sample_t;

/* A sample that has an object, by where that stands in dominator order (model_order). */
typedef struct profile_place {
    uint32_t order, sample;
} profile_place_t;
typedef struct profile_places {
    uint32_t count;
    profile_place_t *at; /* lowest first */
} profile_places_t;
enum profile_when { PROFILE_AT_END, PROFILE_AT_PEAK, PROFILE_WHENS };

typedef struct profile {
    int mode;
    uint64_t interval_bytes;           /* of the first process that has one */
    uint64_t lost_stacks, lost_blocks; /* counted by their line alone; not counted */
    uint32_t process_count, frame_count, stack_count, cell_count, site_count, line_count,
        point_count, course_count, event_count, sample_count;
    uint32_t main_process; /* whose heap it is; else the first that was watched */
    profile_process_t *processes;
    profile_frame_t *frames;
    profile_stack_t *stacks; /* parents first; a function that was inlined is one of its own */
    uint32_t *stack_of_row;  /* of the recording's table */
    uint32_t stack_rows;
    profile_cell_t *cells;
    profile_site_t *sites; /* most bytes at the peak first */
    profile_site_t *lines; /* in no order */
    profile_point_t *points;
    profile_course_t *courses;
    profile_event_t *events;
    profile_sample_t *samples; /* by process, then address */
    profile_sums_t sums;       /* of all sites */
    double unseen_variance; /* bytes²: what no sample tells adds to each figure's; 0 where exact */
    double chosen_share;    /* by which a peak's variance counts in its error: 1/bytes */
    uint64_t rss_peak_bytes; /* highest of any process, 0: no timeline */
    uint64_t peak_us;        /* when that was, since the recording's begin */
    uint32_t peak_process;
    /* The heap at a high of the memory: a nested recording that the profile closes; NULL: none. Its
     * samples stand beside the others; their objects are its own. */
    lowtide_recording *peak;
    uint32_t peak_heap_process, peak_sample_count;
    profile_sample_t *peak_samples;
    profile_places_t places[PROFILE_WHENS]; /* after profile_join */
    uint64_t peak_heap_us; /* when it was captured, since the recording's begin; 0: not known */
    uint64_t together_bytes, together_us; /* the highest of all processes together, and when */
    arena_t arena;
    struct profile_tables *tables; /* what the texts lie in */
} profile_t;

/* `namer` says what the recording does not know of native code; it may be NULL. */
int profile_build(const lowtide_recording *rec, const namer_t *namer, profile_t **out, err_t *e);
void profile_free(profile_t *p);

/* Memory of all processes together over time, in at most `most` points: of each stretch of time the
 * one with the most. The caller mem_frees `at`. */
typedef struct profile_moment {
    uint64_t t_us, rss_bytes, heap_bytes;
} profile_moment_t;
typedef struct profile_series {
    uint32_t count;
    profile_moment_t *at;
} profile_series_t;
int profile_series(const profile_t *p, uint32_t most, profile_series_t *out);

/* How far a figure may be off: half of its 95 % interval; 0 where it is exact.
 *
 * 1.96 · sqrt(variance + 3R²) at the interval R. A variance that is estimated from few samples is too small where they are
 * too few: from none it would be 0. Three more of small blocks make up for that: without any sample there may be 1.7 MiB at 512 KiB.
 *
 * At the peak it is more. The highest of a curve with noise is high by chance as well, and a site by as much as its part of
 * the variance. How much that is tells the heap when the RSS was at its highest, a moment that no sample has chosen. */
uint64_t profile_error(const profile_t *p, const profile_sums_t *sums, int figure);
/* The same of any sum of samples, by its variance (bytes²) and the interval. */
uint64_t profile_spread(double variance, uint64_t interval_bytes);
/* Whether a figure is above its error. */
bool profile_is_told(const profile_t *p, const profile_sums_t *sums, int figure);
void profile_add_sums(profile_sums_t *to, const profile_sums_t *from);
/* Standard library, installed package, text that is in no file, or the script that starts a command: not the program's own. */
bool profile_is_library(const profile_frame_t *frame);
/* Sites by another figure, most first: an array of site_count indexes for the caller to mem_free. */
int profile_order(const profile_t *p, int figure, uint32_t **out, err_t *e);

/* The object of each sample, by its address, from the heap of the recording; and of each sample at
 * the peak from the heap then (`peak` is the model of p->peak, or NULL). Once, before what follows. */
int profile_join(profile_t *p, const model_t *m, const model_t *peak, err_t *e);

/* What of a sample's block was touched, as a part: of each of its object's large blocks the same. A small one is all memory. */
double profile_touched(const model_t *m, const profile_sample_t *s);

typedef struct profile_share {
    uint32_t line;        /* in lines */
    uint64_t bytes;       /* estimated, from samples: of an exact profile, too */
    uint64_t error_bytes; /* half of the 95 % interval */
    uint64_t samples;
} profile_share_t;
/* Objects by their places in dominator order, lowest first. */
typedef struct profile_kept {
    const model_t *model; /* the heap's, or that of p->peak */
    int when;             /* profile_when */
    const uint32_t *orders;
    uint64_t count;
} profile_kept_t;
/* The program's own lines that made what those retain together, most bytes first; at most `max`: of large blocks what was touched.
 * Returns how many. */
uint32_t profile_makers(const profile_t *p, const profile_kept_t *kept, uint32_t max,
                        profile_share_t *out);
/* What holds most of the objects that a site or line made, as far as samples tell. */
typedef struct profile_made {
    const model_t *model; /* the heap's, or that of p->peak */
    int when;             /* profile_when */
    uint32_t site, line;  /* LOWTIDE_NONE: not asked for */
} profile_made_t;
typedef struct profile_held {
    const char *path;     /* NULL: not known */
    uint32_t through;     /* what stands there */
    uint64_t samples, of; /* so many of so many samples that have an object */
    model_routes_t routes;
} profile_held_t;
int profile_held(const profile_t *p, const profile_made_t *made, profile_held_t *out, err_t *e);
void profile_held_free(profile_held_t *held);

/* The program's own line that most of a site came by; NULL where that is the site itself. */
const profile_frame_t *profile_from(const profile_t *p, const profile_site_t *site);

/* Adds findings that the profile alone can tell (temporary-peak), and to those that are there the
 * site that made what they name. `m` may be a model without objects, `peak` is the model of p->peak
 * or NULL. */
int profile_findings(profile_t *p, const model_t *m, const model_t *peak,
                     model_findings_t *findings, err_t *e);

#endif
