#include "cli/rss_print.h"

#include "view/json.h"
#include "view/report_view.h"
#include "view/screen.h"
#include "view/units.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SIZE_CELLS = 10, /* "1023.9 MiB" */
    BACK_CELLS = 12,
    NAME_AT = SIZE_CELLS + BACK_CELLS + 2,
    OWNERS_SAID = 5,
    GROUPS_MOST = 128,
    MOSTLY_SAID = 2,
    SAID_MIN = 1 << 20
};

/* ── JSON ── */

/* What the driver says of the process; only the devices that it uses, or may use. */
static void gpu_json(json_t *j, const rss_found_t *f) {
    json_open(j, "gpu", '[');
    for (unsigned i = 0; i < f->gpu_count; i++) {
        const gpu_device_t *d = &f->gpus[i];
        json_open(j, NULL, '{');
        json_uint(j, "device", d->index);
        json_text(j, "name", d->name);
        if (d->known)
            json_uint(j, "process_bytes", d->process_bytes);
        else
            json_null(j, "process_bytes");
        json_uint(j, "used_bytes", d->used_bytes);
        json_uint(j, "total_bytes", d->total_bytes);
        json_close(j);
    }
    json_close(j);
}

static void pin_json(json_t *j, const char *type, uint64_t objects, uint64_t arenas, uint64_t bytes,
                     uint64_t returnable) {
    json_open(j, NULL, '{');
    json_text(j, "type", type);
    json_uint(j, "objects", objects);
    json_uint(j, "arenas", arenas);
    json_uint(j, "bytes", bytes);
    json_uint(j, "returnable_bytes", returnable);
}

static void pins_json(json_t *j, const rss_found_t *f) {
    json_open(j, "pins", '[');
    for (uint32_t i = 0; f->load.model && i < f->pins.count; i++) {
        const model_pin_t *p = &f->pins.pins[i];
        pin_json(j, p->type, p->objects, p->arenas, p->bytes, p->returnable_bytes);
        json_text(j, "path", p->path);
        view_pin_site_json(f->profile, f->load.model, p, j);
        json_close(j);
    }
    for (unsigned i = 0; !f->load.model && i < f->answer.pin_count; i++) {
        const ctl_pin_t *p = &f->answer.pins[i];
        pin_json(j, p->type, p->objects, p->arenas, p->bytes, p->returnable_bytes);
        json_close(j);
    }
    json_close(j);
}

void rss_print_json(const rss_found_t *f) {
    const answer_t *a = &f->answer;
    json_t j;
    json_init(&j, stdout);
    json_open(&j, NULL, '{');
    json_int(&j, "schema", 1);
    json_open(&j, "process", '{');
    if (f->pid)
        json_int(&j, "pid", f->pid);
    else
        json_null(&j, "pid");
    json_close(&j);
    json_open(&j, "memory", '{');
    json_uint(&j, "rss_bytes", a->result.bytes);
    json_uint(&j, "swap_bytes", a->result.objects);
    json_uint(&j, "huge_page_bytes", a->result.references);
    json_close(&j);
    json_real(&j, "pause_ms", (double)a->result.pause_us / 1e3);
    json_open(&j, "ledger", '[');
    for (unsigned i = 0; i < a->count; i++) {
        json_open(&j, NULL, '{');
        json_text(&j, "name", a->lines[i].name);
        json_uint(&j, "bytes", a->lines[i].bytes);
        json_uint(&j, "returnable_bytes", a->lines[i].returnable_bytes);
        json_text(&j, "note", a->lines[i].note);
        json_close(&j);
    }
    json_close(&j);
    pins_json(&j, f);
    if (f->load.model) view_owners_json(&f->owners, &j);
    if (f->live) gpu_json(&j, f);
    json_close(&j);
}

/* ── Text ── */

static void text_line(const screen_t *s, const char *text, int at) {
    screen_text(s, text, strlen(text), s->width - at);
    fputc('\n', stdout);
}

static void figures(uint64_t bytes, uint64_t returnable) {
    char size[UNITS_BYTES], back[UNITS_BYTES];
    printf("%*s %*s  ", SIZE_CELLS, units_size(size, bytes), BACK_CELLS - 1,
           returnable ? units_size(back, returnable) : "");
}

/* "process 4711: 319.1 MiB resident, mostly malloc: large blocks, each mapped (92.5 MiB)" */
static void summary_text(const screen_t *s, const rss_found_t *f, uint64_t returnable) {
    const answer_t *a = &f->answer;
    char text[640], size[UNITS_BYTES];
    size_t n = f->pid ? (size_t)snprintf(text, sizeof text, "process %d: ", (int)f->pid) : 0;
    n += (size_t)snprintf(text + n, sizeof text - n, "%s resident",
                          units_size(size, a->result.bytes));
    uint64_t below = UINT64_MAX;
    for (unsigned said = 0; said < MOSTLY_SAID && n < sizeof text; said++) {
        const ctl_line_t *best = NULL;
        for (unsigned i = 0; i < a->count; i++)
            if (a->lines[i].bytes < below && (!best || a->lines[i].bytes > best->bytes))
                best = &a->lines[i];
        if (!best || best->bytes < a->result.bytes / 5) break;
        below = best->bytes;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%.120s (%s)", said ? ", " : "; mostly ",
                              best->name, units_size(size, below));
    }
    screen_wrapped(s, text, 0, s->width);
    if (f->live && returnable >= SAID_MIN)
        printf("%s of it can go back now: lowtide free %d\n", units_size(size, returnable),
               (int)f->pid);
    fputc('\n', stdout);
}

static void owner_text(const screen_t *s, uint64_t bytes, const char *text) {
    char size[UNITS_BYTES], line[800];
    snprintf(line, sizeof line, "%s: %s", units_size(size, bytes), text);
    screen_gap(s, NAME_AT + 2);
    screen_wrapped(s, line, NAME_AT + 4, s->width - NAME_AT - 4);
}

/* ── Owners that differ by an index or key alone are one line ── */

typedef struct owner_group {
    const model_owner_t *first;
    unsigned count;
    uint64_t bytes;
} owner_group_t;

/* at: a '['. Where that ends: its ']', or the path. */
static const char *index_end(const char *at) {
    char quote = at[1];
    const char *end = strchr(at, ']');
    if (quote == '\'' || quote == '"')
        for (end = at + 2; *end && !(end[0] == ']' && end[-1] == quote); end++) {
        }
    return end ? end : at + strlen(at);
}

static bool alike(const model_owner_t *x, const model_owner_t *y) {
    const char *a = x->path, *b = y->path;
    if (strcmp(x->type, y->type) != 0) return false;
    while (*a && *a == *b) {
        if (*a == '[') a = index_end(a), b = index_end(b);
        if (*a) a++;
        if (*b) b++;
    }
    return *a == *b;
}

static int by_bytes(const void *a, const void *b) {
    const owner_group_t *x = a, *y = b;
    return x->bytes < y->bytes ? 1 : x->bytes > y->bytes ? -1 : 0;
}

/* Those of one line of the ledger, most bytes first. Returns how many. */
static size_t group(const rss_found_t *f, const char *line, owner_group_t *out, size_t most) {
    size_t n = 0;
    for (uint32_t i = 0; i < f->owners.count; i++) {
        const model_owner_t *o = &f->owners.owners[i];
        size_t at = 0;
        if (strcmp(o->line, line) != 0) continue;
        while (at < n && !alike(out[at].first, o)) at++;
        if (at == most) continue; /* too small to be listed */
        if (at == n) out[n++] = (owner_group_t){.first = o};
        out[at].count++;
        out[at].bytes += o->bytes;
    }
    qsort(out, n, sizeof out[0], by_bytes);
    return n;
}

static void group_name(const screen_t *s, const owner_group_t *g, char *out, size_t room) {
    const char *any = screen_symbol(s, "…", "...");
    size_t used = (size_t)snprintf(out, room, "%u %s %.200s ", g->count, screen_symbol(s, "×", "x"),
                                   g->first->type);
    for (const char *at = g->first->path; *at && used + 8 < room; at++) {
        out[used++] = *at;
        if (*at != '[') continue;
        used += (size_t)snprintf(out + used, room - used, "%s", any);
        at = index_end(at) - 1;
    }
    out[used] = '\0';
}

/* Below its line, whose it is, and how much is nobody's that is known. */
static void owners_text(const screen_t *s, const rss_found_t *f, const ctl_line_t *line) {
    char text[768];
    owner_group_t groups[GROUPS_MOST];
    size_t n = group(f, line->name, groups, GROUPS_MOST), said = 0;
    unsigned others = 0;
    uint64_t told = 0, small = 0;
    for (size_t i = 0; i < n; i++) {
        const owner_group_t *g = &groups[i];
        if (said == OWNERS_SAID || g->bytes < SAID_MIN) {
            others += g->count;
            small += g->bytes;
            continue;
        }
        said++;
        told += g->bytes;
        if (g->count > 1)
            group_name(s, g, text, sizeof text);
        else
            snprintf(text, sizeof text, "%.200s %.400s", g->first->type, g->first->path);
        owner_text(s, g->bytes, text);
    }
    snprintf(text, sizeof text, "%u other objects", others);
    if (small >= SAID_MIN) owner_text(s, small, text);
    if (said && line->bytes > told + small && line->bytes - told - small >= SAID_MIN)
        owner_text(s, line->bytes - told - small, "no object that is known");
}

static void gpu_text(const screen_t *s, const rss_found_t *f) {
    char size[UNITS_BYTES], used[UNITS_BYTES], total[UNITS_BYTES], text[320];
    for (unsigned i = 0; i < f->gpu_count; i++) {
        const gpu_device_t *d = &f->gpus[i];
        if (!d->has_process) continue;
        printf("%*s %*s  ", SIZE_CELLS, d->known ? units_size(size, d->process_bytes) : "?",
               BACK_CELLS - 1, "");
        snprintf(text, sizeof text, "on GPU %u, %s: %s of %s in use by all", d->index, d->name,
                 units_size(used, d->used_bytes), units_size(total, d->total_bytes));
        text_line(s, text, NAME_AT);
    }
}

static void pin_text(const screen_t *s, const model_pin_t *p, const profile_frame_t *site,
                     bool first) {
    char count[UNITS_BYTES], text[1024], place[300];
    if (first) fputs("\nNearly empty arenas, and what keeps each:\n", stdout);
    figures(p->bytes, p->returnable_bytes);
    bool objects = p->objects && p->type[0] != '(';
    snprintf(text, sizeof text, "%u %s: %s%s%.200s%s%.400s%s%.300s", (unsigned)p->arenas,
             p->arenas == 1 ? "arena" : "arenas", objects ? units_count(count, p->objects) : "",
             objects ? " " : "", objects ? p->type : "blocks that are no objects",
             p->path ? ", held by " : "", p->path ? p->path : "", site ? ", made at " : "",
             site ? view_place(place, sizeof place, site->file, site->line) : "");
    screen_wrapped(s, text, NAME_AT, s->width - NAME_AT);
}

static void pins_text(const screen_t *s, const rss_found_t *f) {
    uint32_t count = f->load.model ? f->pins.count : f->answer.pin_count;
    for (uint32_t i = 0, said = 0; i < count; i++) {
        model_pin_t p;
        const profile_frame_t *site = NULL;
        if (f->load.model) {
            p = f->pins.pins[i];
            site = view_pin_site(f->profile, f->load.model, &p);
        } else {
            const ctl_pin_t *t = &f->answer.pins[i];
            p = (model_pin_t){.type = t->type,
                              .objects = t->objects,
                              .arenas = t->arenas,
                              .bytes = t->bytes,
                              .returnable_bytes = t->returnable_bytes};
        }
        if (p.bytes >= SAID_MIN) pin_text(s, &p, site, said++ == 0);
    }
}

void rss_print_text(const rss_found_t *f) {
    const answer_t *a = &f->answer;
    uint64_t returnable = 0;
    screen_t s;
    screen_init(&s, stdout, STDOUT_FILENO);
    for (unsigned i = 0; i < a->count; i++) returnable += a->lines[i].returnable_bytes;
    summary_text(&s, f, returnable);
    printf("%*s %*s\n", SIZE_CELLS, "resident", BACK_CELLS - 1, "returnable");
    for (unsigned i = 0; i < a->count; i++) {
        const ctl_line_t *l = &a->lines[i];
        figures(l->bytes, l->returnable_bytes);
        text_line(&s, l->name, NAME_AT);
        /* What stands in the way of little is no news. */
        if (l->note[0] && (l->bytes * 100 >= a->result.bytes || l->returnable_bytes >= SAID_MIN)) {
            printf("%*s", NAME_AT, "");
            screen_wrapped(&s, l->note, NAME_AT, s.width - NAME_AT);
        }
        owners_text(&s, f, l);
    }
    figures(a->result.bytes, returnable);
    fputs("in all\n", stdout);
    if (a->result.objects) {
        figures(a->result.objects, 0);
        fputs("swapped out, not counted above\n", stdout);
    }
    if (a->result.references) {
        figures(a->result.references, 0);
        fputs("of it in huge pages\n", stdout);
    }
    gpu_text(&s, f);
    pins_text(&s, f);
    if (!f->live || f->load.model) return;
    char hint[128];
    fputc('\n', stdout);
    snprintf(hint, sizeof hint,
             "Whose it is: lowtide rss %d --owners (large blocks), lowtide dump %d (all)",
             (int)f->pid, (int)f->pid);
    screen_wrapped(&s, hint, 0, s.width);
}
