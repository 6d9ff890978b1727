/* How much memory is in use, and how much there may be, by all who have a say.
 *
 *     rss      resident pages of this process          against the limit that was set
 *     cgroup   memory.current less inactive_file       against the lower of memory.max and memory.high, of the group
 *                                                      or a group above it: whichever is fullest (v1: usage, limit)
 *     data     VmData: what RLIMIT_DATA counts         against RLIMIT_DATA
 *     space    VmSize                                  against RLIMIT_AS
 *
 * Every file is opened anew for each reading (2 to 5 µs): a program may close all descriptors that it does not know, and one
 * opened before a fork would tell of the parent. Uses neither malloc nor stdio; any thread, with or without the GIL.
 */
#ifndef LOWTIDE_AGENT_LIMIT_GAUGE_H
#define LOWTIDE_AGENT_LIMIT_GAUGE_H

#include <stdbool.h>
#include <stdint.h>

enum gauge_kind { GAUGE_RSS, GAUGE_CGROUP, GAUGE_DATA, GAUGE_SPACE, GAUGES };
enum { GAUGE_PATH = 512, GAUGE_GROUPS = 8 };

typedef struct gauge {
    uint64_t used_bytes;
    uint64_t hard_bytes; /* UINT64_MAX: there is no limit */
} gauge_t;

/* Where to read. Found once for each process. */
typedef struct gauge_places {
    char proc[GAUGE_PATH / 4];             /* "/proc"; a test brings its own */
    char groups[GAUGE_GROUPS][GAUGE_PATH]; /* directories, the process's own group first */
    int group_count;
    bool v1;
} gauge_places_t;

typedef struct gauges {
    gauge_t of[GAUGES];
    uint64_t
        stalled_us; /* waited for memory so far (PSI: some, total): of the cgroup, else of the machine; 0 unknown */
    uint64_t
        throttled; /* memory.events: how often the group went over its high mark, or against its max */
    uint64_t group_hard[GAUGE_GROUPS]; /* the limit of each group of the places */
} gauges_t;

/* `proc` and `cgroups` are "/proc" and "/sys/fs/cgroup". A machine without cgroups has no groups. */
void gauge_find(gauge_places_t *places, const char *proc, const char *cgroups);

/* of[GAUGE_RSS].hard_bytes is left to the caller. What cannot be read is 0 of UINT64_MAX. */
void gauge_read(const gauge_places_t *places, gauges_t *out);

/* The same again soon after: usage anew, limits and counters as `g` has them. A fraction of the cost: one file, and one for each
 * group that has a limit. */
void gauge_read_again(const gauge_places_t *places, gauges_t *g);

/* Resident bytes of this process, and only those. */
uint64_t gauge_rss(const gauge_places_t *places);

/* What this process may have at most: the lower of the machine's memory and its groups' limits. */
uint64_t gauge_total(const gauge_places_t *places);

const char *gauge_name(enum gauge_kind kind);

#endif
