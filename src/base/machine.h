/* What this machine has left, as far as this process may use it. */
#ifndef LOWTIDE_BASE_MACHINE_H
#define LOWTIDE_BASE_MACHINE_H

#include <stdint.h>

/* Memory that can be used without pushing anybody out: what the system calls available and free swap, or what the limit of the
 * control group (version 2) or of one above leaves, or this process's own limits, whichever is less. UINT64_MAX: not known. */
uint64_t machine_free_bytes(void);

#endif
