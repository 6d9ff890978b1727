/* How much memory: "2GiB", "1.5 GB", "512M", "80%", "-2GiB".
 *
 * kB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB and the bare letters K, M, G, T powers of 1024, in any case. A share
 * and a negative size ("all but") are of `total_bytes`. */
#ifndef LOWTIDE_BASE_LIMIT_SIZE_H
#define LOWTIDE_BASE_LIMIT_SIZE_H

#include "base/err.h"

#include <stdint.h>

/* -EINVAL where the text is no size, or one of nothing at all. Any thread; allocates nothing. */
int limit_size_parse(const char *text, uint64_t total_bytes, uint64_t *bytes, err_t *e);

#endif
