/* What the profile and the heap tell together: who made an object, and what a line's objects are
 * held by; and the findings that the profile alone can tell. */
#define _GNU_SOURCE
#include "base/mem.h"
#include "explain/findings/findings.h"
#include "explain/profile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The process whose heap it is: by its pid, else the first. */
static uint32_t join_process(const profile_t *p, const model_t *m) {
    const char *pid = lowtide_meta(model_recording(m), "pid");
    uint64_t wanted = pid ? strtoull(pid, NULL, 10) : 0;
    for (uint32_t i = p->process_count; i-- > 0;) {
        if (p->processes[i].pid == wanted) return i;
    }
    return 0;
}

/* The last sample of [begin, end) that does not begin behind the address. */
static profile_sample_t *join_sample(profile_sample_t *begin, profile_sample_t *end,
                                     uint64_t address) {
    if (begin == end || address < begin->address) return NULL;
    while (end - begin > 1) {
        profile_sample_t *middle = begin + (end - begin) / 2;
        if (middle->address <= address) {
            begin = middle;
        } else {
            end = middle;
        }
    }
    return address - begin->address < begin->bytes ? begin : NULL;
}

int profile_join(profile_t *p, const model_t *m, err_t *e) {
    const lowtide_recording *rec = model_recording(m);
    uint32_t process = join_process(p, m);
    profile_sample_t *begin = p->samples, *end = p->samples + p->sample_count;
    while (begin < end && begin->process != process) begin++;
    while (end > begin && end[-1].process != process) end--;
    lowtide_chunk *chunk = NULL;
    int status = 0;
    for (uint32_t i = 0; begin < end && i < lowtide_chunks(rec) && !status; i++) {
        lowtide_error error;
        status = lowtide_chunk_load(rec, i, LOWTIDE_COL_ADDRESS, &chunk, &error);
        if (status) {
            err_set(e, status, "%s", error.text);
            break;
        }
        for (uint32_t k = 0; k < chunk->count; k++) {
            profile_sample_t *s = join_sample(begin, end, chunk->address[k]);
            uint32_t id = chunk->first + k;
            if (!s || s->object != LOWTIDE_NONE) continue;
            if (lowtide_shape_at(rec, chunk->shape[k])->kind == LOWTIDE_SHAPE_OBJECT)
                s->object = id;
        }
    }
    lowtide_chunk_free(chunk);
    return status;
}

static int join_compare(const void *a, const void *b) {
    const profile_share_t *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->site < y->site ? -1 : x->site > y->site;
}

uint32_t profile_makers(const profile_t *p, const model_t *m, uint32_t id, uint32_t max,
                        profile_share_t *out) {
    profile_share_t *shares = mem_alloc((p->site_count + 1) * sizeof *shares);
    uint32_t count = 0;
    if (!shares) return 0;
    for (uint32_t i = 0; i < p->site_count; i++) shares[i] = (profile_share_t){.site = i};
    for (uint32_t i = 0; i < p->sample_count; i++) {
        const profile_sample_t *s = &p->samples[i];
        if (s->object == LOWTIDE_NONE || !model_dominates(m, id, s->object)) continue;
        shares[p->stacks[s->stack].site].bytes += s->weight;
        shares[p->stacks[s->stack].site].samples++;
    }
    qsort(shares, p->site_count, sizeof *shares, join_compare);
    while (count < max && count < p->site_count && shares[count].samples) {
        out[count] = shares[count];
        count++;
    }
    mem_free(shares);
    return count;
}

int profile_made(const profile_t *p, uint32_t site, uint32_t **ids, uint32_t *count, err_t *e) {
    *count = 0;
    *ids = mem_alloc((p->sample_count + 1) * sizeof **ids);
    if (!*ids) return err_set(e, -ENOMEM, "no memory for the allocation profile");
    for (uint32_t i = 0; i < p->sample_count; i++) {
        const profile_sample_t *s = &p->samples[i];
        if (s->object != LOWTIDE_NONE && p->stacks[s->stack].site == site) {
            (*ids)[(*count)++] = s->object;
        }
    }
    return 0;
}

/* ---- Findings ---- */

static int join_u64_compare(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* What the process usually had: the medians of its timeline. */
static int join_usual(const profile_t *p, uint32_t process, uint64_t *out, uint64_t *rss_out,
                      err_t *e) {
    uint64_t *heap = mem_alloc((2 * (size_t)p->point_count + 1) * sizeof *heap);
    uint64_t *rss = heap + p->point_count;
    uint32_t count = 0;
    if (!heap) return err_set(e, -ENOMEM, "no memory for the allocation profile");
    for (uint32_t i = 0; i < p->point_count; i++) {
        if (p->points[i].process != process) continue;
        rss[count] = p->points[i].rss_bytes;
        heap[count++] = p->points[i].heap_bytes;
    }
    if (count) qsort(heap, count, sizeof *heap, join_u64_compare);
    if (count) qsort(rss, count, sizeof *rss, join_u64_compare);
    *out = count ? heap[count / 2] : UINT64_MAX;
    *rss_out = count ? rss[count / 2] : UINT64_MAX;
    mem_free(heap);
    return 0;
}

enum { TEMPORARY_MIN_BYTES = 16 << 20, TEMPORARY_SHARE = 5, TEMPORARY_MOST = 3 };

static int join_temporary(findings_t *f, const profile_t *p, uint32_t site, uint64_t bytes) {
    const profile_site_t *s = &p->sites[site];
    char size[32], error[32], at[32] = "";
    model_finding_t *x = findings_add(f, "temporary-peak");
    if (!x) return findings_no_memory(f);
    uint64_t off = profile_error(&s->sums, PROFILE_PEAK);
    if (p->rss_peak_bytes) snprintf(at, sizeof at, ", %.1f s in", (double)p->peak_us / 1e6);
    x->bytes = bytes;
    x->objects =
        s->sums.blocks[PROFILE_PEAK] - (s->sums.blocks[PROFILE_LIVE] < s->sums.blocks[PROFILE_PEAK]
                                            ? s->sums.blocks[PROFILE_LIVE]
                                            : s->sums.blocks[PROFILE_PEAK]);
    x->site_file = findings_text(f, "%s", s->frame.file);
    x->site_line = s->frame.line;
    x->site_function = findings_text(f, "%s", s->frame.function);
    x->title = findings_text(
        f, "%s:%u %s() had %s alive at the peak%s, and nearly nothing of it before and after%s%s%s",
        s->frame.file, s->frame.line, s->frame.function, findings_bytes(bytes, size), at,
        off ? " (± " : "", off ? findings_bytes(off, error) : "", off ? ")" : "");
    x->fix = findings_text(
        f,
        "make what %s:%u makes piece by piece: a generator in place of a list, chunks of the "
        "input (lowtide.stream), an operation in place (out=, +=, inplace=True), or del of what "
        "came before it is no longer needed",
        s->frame.file, s->frame.line);
    x->confidence = off * 4 < bytes ? "high" : "medium";
    return x->site_file && x->site_function && x->title && x->fix ? 0 : findings_no_memory(f);
}

/* The peak stands clearly above what the process usually had; the sites that had more at the peak
 * than now are told, of each no more than what is above. */
static int join_temporary_peaks(findings_t *f, const profile_t *p) {
    uint64_t usual = 0, usual_rss = 0, peak = p->sums.bytes[PROFILE_PEAK];
    uint32_t process = p->peak_process, found = 0;
    if (p->mode == PROFILE_NONE || !p->process_count) return 0;
    int status = join_usual(p, process, &usual, &usual_rss, f->e);
    uint64_t above = peak > usual ? peak - usual : 0;
    /* What was allocated and never touched is not resident: the fix returns none of it. */
    uint64_t above_rss = p->rss_peak_bytes > usual_rss ? p->rss_peak_bytes - usual_rss : 0;
    if (above > above_rss) above = above_rss;
    if (status || above < TEMPORARY_MIN_BYTES || above < peak / TEMPORARY_SHARE) return status;
    for (uint32_t i = 0; i < p->site_count && found < TEMPORARY_MOST && !status; i++) {
        const profile_sums_t *s = &p->sites[i].sums;
        if (s->bytes[PROFILE_PEAK] < s->bytes[PROFILE_LIVE]) continue;
        uint64_t gone = s->bytes[PROFILE_PEAK] - s->bytes[PROFILE_LIVE];
        if (gone > above) gone = above;
        if (gone < TEMPORARY_MIN_BYTES || gone < peak / 10 ||
            gone < profile_error(s, PROFILE_PEAK)) {
            continue;
        }
        status = join_temporary(f, p, i, gone);
        above -= gone;
        found++;
    }
    return status;
}

/* The site that made most of what a finding names. */
static int join_site(findings_t *f, const profile_t *p, model_finding_t *x) {
    model_found_t found;
    profile_share_t most;
    err_t unfound;
    if (x->site_file || !x->path || !x->expression) return 0;
    if (model_find(f->m, x->path, &found, &unfound)) return 0;
    int status = 0;
    if (found.what == MODEL_WHAT_OBJECT && found.count == 1 &&
        profile_makers(p, f->m, found.ids[0], 1, &most)) {
        const profile_frame_t *frame = &p->sites[most.site].frame;
        x->site_file = findings_text(f, "%s", frame->file);
        x->site_line = frame->line;
        x->site_function = findings_text(f, "%s", frame->function);
        if (!x->site_file || !x->site_function) status = findings_no_memory(f);
    }
    model_found_free(&found);
    return status;
}

int profile_findings(profile_t *p, const model_t *m, model_findings_t *findings, err_t *e) {
    findings_t f = {.m = m, .out = findings, .room = findings->count, .e = e};
    int status = 0;
    if (p->sample_count) {
        for (uint32_t i = 0; i < findings->count && !status; i++) {
            status = join_site(&f, p, &findings->findings[i]);
        }
    }
    if (!status) status = join_temporary_peaks(&f, p);
    if (!status) findings_sort(findings);
    return status;
}
