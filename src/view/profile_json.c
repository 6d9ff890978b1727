#define _GNU_SOURCE
#include "view/profile_view.h"

#include "base/mem.h"
#include "explain/profile_groups.h"

#include <string.h>

enum { POINTS_MOST = 4000 };

/* Of more points than a reader can use, the highest of so many in a row. */
void profile_timeline_json(const report_t *r, json_t *j) {
    const profile_t *p = r->profile;
    if (p && p->rss_peak_bytes) {
        json_real(j, "peak_at_s", (double)p->peak_us / 1e6);
    } else {
        json_null(j, "peak_at_s");
    }
    json_open(j, "timeline", '[');
    uint32_t step = p ? p->point_count / POINTS_MOST + 1 : 1;
    for (uint32_t i = 0; p && i < p->point_count; i += step) {
        const profile_point_t *most = &p->points[i];
        for (uint32_t k = i; k < i + step && k < p->point_count; k++) {
            if (p->points[k].process != most->process) continue;
            if (p->points[k].rss_bytes > most->rss_bytes) most = &p->points[k];
        }
        json_open(j, NULL, '{');
        json_real(j, "t_s", (double)most->t_us / 1e6);
        json_uint(j, "rss_bytes", most->rss_bytes);
        json_uint(j, "heap_bytes", most->heap_bytes);
        if (p->process_count > 1) json_uint(j, "pid", p->processes[most->process].pid);
        json_close(j);
    }
    if ((!p || !p->point_count) && r->has_rss && r->has_duration) {
        json_open(j, NULL, '{');
        json_real(j, "t_s", r->duration_s);
        json_uint(j, "rss_bytes", r->rss_bytes);
        json_uint(j, "heap_bytes", model_totals(r->model)->shallow_bytes);
        json_close(j);
    }
    json_close(j);
}

static void words_json(json_t *j, const char *words) {
    const char *word = words && *words ? words : NULL;
    while (word) {
        const char *end = strchr(word, '\x1f');
        json_text_n(j, NULL, word, end ? (size_t)(end - word) : strlen(word));
        word = end ? end + 1 : NULL;
    }
}

void profile_processes_json(const report_t *r, json_t *j) {
    static const char *const how[] = {"started", "started", "forked", "spawned", "attached"};
    const profile_t *p = r->profile;
    json_open(j, "processes", '[');
    for (uint32_t i = 0; p && i < p->process_count; i++) {
        const profile_process_t *one = &p->processes[i];
        json_open(j, NULL, '{');
        json_uint(j, "pid", one->pid);
        if (one->parent == LOWTIDE_NONE)
            json_null(j, "parent_pid");
        else
            json_uint(j, "parent_pid", p->processes[one->parent].pid);
        json_text(j, "how", one->how < 5 ? how[one->how] : NULL);
        json_open(j, "command", '[');
        words_json(j, one->command);
        json_close(j);
        json_real(j, "begin_s", (double)one->begin_us / 1e6);
        if (one->ended)
            json_real(j, "end_s", (double)one->end_us / 1e6);
        else
            json_null(j, "end_s");
        if (one->has_exit)
            json_int(j, "exit_status", one->exit_status);
        else
            json_null(j, "exit_status");
        json_uint(j, "peak_rss_bytes", one->rss_peak_bytes);
        json_close(j);
    }
    json_close(j);
    json_open(j, "not_followed", '[');
    words_json(j, lowtide_meta(r->rec, "not_followed"));
    json_close(j);
}

static void held_json(const report_t *r, json_t *j, uint32_t site, int when) {
    bool peak = when == PROFILE_AT_PEAK;
    profile_held_t held = {0};
    profile_made_t made = {
        .model = peak ? r->peak : r->model, .when = when, .site = site, .line = LOWTIDE_NONE};
    err_t e;
    bool known = made.model && !profile_held(r->profile, &made, &held, &e);
    json_text(j, peak ? "peak_held_by" : "held_by", known ? held.path : NULL);
    const char *share = peak ? "peak_held_share" : "held_share";
    if (known && held.path)
        json_real(j, share, (double)held.samples / (double)held.of);
    else
        json_null(j, share);
    if (known) profile_held_free(&held);
}

void profile_makers_json(const profile_t *p, const profile_kept_t *kept, json_t *j) {
    enum { MAKERS_MOST = 3 };
    profile_share_t shares[MAKERS_MOST];
    uint32_t count = p ? profile_makers(p, kept, MAKERS_MOST, shares) : 0;
    json_open(j, "made_at", '[');
    for (uint32_t i = 0; i < count; i++) {
        const profile_frame_t *f = &p->lines[shares[i].line].frame;
        json_open(j, NULL, '{');
        json_text(j, "file", f->file);
        json_uint(j, "line", f->line);
        json_text(j, "function", f->function);
        json_uint(j, "bytes", shares[i].bytes);
        json_uint(j, "error_bytes", shares[i].error_bytes);
        json_close(j);
    }
    json_close(j);
}

static void source_json(const profile_frame_t *f, json_t *j) {
    json_text(j, "source", f->source && *f->source ? f->source : NULL);
}

static void from_json(const profile_frame_t *from, json_t *j) {
    if (!from) {
        json_null(j, "from");
        return;
    }
    json_open(j, "from", '{');
    json_text(j, "file", from->file);
    json_uint(j, "line", from->line);
    json_text(j, "function", from->function);
    source_json(from, j);
    json_close(j);
}

/* Those that are among the first by one figure or another; NULL: no memory. */
static bool *sites_chosen(const profile_t *p, uint32_t top) {
    static const int figures[] = {PROFILE_PEAK, PROFILE_LIVE, PROFILE_TOTAL, PROFILE_GONE};
    bool *chosen = mem_alloc(p->site_count + 1);
    for (uint32_t i = 0; chosen && i < p->site_count; i++) chosen[i] = false;
    for (size_t f = 0; chosen && f < sizeof figures / sizeof *figures; f++) {
        uint32_t *order;
        err_t e;
        if (profile_order(p, figures[f], &order, &e)) continue;
        for (uint32_t i = 0; i < p->site_count && i < top; i++) chosen[order[i]] = true;
        mem_free(order);
    }
    return chosen;
}

/* As people read them: where most is in lines of which none stands out, their functions or files do. */
static void groups_json(const report_t *r, json_t *j) {
    static const struct {
        int figure;
        const char *name;
    } of[] = {{PROFILE_PEAK, "peak"}, {PROFILE_LIVE, "live"}, {PROFILE_GONE, "gone"}};
    const profile_t *p = r->profile;
    json_open(j, "groups", '[');
    for (size_t f = 0; p && f < sizeof of / sizeof *of; f++) {
        profile_groups_t groups;
        int figure = of[f].figure;
        err_t e;
        if (profile_groups(p, figure, &groups, &e)) continue;
        for (uint32_t i = 0; i < groups.count && i < r->options.top; i++) {
            const profile_group_t *one = &groups.at[i];
            json_open(j, NULL, '{');
            json_text(j, "figure", of[f].name);
            json_text(j, "file", one->frame->file);
            json_text(j, "function", one->by_function ? one->frame->function : NULL);
            json_uint(j, "lines", one->lines);
            json_uint(j, "bytes", one->sums.bytes[figure]);
            json_uint(j, "blocks", one->sums.blocks[figure]);
            json_uint(j, "error_bytes", profile_error(p, &one->sums, figure));
            json_close(j);
        }
        mem_free(groups.at);
    }
    json_close(j);
}

void profile_json(const report_t *r, json_t *j) {
    const profile_t *p = r->profile;
    json_open(j, "allocations", '{');
    json_text(j, "mode",
              !p || p->mode == PROFILE_NONE ? NULL
              : p->mode == PROFILE_SAMPLED  ? "sampled"
                                            : "exact");
    if (p && p->mode == PROFILE_SAMPLED)
        json_uint(j, "interval_bytes", p->interval_bytes);
    else
        json_null(j, "interval_bytes");
    json_uint(j, "lost_stacks", p ? p->lost_stacks : 0);
    json_uint(j, "lost_blocks", p ? p->lost_blocks : 0);
    json_open(j, "sites", '[');
    bool *chosen = p ? sites_chosen(p, r->options.top) : NULL;
    for (uint32_t i = 0; chosen && i < p->site_count; i++) {
        const profile_site_t *site = &p->sites[i];
        if (!chosen[i]) continue;
        json_open(j, NULL, '{');
        json_text(j, "file", site->frame.file);
        json_uint(j, "line", site->frame.line);
        json_text(j, "function", site->frame.function);
        source_json(&site->frame, j);
        json_uint(j, "live_bytes", site->sums.bytes[PROFILE_LIVE]);
        json_uint(j, "live_blocks", site->sums.blocks[PROFILE_LIVE]);
        json_uint(j, "peak_bytes", site->sums.bytes[PROFILE_PEAK]);
        json_uint(j, "peak_blocks", site->sums.blocks[PROFILE_PEAK]);
        json_uint(j, "rss_peak_bytes", site->sums.bytes[PROFILE_RSS_PEAK]);
        json_uint(j, "rss_peak_blocks", site->sums.blocks[PROFILE_RSS_PEAK]);
        json_uint(j, "total_bytes", site->sums.bytes[PROFILE_TOTAL]);
        json_uint(j, "total_blocks", site->sums.blocks[PROFILE_TOTAL]);
        json_uint(j, "error_bytes", profile_error(p, &site->sums, PROFILE_PEAK));
        json_uint(j, "live_error_bytes", profile_error(p, &site->sums, PROFILE_LIVE));
        json_uint(j, "total_error_bytes", profile_error(p, &site->sums, PROFILE_TOTAL));
        json_uint(j, "rss_peak_error_bytes", profile_error(p, &site->sums, PROFILE_RSS_PEAK));
        json_uint(j, "gone_bytes", site->sums.bytes[PROFILE_GONE]);
        json_uint(j, "gone_error_bytes", profile_error(p, &site->sums, PROFILE_GONE));
        from_json(profile_from(p, site), j);
        held_json(r, j, i, PROFILE_AT_END);
        held_json(r, j, i, PROFILE_AT_PEAK);
        json_close(j);
    }
    mem_free(chosen);
    json_close(j);
    groups_json(r, j);
    json_close(j);
}
