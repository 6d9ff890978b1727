#include "view/report_ledger.h"

#include <errno.h>
#include <stdio.h>

/* What the objects take need not be resident: pages never touched, or swapped out. */
static void sum_up(report_t *r) {
    if (!r->has_rss || !model_totals(r->model)->objects) return;
    uint64_t objects = model_totals(r->model)->shallow_bytes;
    bool more = objects > r->rss_bytes;
    uint64_t resident = more ? r->rss_bytes : objects;
    r->ledger[0] = (report_ledger_t){.name = "python-objects", .bytes = resident};
    snprintf(r->ledger[0].note, sizeof r->ledger[0].note,
             more ? "objects and their buffers take %llu bytes, not all of them resident"
                  : "objects and the buffers they own",
             (unsigned long long)objects);
    r->ledger[1] = (report_ledger_t){
        .name = "unexplained",
        .bytes = r->rss_bytes - resident,
        .note = "the interpreter, libraries, stacks, and what allocators keep",
    };
    r->ledger_count = 2;
}

int report_ledger_read(report_t *r, err_t *e) {
    lowtide_table *t;
    lowtide_error error;
    int status = lowtide_table_load(r->rec, "ledger", &t, &error);
    if (status == -ENOMEM) return err_set(e, status, "out of memory");
    if (status) { /* a damaged one is as good as none */
        sum_up(r);
        return 0;
    }
    uint32_t name = lowtide_table_column(t, "name"), bytes = lowtide_table_column(t, "bytes");
    uint32_t back = lowtide_table_column(t, "returnable_bytes");
    uint32_t note = lowtide_table_column(t, "note"), rows = lowtide_table_rows(t);
    uint64_t sum = 0;
    if (rows > REPORT_LEDGER_LINES) rows = 0; /* none of ours */
    for (uint32_t i = 0; i < rows; i++) {
        report_ledger_t *line = &r->ledger[i];
        snprintf(line->text, sizeof line->text, "%s", lowtide_table_text(t, name, i));
        snprintf(line->note, sizeof line->note, "%s", lowtide_table_text(t, note, i));
        line->name = line->text;
        line->bytes = lowtide_table_number(t, bytes, i);
        line->returnable_bytes = lowtide_table_number(t, back, i);
        sum += line->bytes;
    }
    lowtide_table_free(t);
    r->ledger_count = rows;
    r->from_system = rows > 0;
    if (rows) {
        r->rss_bytes = sum;
        r->has_rss = true;
        /* The kernel's own mark is of another moment, and counts less precisely. */
        if (r->has_peak && r->peak_rss_bytes < sum) r->peak_rss_bytes = sum;
    } else {
        sum_up(r);
    }
    return 0;
}
