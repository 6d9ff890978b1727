/* Frames, stacks and cells of all observed processes, joined: workers that were forked from one program share its sites.
 *
 * Numbers of frames and stacks are those of the recording's tables, in the order in which they became known.
 */
#ifndef LOWTIDE_COLLECT_COLLECT_SITES_H
#define LOWTIDE_COLLECT_COLLECT_SITES_H

#include "base/map.h"
#include "base/vec.h"
#include "collect/observed.h"
#include "collect/symbols.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct collect_frame {
    uint32_t kind;
    uint32_t function, file; /* in texts */
    uint32_t line, first_line;
    uint32_t module, build_id; /* native: of the library; in texts */
    uint32_t inlined_in; /* native: frame + 1 of the function that it was inlined into, or 0 */
    uint64_t offset;
} collect_frame_t;

typedef struct collect_stack {
    uint32_t parent; /* stack + 1, or 0 */
    uint32_t frame;
} collect_stack_t;

typedef struct collect_cell {
    observed_cell_t figures; /* stack: of the recording */
    /* Never touched (touched.h): of what lives now, and of what did when the heap and when the RSS was highest. */
    uint64_t untouched, peak_untouched, rss_peak_untouched;
    observed_counts_t kept_live; /* where its process has live_kept */
    uint64_t kept_untouched;
    bool changed; /* since it was last written to the live file */
} collect_cell_t;

/* Has it what it had at a peak? Then that was not touched more at that time than now. */
static inline bool cell_lives_as(const collect_cell_t *c, const observed_counts_t *peak) {
    return peak->bytes == c->figures.live.bytes && peak->blocks == c->figures.live.blocks;
}

/* Of a stack: its innermost frame that is the program's own, or COLLECT_NO_FRAME, and its innermost of Python. */
#define COLLECT_NO_FRAME UINT32_MAX
typedef struct collect_stack_line {
    uint32_t own, site;
} collect_stack_line_t;

/* What a line has (collect_series.h). */
typedef struct collect_line {
    uint64_t now, total, untouched; /* alive; made in all; never touched of what else is alive */
    uint64_t told;                  /* alive when it was last told */
    uint64_t then_total, then_untouched; /* when the heap was last told */
} collect_line_t;

VEC_DEFINE(collect_stack_lines, collect_stack_line_t);
VEC_DEFINE(collect_lines, collect_line_t);
VEC_DEFINE(collect_texts, char);
VEC_DEFINE(collect_numbers, uint32_t);
VEC_DEFINE(collect_frames, collect_frame_t);
VEC_DEFINE(collect_stacks, collect_stack_t);
VEC_DEFINE(collect_cells, collect_cell_t);

typedef struct collect_sites {
    collect_texts_t texts; /* zero-terminated, one behind the other; 0 is "" */
    collect_frames_t frames;
    collect_stacks_t stacks;
    collect_stack_lines_t lines;                      /* by stack, as far as they were asked for */
    map_t text_numbers, frame_numbers, stack_numbers; /* by hash */
    symbols_t *symbols;                               /* from the first native frame on; or NULL */
    bool full;                                        /* no memory: new sites are not told apart */
} collect_sites_t;

/* What of one process's region has been read. */
typedef struct collect_seen {
    collect_numbers_t frames, stacks; /* the region's numbers to ours + 1; 0: not read */
    collect_cells_t cells;            /* by the region's own order */
    collect_lines_t lines;            /* by frame */
    uint64_t events;
} collect_seen_t;

int sites_begin(collect_sites_t *s);
void sites_free(collect_sites_t *s);
/* The text's offset in texts; 0 where there is no memory. */
uint32_t sites_text(collect_sites_t *s, const char *text, size_t n);
const char *sites_text_at(const collect_sites_t *s, uint32_t text);

/* Reads what is new in the region of the process `pid`, and finds the names of native frames. Returns whether anything changed. */
bool sites_read(collect_sites_t *s, pid_t pid, const observed_t *o, collect_seen_t *seen);
void sites_seen_free(collect_seen_t *seen);

#endif
