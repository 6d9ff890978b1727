/* CPython's three allocator domains, hooked: what each allocation and each free does to the tables and the sums.
 *
 * Two ways through. Alone: mem and object in a process of one interpreter, whose GIL the caller holds: plain loads and stores.
 * Shared: all else, under the lock of trace_sites.h. Each has its own sum and its own peak of both sums, and what is told is
 * the higher peak; so neither way waits for the other.
 */
#ifndef LOWTIDE_TRACE_HOOKS_H
#define LOWTIDE_TRACE_HOOKS_H

#include "agent/runtime/runtime.h"
#include "base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct hooks_sums {
    _Atomic bool on;
    _Atomic int64_t alone_bytes, shared_bytes; /* either may fall below 0: blocks change ways */
    _Atomic int64_t alone_peak, shared_peak;
    _Atomic uint64_t missed;
} hooks_sums_t;

extern hooks_sums_t hooks_sums;

/* This thread's allocations do not count: it is inside another one, or was told so by trace_mute. */
extern __thread bool hooks_muted __attribute__((tls_model("initial-exec")));

/* The caller holds the GIL. */
int hooks_in(const rt_t *rt, err_t *e);
/* Those that somebody else has put hooks over stay, and do nothing while `on` is false. */
void hooks_out(const rt_t *rt);

/* What changes the sums from outside; the caller holds the lock. */
void hooks_add_locked(int64_t bytes);

#endif
