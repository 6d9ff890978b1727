/* What lines had over time, and so: how high the memory would still have been without some of them.
 *
 *     heap    ▂▂▂▅█████▅▂▃▅▆▆▂      the highest is the peak that a line made …
 *     line        ▃▆▆▆▆▃
 *     others  ▂▂▂▂▂▂▂▂▂▂▃▅▆▆▂      … and the highest of what is left, how far down its fix brings it
 */
#ifndef LOWTIDE_EXPLAIN_PROFILE_COURSE_H
#define LOWTIDE_EXPLAIN_PROFILE_COURSE_H

#include "explain/profile.h"

/* Reads the table `lines`; a damaged one is as good as none. The profile has its lines. 0 or -ENOMEM. */
int profile_courses(profile_t *p, const lowtide_recording *rec);

enum { PROFILE_WITHOUT_MOST = 4 };

typedef struct profile_without {
    uint32_t process,
        count; /* asked: without which lines; and what of the bytes of each stays all the same */
    uint32_t lines[PROFILE_WITHOUT_MOST];
    uint64_t kept_bytes[PROFILE_WITHOUT_MOST];
    bool known;          /* answered: there is a course of that process, and it goes to the end */
    uint64_t high_bytes; /* the most that was alive of the rest, and when */
    uint64_t t_us;
    uint32_t other; /* the line that had most there that it had not at the peak, or LOWTIDE_NONE */
    double fresh_variance; /* bytes²; of what was alive there, and not at the peak */
    uint64_t
        may_bytes; /* as much of the rest may have been alive at once: what lives for less than the time between two looks */
} profile_without_t;

/* `at_peak`: by line, what it had at the peak. 0 or -ENOMEM. */
int profile_without(const profile_t *p, const uint64_t *at_peak, profile_without_t *ask);

/* How a line came to what it had last in a process. */
typedef struct profile_rise {
    uint64_t had_bytes; /* last; 0: no row tells of it, or they end before the process does */
    uint64_t half_us, whole_us; /* from then on it had a half of that, and seven eighths */
} profile_rise_t;

/* Of one line, by process: `of` has room for each. `with`: by line, the one that it counts for; NULL: each for itself. 0 or -ENOMEM. */
int profile_rises(const profile_t *p, const uint32_t *with, uint32_t line, profile_rise_t *of);

#endif
