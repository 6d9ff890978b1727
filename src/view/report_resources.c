#define _GNU_SOURCE
#include "view/report_resources.h"

#include "view/units.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES_CELLS = 10, COUNT_CELLS = 11, GAP = 2, JSON_MOST = 2000 };
enum { ALIKE_WORTH = 10, ALL_WORTH = 64 }; /* fewer are no answer to anything */

void resources_json(const report_t *r, json_t *j) {
    json_open(j, "resources", '[');
    for (uint32_t i = 0; i < r->resources.count && i < JSON_MOST; i++) {
        const model_resource_t *x = &r->resources.rows[i];
        model_path_t path = {0};
        err_t e;
        bool held = x->id < model_objects(r->model) && !model_path_to(r->model, x->id, &path, &e);
        json_open(j, NULL, '{');
        json_text(j, "kind", x->kind);
        json_text(j, "name", x->name);
        if (x->descriptor < 0)
            json_null(j, "descriptor");
        else
            json_int(j, "descriptor", x->descriptor);
        json_text(j, "note", *x->note ? x->note : NULL);
        json_uint(j, "bytes", x->bytes);
        if (x->file) {
            json_open(j, "opened_at", '{');
            json_text(j, "file", x->file);
            json_uint(j, "line", x->line);
            json_text(j, "function", x->function);
            json_close(j);
        } else {
            json_null(j, "opened_at");
        }
        json_text(j, "path", held ? path.text : NULL);
        json_close(j);
        if (held) model_path_free(&path);
    }
    json_close(j);
}

/* ---- As text: those alike in one line ---- */

typedef struct alike {
    const model_resource_t *first;
    uint64_t count, bytes;
} alike_t;

static int same(const char *a, const char *b) {
    return a && b ? strcmp(a, b) : (a != NULL) - (b != NULL);
}

static int by_kind(const void *a, const void *b) {
    const alike_t *x = a, *y = b;
    int d = strcmp(x->first->kind, y->first->kind);
    if (!d) d = strcmp(x->first->note, y->first->note);
    if (!d) d = same(x->first->file, y->first->file);
    if (!d) d = (x->first->line > y->first->line) - (x->first->line < y->first->line);
    return d;
}

static int by_count(const void *a, const void *b) {
    const alike_t *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? 1 : -1;
    return by_kind(a, b);
}

static void alike_line(const screen_t *s, const alike_t *a) {
    char text[UNITS_BYTES], where[160] = "", *what = NULL;
    const model_resource_t *x = a->first;
    const char *base = x->file ? strrchr(x->file, '/') : NULL;
    if (x->file)
        snprintf(where, sizeof where, ", opened at %.100s:%" PRIu32, base ? base + 1 : x->file,
                 x->line);
    fprintf(s->file, "%*s", BYTES_CELLS, a->bytes ? units_size(text, a->bytes) : "");
    fprintf(s->file, "%*s", COUNT_CELLS, units_count(text, a->count));
    screen_gap(s, GAP);
    if (asprintf(&what, "%s%s%s%s%s%s", x->kind, *x->note ? ", " : "", x->note, where,
                 *x->name ? ": " : "", x->name) < 0)
        what = NULL;
    if (what) screen_text(s, what, strlen(what), s->width - BYTES_CELLS - COUNT_CELLS - GAP);
    free(what);
    screen_end(s);
}

void resources_text(const report_t *r, const screen_t *s) {
    uint32_t n = r->resources.count, groups = 0;
    alike_t *all = n ? calloc(n, sizeof *all) : NULL;
    if (!all) return;
    for (uint32_t i = 0; i < n; i++)
        all[i] = (alike_t){&r->resources.rows[i], 1, r->resources.rows[i].bytes};
    qsort(all, n, sizeof *all, by_kind);
    for (uint32_t i = 0; i < n; i++) {
        if (groups && by_kind(&all[groups - 1], &all[i]) == 0) {
            all[groups - 1].count++;
            all[groups - 1].bytes += all[i].bytes;
        } else {
            all[groups++] = all[i];
        }
    }
    qsort(all, groups, sizeof *all, by_count);
    if (all[0].count >= ALIKE_WORTH || n >= ALL_WORTH) {
        screen_end(s);
        view_heading(
            s, "OPEN RESOURCES",
            "files, sockets, threads … by kind and where they were opened, with one as an example");
        for (uint32_t i = 0; i < groups && i < r->options.top; i++) alike_line(s, &all[i]);
    }
    free(all);
}
