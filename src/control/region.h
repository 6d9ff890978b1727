/* The allocation profile of one process, in memory that it shares with who records it.
 *
 *     observed process (agent/alloc)                     recorder (collect)
 *     memfd ── MAP_SHARED ──▶ ┌────────┬────────┬────────┬───────┬────────┬────────┐ ◀── MAP_SHARED
 *                             │ header │ texts  │ frames │ stacks│ cells  │ blocks │
 *                             └────────┴────────┴────────┴───────┴────────┴────────┘
 *
 * The process writes and never waits; the recorder reads whenever it likes. Nothing else runs in the process for the
 * profile: no thread, no file, no timer. A process killed in any way leaves its last state in the recorder's hands.
 *
 * Texts, frames and stacks are append-only, and so are cells (one a stack and domain). Many threads write without a lock:
 * `used` counts what has been reserved, and may run ahead of what is written. So begin at the cells: one whose `domain` is not 0
 * (stored last, with release) is complete, and with it all that it refers to. Cells are counters changed by relaxed atomics;
 * blocks (what is alive of the sampled blocks, in exact mode of one in REGION_SHOWN_BYTES, and of the mapped ranges) are a
 * table whose slots are claimed by their address: `used` is the highest slot ever taken + 1, and the table
 * sparse (mostly pages never touched). What is full loses detail and never memory safety:
 * `lost_*` counts it; what has no place goes to stack 0, "(stacks beyond the table)".
 * A stack is an index of its leaf: {parent, frame}, parent + 1 stored, 0 at the outermost. Text 0 is empty.
 *
 * Peaks are kept without copying a table: a cell saves its live figures when it first changes after a peak has ended.
 *     heap   the process itself. heap_epoch is even while the total stands at its highest so far: every cell's live figures *are*
 *            the peak's. When it falls, heap_epoch goes up by one, and each cell saves `live` into `peak` before its next change
 *            and notes the epoch; when it rises above the highest again, by one more, and nobody saves
 *     RSS    the recorder, which watches the RSS, adds 1 to rss_epoch at each new highest; a cell saves `live` into
 *            rss_peak before its next change and notes the epoch
 * A reader takes cell.peak when cell.heap_epoch equals the header's, else cell.live (it has not changed since); so with rss_peak.
 *
 * A snapshot of the heap at its peak is the process's to make (agent/peak.h), and the recorder's to want: snapshot_above.
 *
 * The reader trusts nothing: every index and length is checked against the region's size, which is fixed at its making.
 * All fields are little-endian and naturally aligned; sizes and offsets are bytes. version changes with any layout change:
 * agent and recorder come from one build.
 */
#ifndef LOWTIDE_CONTROL_REGION_H
#define LOWTIDE_CONTROL_REGION_H

#include <stdatomic.h>
#include <stdint.h>

enum { REGION_SHARE_ALL = 65536, REGION_SILENT_NAMES = 4 };
enum { REGION_VERSION = 8, REGION_LARGE_BYTES = 1 << 20, REGION_SHOWN_BYTES = 1 << 16 };
#define REGION_MAGIC 0x6c61746564697431ull

enum region_mode { REGION_SAMPLED = 1, REGION_EXACT = 2 };
/* RAW is PyMem_Raw… where it is told from libc's own (exact); else that is LIBC too. */
enum region_domain {
    REGION_RAW = 1,
    REGION_MEM,
    REGION_OBJECT,
    REGION_MMAP,
    REGION_LIBC,
    REGION_DOMAINS
};
enum region_frame_kind { REGION_FRAME_PYTHON = 1, REGION_FRAME_NATIVE, REGION_FRAME_OTHER };
enum region_event_kind { REGION_EVENT_GC = 1, REGION_EVENT_MARK };

/* One of the arrays: `used` elements of `room`. */
typedef struct region_part {
    uint64_t offset; /* from the region's begin */
    uint64_t room;   /* elements (texts: bytes) */
    _Atomic uint64_t used;
} region_part_t;

typedef struct region_frame {
    uint32_t function, file; /* offsets in texts: u32 length, then so many bytes */
    uint32_t line, first_line;
    uint32_t kind; /* region_frame_kind */
    /* Native: file is the library's path, build_id in hex, offset the address of the call as its symbol table counts; the
     * recorder finds the names. */
    uint32_t build_id;
    uint64_t offset;
} region_frame_t;

typedef struct region_stack {
    uint32_t parent; /* index + 1, or 0 at the outermost frame */
    uint32_t frame;
} region_stack_t;

typedef struct region_counts {
    _Atomic int64_t bytes, blocks; /* estimated where sampled; may be below 0 for a moment */
    _Atomic uint64_t variance;     /* in units of 2^20 bytes² */
} region_counts_t;

typedef struct region_cell {
    uint32_t stack, domain;
    _Atomic uint64_t heap_epoch, rss_epoch; /* for which `peak` and `rss_peak` are valid */
    region_counts_t live, total, peak, rss_peak;
} region_cell_t;

typedef struct region_block {
    _Atomic uint64_t address; /* 0: free, 1: was used */
    uint64_t bytes;
    uint32_t cell;
    uint32_t reserved;
} region_block_t;

typedef struct region_event {
    uint64_t t_ns; /* CLOCK_MONOTONIC */
    uint32_t kind, value;
    uint64_t duration_ns;
    uint32_t text; /* offset in texts, or 0 */
    uint32_t reserved;
} region_event_t;

typedef struct region {
    uint64_t magic;
    uint32_t version, mode;
    uint64_t bytes; /* of the whole region */
    uint64_t
        interval_bytes; /* mean bytes between samples; where exact, between the blocks that are told */
    uint64_t begin_ns; /* CLOCK_MONOTONIC */
    uint32_t pid;      /* as the process knows itself */
    uint32_t flags;
    _Atomic uint32_t ended; /* the hooks have been taken out */
    _Atomic uint32_t
        dismissed; /* the recorder's: nobody reads this any more, the hooks need not count */
    _Atomic int64_t heap_bytes, heap_peak_bytes; /* live now, and at the highest */
    _Atomic uint64_t heap_epoch, rss_epoch;
    _Atomic uint64_t lost_blocks, lost_stacks, lost_events;
    /* Children that could not call the recorder, each counted by itself, and why the last one could not; and why this process could
     * not at its end (errno, or 0). */
    _Atomic uint64_t lost_children;
    _Atomic uint32_t lost_children_code, end_code;
    /* Programs that it started and that cannot call the recorder (agent/follow.h), and the first few of their names, in texts. */
    _Atomic int64_t silent_programs;
    _Atomic uint32_t silent_names[REGION_SILENT_NAMES];
    /* The recorder's: with more live than this the process calls for a snapshot, once, and sets it to INT64_MAX, as it is
     * from the beginning. */
    _Atomic int64_t snapshot_above;
    /* The highest heap_bytes since the recorder last set it: so that nothing high falls between two of its looks. */
    _Atomic int64_t heap_recent_bytes;
    /* Where in the process its main collector notes that it is running (an int), and how often it has run: three 64-bit counts
     * for each generation, the first of them of collections. 0: not known. */
    uint64_t gc_collecting, gc_stats;
    /* A soft limit for the whole tree (collect/collect_tree.h). limit_bytes is the process's, 0: it has none; the rest the
     * recorder's: what is in use beside this process's RSS (below 0 where the RSS counts shared pages in full), its share of all in
     * 65536ths, whether that is the largest, and when it said so (CLOCK_MONOTONIC). */
    _Atomic uint64_t limit_bytes;
    _Atomic int64_t tree_beside;
    _Atomic uint32_t tree_share, tree_largest;
    _Atomic uint64_t tree_ns;
    region_part_t texts, frames, stacks, cells, blocks, events;
} region_t;

#endif
