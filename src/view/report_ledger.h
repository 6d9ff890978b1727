/* The ledger of a report: the recording's own lines, or, where it has none, objects and the rest. */
#ifndef LOWTIDE_VIEW_REPORT_LEDGER_H
#define LOWTIDE_VIEW_REPORT_LEDGER_H

#include "view/report_view.h"

/* Fills r->ledger; where the recording has lines, rss_bytes becomes their sum. -ENOMEM, -EBADMSG. */
int report_ledger_read(report_t *r, err_t *e);

#endif
