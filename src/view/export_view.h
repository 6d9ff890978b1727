/* The allocation profile in the formats of other tools: pprof, speedscope, collapsed stacks, CSV,
 * and a trace of the timeline for Perfetto. docs/report.md says what stands where. */
#ifndef LOWTIDE_VIEW_EXPORT_VIEW_H
#define LOWTIDE_VIEW_EXPORT_VIEW_H

#include "explain/profile.h"

#include <stdio.h>

typedef struct export_what {
    const lowtide_recording *rec;
    const profile_t *profile;
    int figure; /* profile_figure: what a format shows that has room for one */
} export_what_t;

/* 0 or -ENOMEM with a line in `e`; the stream's errors stick to it. */
typedef int export_fn(const export_what_t *what, FILE *file, err_t *e);
export_fn export_pprof, export_speedscope, export_collapsed, export_csv, export_perfetto;

#endif
