/* allocator-retention: memory that nothing uses, and that Python's allocator or malloc keeps. From the ledger: the bytes are those
 * that lay free in whole pages when the recording was made, so giving them back returns just those. */
#include "explain/findings/findings.h"

#include <errno.h>
#include <string.h>

enum { RETENTION_MIN_BYTES = 32 << 20, RETENTION_SHARE = 10 };

typedef struct layers {
    uint64_t rss, pools, heap;
    const char *pools_note;
} layers_t;

static void read_layers(const lowtide_table *t, layers_t *l) {
    uint32_t name = lowtide_table_column(t, "name"), bytes = lowtide_table_column(t, "bytes");
    uint32_t back = lowtide_table_column(t, "returnable_bytes");
    uint32_t note = lowtide_table_column(t, "note");
    for (uint32_t i = 0; i < lowtide_table_rows(t); i++) {
        const char *line = lowtide_table_text(t, name, i);
        uint64_t returnable = lowtide_table_number(t, back, i);
        l->rss += lowtide_table_number(t, bytes, i);
        if (strncmp(line, "malloc:", 7) == 0)
            l->heap += returnable;
        else
            l->pools += returnable;
        if (strcmp(line, "empty pools") == 0) l->pools_note = lowtide_table_text(t, note, i);
    }
}

static int add(findings_t *f, uint64_t bytes, const char *title, const char *fix) {
    char size[32];
    model_finding_t *x = findings_add(f, "allocator-retention");
    if (!x) return findings_no_memory(f);
    x->bytes = bytes;
    x->confidence = "high";
    x->title = findings_text(f, "%s: %s", title, findings_bytes(bytes, size));
    x->fix = findings_text(f, "%s", fix);
    return x->title && x->fix ? 0 : findings_no_memory(f);
}

static int report_pools(findings_t *f, const layers_t *l) {
    char *fix = findings_text(f,
                              "call lowtide.free() once the peak is over, or run `lowtide free "
                              "PID`: it trims pools, moves no "
                              "object, and gives these bytes back; or make the peak in a child "
                              "process (lowtide.isolate), whose "
                              "memory goes whole%s%s",
                              l->pools_note[0] ? ". " : "", l->pools_note);
    if (!fix) return findings_no_memory(f);
    return add(f, l->pools, "Python's allocator keeps memory that no object uses", fix);
}

int finding_allocator_retention(findings_t *f) {
    lowtide_table *t;
    lowtide_error error;
    layers_t l = {.pools_note = ""};
    int status = lowtide_table_load(f->m->rec, "ledger", &t, &error);
    if (status == -ENOMEM) return findings_no_memory(f);
    if (status) return 0; /* a damaged ledger tells nothing */
    read_layers(t, &l);
    uint64_t floor = l.rss / RETENTION_SHARE;
    if (floor < RETENTION_MIN_BYTES) floor = RETENTION_MIN_BYTES;
    if (l.pools >= floor) status = report_pools(f, &l);
    if (!status && l.heap >= floor)
        status = add(
            f, l.heap, "malloc keeps memory that was freed",
            "call lowtide.free() once the peak is over, or run `lowtide free PID`; or start the "
            "program with MALLOC_TRIM_THRESHOLD_=131072 in its environment and, where many "
            "threads allocate, MALLOC_ARENA_MAX=2: set from inside they have no effect");
    lowtide_table_free(t);
    return status;
}
