/* The recorder: what becomes known of a program while it runs, beside its heap.
 *
 *     collect_begin ─▶ collect_add a process (again for each child, when it calls)
 *                      collect_tick, whenever it asks for it: RSS, profiles, ends of processes
 *                      collect_write into the recording, at the end
 *
 * All is kept in memory, bounded: sites by the regions' own rooms, the timeline by points that lie further apart the longer the
 * program runs. So the recording has each row once. Until then `collect_live` gives it a second file, which has all but the last
 * second (collect_live.h), for the day on which we are killed.
 *
 * A process is only ever read: by the memory that it shares (observed.h), /proc, and a pidfd. One thread.
 */
#ifndef LOWTIDE_COLLECT_COLLECT_H
#define LOWTIDE_COLLECT_COLLECT_H

#include "base/err.h"
#include "collect/collect_sites.h"
#include "collect/observed.h"
#include "format/rec_writer.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum collect_how { COLLECT_STARTED = 1, COLLECT_FORKED, COLLECT_EXECED, COLLECT_ATTACHED };
enum { COLLECT_PROCESSES_MOST = 4096, COLLECT_SILENT_ROOM = 512 };

typedef struct collect_sample {
    uint32_t process, stack, domain;
    uint64_t address, bytes;
} collect_sample_t;

VEC_DEFINE(collect_samples, collect_sample_t);

/* The heap of a process at its peak (collect_peak.h). */
typedef struct collect_peak {
    int fd; /* its recording; 0: none */
    uint64_t t_us, rss_bytes, heap_bytes;
    uint64_t garbage_bytes; /* of the heap: nobody held them then. The caller's (peak_in_doubt) */
    bool dear;              /* it has cost more than there was to spend */
    collect_samples_t samples;
} collect_peak_t;

/* Page faults until then, and the time that it had run or slept, not waited for a processor. */
typedef struct collect_moment {
    uint64_t own_us, faults, rss_bytes;
} collect_moment_t;

/* What the snapshots of a process's heap cost it. */
typedef struct collect_peak_cost {
    uint32_t share;    /* of copying all pages, in 256ths, that the last one cost; 0: not known */
    uint64_t cost_us;  /* of the last one, until now: part of peaks_us */
    uint64_t until_us; /* then all of that is known */
    collect_moment_t begin;
    uint64_t pages, object_pages; /* when it began: private ones; those not of large blocks */
    uint64_t copied;              /* of them, while it was being written */
    uint64_t faults_second;       /* that it takes without one */
    collect_moment_t seen;        /* without one */
    uint64_t seen_us;             /* 0: not yet */
} collect_peak_cost_t;

/* What is known of a process's lines over time (collect_series.h). */
typedef struct collect_course {
    uint64_t heap, high, told; /* now; the most since it was told; what was told */
    uint64_t untouched;        /* at the last look */
    uint64_t rss_peak;         /* then */
    uint64_t highest, rows, due_us;
    uint32_t torn;     /* looks one after the other at which the heap changed */
    uint64_t until_us; /* when a row found no room, and since when there are none; 0: it has all */
} collect_course_t;

enum { COLLECT_GENERATIONS = 3 };

/* A process's collector (collect_gc.h). */
typedef struct collect_gc {
    uint64_t collecting_at, stats_at; /* in the process; 0: not known */
    bool running;
    uint32_t looks; /* that saw it running */
    uint64_t begin_us, seen_us, looked_us;
    uint64_t counts[COLLECT_GENERATIONS];
} collect_gc_t;

typedef struct collect_process {
    pid_t pid;
    uint32_t parent; /* number + 1, or 0 */
    uint32_t how;    /* collect_how */
    int pidfd;       /* -1: its descriptor is spared, or this system has none */
    uint64_t
        started_at; /* clock ticks since boot, 0 not known: tells it from others with its PID */
    bool ended, frozen;
    bool live_kept; /* it has run its last line: collect_keep_live */
    bool changed;   /* since it was last written to the live file */
    uint64_t begin_us, end_us;
    uint32_t status; /* wait status + 1; 0: not known */
    uint32_t mode;
    uint64_t interval_bytes;
    uint64_t rss_bytes, private_bytes;    /* private: without pages of files and shared memory */
    uint64_t large_bytes;                 /* of it, in large blocks (touched.h) */
    uint64_t rss_peak_bytes, rss_peak_us; /* the highest, be it between two looks */
    uint64_t seen_peak_bytes;             /* the highest that a look saw */
    uint64_t untouched_bytes, untouched_due_us; /* of its live bytes; when to look again */
    uint64_t untouched_rss, untouched_heap; /* the RSS and what lived, when they were looked for */
    bool peak_stale; /* the RSS has been higher since they were last read at its highest */
    uint64_t high_rss, high_heap; /* the RSS and what lived, when they were */
    uint64_t back_due_us;         /* when what the kernel knows may be made use of again */
    uint64_t past_peak_bytes;     /* the highest RSS before it was recorded */
    uint64_t point_us, point_rss, point_rss_us; /* last point of the timeline; highest since */
    uint64_t point_heap, seen_heap_peak;        /* the heap when that passed between two looks */
    bool heap_peak_passed;                      /* since the last point */
    uint64_t lost_stacks, lost_blocks;          /* observed_lost */
    uint64_t mute_children;                     /* observed_mute */
    uint32_t mute_children_code, mute_code;
    uint64_t silent_programs; /* observed_silent */
    uint64_t end_heap_bytes;  /* live when it ended, or had run its last line */
    collect_gc_t gc;
    collect_course_t series;
    uint64_t looked_us, looked_rss, looked_heap; /* when, and what they were */
    uint64_t tree_shared;           /* of its RSS, what others count (collect_tree.h) */
    bool tree_read, tree_gone;      /* gone: it has ended, and that was not heard of yet */
    collect_peak_t peak, next_peak; /* next: being written */
    collect_peak_cost_t peak_cost;
    uint64_t waited_us;      /* for a processor, while it was recorded */
    uint64_t waited_past_us; /* and before, + 1; 0: not known yet */
    observed_t observed;     /* unmapped once it has ended */
    collect_seen_t seen;
    char command[4096], python[16];
} collect_process_t;

VEC_DEFINE(collect_processes, collect_process_t *);

typedef struct collect_point {
    uint32_t process;
    uint64_t t_us, rss_bytes, heap_bytes;
} collect_point_t;

typedef struct collect_event {
    uint32_t process, kind, text; /* text: in sites.texts */
    uint64_t t_us, duration_us, value;
} collect_event_t;

/* Of one line, or (frame 0) of the whole heap. */
typedef struct collect_row {
    uint32_t process, frame; /* frame + 1, or 0 */
    uint64_t t_us, live_bytes;
    uint64_t made_bytes, high_bytes; /* since the row of the heap before; high: of the heap alone */
} collect_row_t;

VEC_DEFINE(collect_series, collect_row_t);
VEC_DEFINE(collect_points, collect_point_t);
VEC_DEFINE(collect_events, collect_event_t);

/* Which rows. Zero: all. */
typedef struct collect_rows {
    bool changed; /* of processes and allocations those that are marked as changed */
    bool sources; /* with the frames' source text, which is read from its files */
    size_t frames, stacks, points, series, events; /* from that one on */
} collect_rows_t;

/* The live file (collect_live.h). */
typedef struct collect_live {
    char path[4096], fresh_path[4104], old_path[4112]; /* "": none is wanted */
    bool made, saved;                                  /* saved: what was there is at old_path */
    rec_writer_t *to;                                  /* NULL: not now */
    int fd;                                            /* locked for as long as it is open */
    uint64_t due_us;
    off_t bytes, fresh_bytes; /* now, and when it was new */
    collect_rows_t rows;      /* that it does not have */
} collect_live_t;

typedef struct collect {
    uint64_t begin_ns, began_ns; /* CLOCK_MONOTONIC; since 1970 */
    collect_processes_t processes;
    collect_sites_t sites;
    collect_points_t timeline;
    collect_series_t series;
    collect_events_t events;
    collect_samples_t samples;
    char refused[4096];               /* collect_refused */
    char silent[COLLECT_SILENT_ROOM]; /* collect_silent_names of those that have ended */
    int descriptor_most;              /* what is above is left to others */
    pid_t heap_pid;              /* whose heap goes before this; 0: the first's. The caller's */
    uint64_t heap_garbage_bytes; /* of that heap: nobody holds them. The caller's (peak_in_doubt) */
    bool peaks;                  /* snapshots of peaks are wanted: the caller's to set */
    uint64_t peaks_us;           /* what they have cost the processes */
    uint64_t copy_ns;            /* of a page, by a fault, here; 0: not measured yet */
    uint64_t gc_every_us;
    uint64_t ends_due_us; /* when those without a pidfd are looked at again */
    uint64_t tree_due_us; /* when shared pages may be counted again */
    collect_live_t live;
} collect_t;

int collect_begin(collect_t *c, err_t *e);
void collect_end(collect_t *c);

/* From the next tick on what is known is in a file of that name, too. One that cannot be written is none: the recording itself will
 * tell. -EBUSY: another lowtide writes it. */
int collect_live(collect_t *c, const char *path, err_t *e);
void collect_live_remove(collect_t *c);
/* The file is all that will be: writes once more what there is room for. Returns whether it is there. */
bool collect_live_keep(collect_t *c);

/* region: of its profile, or -1; the caller's. parent: a PID, or 0. A process that is known already and called exec ends as what
 * it was. Returns its number, or a negative errno. */
int collect_add(collect_t *c, pid_t pid, pid_t parent, enum collect_how how, int region,
                const char *python, err_t *e);
/* It was gone before it could be looked at: its end of `sock` may know how it ended (SO_PEERPIDFD; from Linux 6.16 on). */
void collect_peer(collect_t *c, int number, int sock);
/* Its wait status, where the caller is its parent. */
void collect_ended(collect_t *c, pid_t pid, int status);
/* The process with that PID that has not ended, or NULL. */
collect_process_t *collect_find(const collect_t *c, pid_t pid);

/* Reads what is due. Returns in how many ms to call again. */
int collect_tick(collect_t *c);
/* Reads everything, now. */
void collect_drain(collect_t *c);
/* The program has run its last line, its exit functions have not run: what is alive now was alive at its end, whatever they
 * clear. All else goes on. */
void collect_keep_live(collect_t *c, pid_t pid);
/* Its exit functions have run: what Python tears down from here on is no news. */
void collect_freeze(collect_t *c, pid_t pid);
/* Notes which sampled blocks of the process are alive: call it when its heap is captured. */
void collect_samples(collect_t *c, pid_t pid);
void collect_samples_of(collect_t *c, collect_process_t *p, collect_samples_t *out);
/* Its RSS, now; 0: it has ended. */
uint64_t collect_rss(collect_process_t *p);

/* Writes META that the heap's capture could not know (all of it where there is no heap) and the tables. */
void collect_write(const collect_t *c, rec_writer_t *w, bool heap);

/* A process below ours that is not followed, and why: a line for the recording. Said once, and what has no room is dropped. */
void collect_refused(collect_t *c, const char *line);

/* Why a process could not call us, in words: an errno. */
const char *collect_why_mute(uint32_t code);

/* Adds the names of the programs that the process started and that cannot call, with commas between; none once it has ended. Not
 * before all is over, or a name may be of one that could not be started. */
void collect_silent_names(const collect_process_t *p, char list[COLLECT_SILENT_ROOM]);

/* For the timeline; dropped where there are very many. */
void collect_note(collect_t *c, const collect_event_t *event);

/* What we have cost so far: on a busy machine less than the time that went by. */
uint64_t collect_cost_us(void);

uint64_t collect_now_us(const collect_t *c);

#endif
