/* Findings: each is one file and one row of a table. A finding is listed only when it has a fix,
 * and says the bytes that the fix returns; that something is big is not enough. Healthy programs
 * have none: floors are in bytes as well as in shares.
 *
 * To add one: write findings/<kind>.c with a function of the type below, and its row in
 * findings.c.
 */
#ifndef LOWTIDE_EXPLAIN_FINDINGS_H
#define LOWTIDE_EXPLAIN_FINDINGS_H

#include "explain/model_data.h"
#include "explain/path.h"

typedef struct findings {
    const model_t *m;
    model_findings_t *out;
    uint32_t room;
    err_t *e;
} findings_t;

/* Adds what it finds. 0 or a negative errno. */
typedef int finding_fn(findings_t *f);

finding_fn finding_allocator_retention, finding_leak_suspect, finding_garbage_cycle,
    finding_held_traceback, finding_native_reference, finding_thread_leak,
    finding_unclosed_resource;

int findings_no_memory(findings_t *f);
/* A new finding, to be filled in; texts come from findings_text. NULL when there is no memory. */
model_finding_t *findings_add(findings_t *f, const char *kind);
char *findings_text(findings_t *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Which objects of the heap a finding names: those at the places, with all that each dominates; or just those in the spans. */
int findings_name(findings_t *f, model_finding_t *x, const uint32_t *places, size_t count);
int findings_name_spans(findings_t *f, model_finding_t *x, const model_span_t *spans, size_t count);
void findings_sort(model_findings_t *out); /* most bytes first, late ones last */

/* For titles: "1,234,567", "12.3 MiB". `to` has room for 32 bytes and is returned. */
const char *findings_count(uint64_t count, char *to);
const char *findings_bytes(uint64_t bytes, char *to);

/* Bytes that objects hold which are not garbage. */
uint64_t findings_heap(const model_t *m);
/* What holds names together without being data: roots, modules, namespaces, classes, functions,
 * code. */
bool findings_is_structure(const model_t *m, uint32_t id);

/* growing-container, which takes several recordings, comes from model_diff (growth.h). */

#endif
