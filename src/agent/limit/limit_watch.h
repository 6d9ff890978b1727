/* Waits for memory to run short, and says so before it has.
 *
 *     0 ──────────────────── 80 % ──── 86 % ─ 88 % ─ 90 % ── 93 % ── 95 % ── limit
 *                            goal      spare  light  mark    full    near
 *       what the whole ladder          │      │      │       │       a recording, while there is room for one
 *       tries to reach, from `full` on ┘      │      │       └ not by caches alone any more
 *       caches may grow again, below that ────┘      └ an action begins
 *                         what a light one asks caches for
 *
 * A thread sleeps in limit_watch_wait without the GIL. It reads the gauges (some µs) the more often the nearer the mark
 * is: every second at rest, every 5 ms beside it, so that a program which fills 4 GiB/s does not get past unseen; every 20 ms
 * while usage stands still there.
 *
 * Light and full. Up to 93 % an action that caches alone could satisfy is a light one: they give a little, and from then on hold no
 * more in all than they did when it began, each new entry in the place of an old one, until usage is below 86 % (LIMIT_SPARE). No
 * page goes back to the system only to be fetched again, so a cache at the limit costs what one costs that bounds itself. Another
 * may begin when usage has grown by half a percent of the limit, and lowers that ceiling. From 93 % on, or where caches did not do,
 * the whole ladder runs, and pages go back.
 *
 * No death spiral. Time for actions is saved up: `max_time_share` of all time, at most one second's worth, with which a watch
 * begins. An action spends what it took; one begins only while something is left. So their share stays at `max_time_share` in
 * the long run, whatever the program does. And one that brought nothing (less than 1 % of the limit) is not tried
 * again until usage has grown by 1 % of the limit, or after 0.25 s, 0.5 s, … at most a minute.
 *
 * A tree of processes with one limit: each watches its own RSS and what the recorder last said of the others, and gives of what is
 * wanted the share that it has of all; the one with the largest writes the recording. Once the recorder has been silent for 5 s
 * each is alone.
 *
 * PSI and memory.events: when tasks stood still for memory for more than 15 % of the last second, or the group went over
 * its high mark, and the process has half of its limit in use, that is pressure too. The counters are read along with the
 * gauges; a trigger would need a descriptor that lives, which programs that close all of theirs would close.
 */
#ifndef LOWTIDE_AGENT_LIMIT_WATCH_H
#define LOWTIDE_AGENT_LIMIT_WATCH_H

#include "agent/limit/limit_gauge.h"
#include "control/region.h"

#include <pthread.h>

enum limit_level { LIMIT_STOPPED, LIMIT_PRESSURE, LIMIT_NEAR, LIMIT_SPARE };
enum {
    LIMIT_GOAL = 80,
    LIMIT_SPARE_MARK = 86,
    LIMIT_LIGHT_GOAL = 88,
    LIMIT_MARK = 90,
    LIMIT_FULL_MARK = 93,
    LIMIT_NEAR_MARK = 95
}; /* percent */

typedef struct limit_state {
    enum gauge_kind source; /* the gauge that is fullest */
    bool shared;  /* it is the process's own limit, and others of its tree count against it, too */
    bool stalled; /* no gauge is at its mark, but the kernel makes tasks wait for memory */
    uint64_t used_bytes, hard_bytes;
    uint64_t wanted_bytes; /* to give back, so that all gauges are at their goal */
    uint64_t light_bytes;  /* of caches, where they alone may do; else 0 */
    uint64_t over_bytes;   /* above the mark: by so much their ceiling is too high */
} limit_state_t;

typedef struct limit_watch {
    gauge_places_t places;
    uint64_t limit_bytes;
    double max_time_share;
    pthread_mutex_t
        lock; /* for `stopped` alone; the rest belongs to the thread that waits for pressure */
    pthread_cond_t changed;
    bool stopped;
    int64_t credit_ns,
        credit_at_ns; /* time that actions may take, as it stood then; below 0: overdrawn */
    int64_t retry_ns, idle_ns;
    uint64_t settled_bytes; /* in use after the last action; after a light one, the lowest since */
    bool light;             /* the last action was */
    int64_t stalls_read_ns;
    uint64_t stalled_us, throttled;
    const region_t *
        tree; /* the limit is the whole tree's: what others have in use; NULL: this process's alone */
} limit_watch_t;

/* The watch is the caller's and stays where it is until limit_watch_stop and every wait have returned. */
void limit_watch_open(limit_watch_t *w, const gauge_places_t *places, uint64_t limit_bytes,
                      double max_time_share);

/* Blocks until there is something to do. One thread may wait for LIMIT_PRESSURE and another for LIMIT_NEAR, which comes as often
 * as it is asked for while it lasts. Who waits for LIMIT_PRESSURE may get LIMIT_SPARE instead, once after a light action. */
enum limit_level limit_watch_wait(limit_watch_t *w, enum limit_level level, limit_state_t *out);

/* After an action: how long it took, and whether it was a light one. Reads the gauges and returns what was freed of the fullest
 * one's usage. */
uint64_t limit_watch_acted(limit_watch_t *w, const limit_state_t *before, int64_t took_ns,
                           bool light);

/* How it stands now. Any thread. */
void limit_watch_read(const limit_watch_t *w, limit_state_t *out);

/* Every wait returns LIMIT_STOPPED, now and from now on. Any thread. */
void limit_watch_stop(limit_watch_t *w);

/* Sleeps; false: stopped meanwhile. */
bool limit_watch_sleep(limit_watch_t *w, int64_t ns);

#endif
