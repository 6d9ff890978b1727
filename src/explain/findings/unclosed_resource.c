/* unclosed-resource: many things of the system alike that one holder keeps open; children that have ended and nobody waited for;
 * connections that the other side has closed; files that have no name left and still have their bytes. */
#include "explain/findings/findings.h"

#include "base/mem.h"
#include "explain/open_resources.h"

#include <stdio.h>
#include <string.h>

enum { DELETED_MIN_BYTES = 16 << 20, ROUTES_MOST = 3 };

typedef struct sort {
    const char *kind;
    const char *note;  /* only with this one; NULL: with any */
    const char *words; /* "%s open files" */
    const char *fix;   /* what to do; where they are held is said behind it */
    uint64_t least;    /* so many alike are a finding; 0: so many bytes are (DELETED_MIN_BYTES) */
    const char *confidence;
} sort_t;

/* Floors: what pools, servers and log handlers of healthy programs keep open stays below. Connected sockets are nothing to go by: a
 * server has as many as it has clients. */
static const sort_t sorts[] = {
    {"file", "", "open files", "close each when it has been read or written: with open(…) as f",
     100, "medium"},
    {"file", "deleted", "files, deleted but open",
     "close them, or open them anew where they were rotated: their bytes stay until then", 0,
     "high"},
    {"file", "without a name", "temporary files, open",
     "close each when it is no longer needed: with tempfile.TemporaryFile() as f", 100, "medium"},
    {"socket", "closed by the peer", "sockets whose other side has closed",
     "close a connection when recv returns b'', and give idle ones a timeout", 20, "high"},
    {"socket", "not connected", "sockets, not connected",
     "close each when its connection has failed or ended", 100, "medium"},
    {"pipe", NULL, "pipes", "close both ends when the other process is done", 200, "medium"},
    {"epoll", NULL, "epoll descriptors", "close each selector or event loop when it is done", 32,
     "medium"},
    {"cursor", NULL, "database cursors, not closed",
     "close each cursor when its rows are read: with closing(db.cursor()) as c", 100, "medium"},
    {"connection", NULL, "database connections, not closed",
     "close each connection, or share them in a pool: with closing(connect(…)) as db", 64,
     "medium"},
    {"subprocess", "ended, not waited for", "processes that have ended and were not waited for",
     "call wait() or communicate(), or use subprocess.run: each keeps an entry in the kernel's "
     "table",
     10, "high"},
};

static bool is_of(const sort_t *s, const model_resource_t *x) {
    return strcmp(x->kind, s->kind) == 0 && (!s->note || strcmp(x->note, s->note) == 0) &&
           (x->descriptor > 2 || x->descriptor < 0);
}

/* The line that opened most of them. */
static const model_resource_t *opened_at(const model_resources_t *all, const sort_t *s) {
    const model_resource_t *best = NULL;
    uint64_t most = 0;
    for (uint32_t i = 0; i < all->count && i < 4096; i++) {
        const model_resource_t *x = &all->rows[i];
        uint64_t alike = 0;
        if (!is_of(s, x) || !x->file ||
            (best && best->line == x->line && strcmp(best->file, x->file) == 0))
            continue;
        for (uint32_t k = 0; k < all->count; k++) {
            const model_resource_t *y = &all->rows[k];
            alike += is_of(s, y) && y->file && y->line == x->line && strcmp(y->file, x->file) == 0;
        }
        if (alike > most) most = alike, best = x;
    }
    return best;
}

static int report(findings_t *f, const model_resources_t *all, const sort_t *s,
                  const model_route_t *route, uint64_t count, uint64_t bytes) {
    char number[32], size[32];
    model_finding_t *x = findings_add(f, "unclosed-resource");
    const model_resource_t *at = opened_at(all, s);
    if (!x) return findings_no_memory(f);
    x->bytes = bytes;
    x->objects = count;
    x->confidence = s->confidence;
    const char *by = route ? route->through : "no Python object (bare numbers, or C code)";
    x->title = findings_text(f, "%s %s, held by %s: %s", findings_count(count, number),
                             count == 1 && !s->least ? "file, deleted but open" : s->words, by,
                             findings_bytes(bytes, size));
    if (route) {
        x->type = findings_text(f, "%s", model_type_name(f->m, route->example));
        x->path = findings_text(f, "%s", route->text);
        /* The bytes of deleted files are the disk's. */
        int status = s->least ? findings_name(f, x, route->orders, route->count) : 0;
        if (status) return status;
        if (!x->type || !x->path) return findings_no_memory(f);
    }
    if (at) {
        x->site_file = findings_text(f, "%s", at->file);
        x->site_line = at->line;
        x->site_function = findings_text(f, "%s", at->function ? at->function : "");
        if (!x->site_file || !x->site_function) return findings_no_memory(f);
        x->fix = findings_text(f, "%s. Opened at %s:%u, in %s()", s->fix, at->file, at->line,
                               x->site_function);
    } else {
        x->fix = findings_text(
            f, "%s. Where they were opened was not seen: lowtide run --exact tells", s->fix);
    }
    return x->title && x->fix ? 0 : findings_no_memory(f);
}

static int find_sort(findings_t *f, const model_resources_t *all, const sort_t *s, uint32_t *ids) {
    uint64_t held = 0, bare = 0, bytes = 0;
    for (uint32_t i = 0; i < all->count; i++) {
        const model_resource_t *x = &all->rows[i];
        if (!is_of(s, x)) continue;
        bytes += x->bytes;
        if (x->id < f->m->g.n)
            ids[held++] = x->id;
        else
            bare++;
    }
    if (s->least ? held + bare < s->least : bytes < DELETED_MIN_BYTES) return 0;
    model_routes_t routes = {0};
    int status = held ? model_routes_of(f->m, ids, held, NULL, &routes, f->e) : 0;
    for (uint32_t i = 0; i < routes.count && i < ROUTES_MOST && !status; i++) {
        const model_route_t *route = &routes.routes[i];
        if (s->least && route->count < s->least) break;
        uint64_t share = s->least ? route->retained_bytes : bytes / held * route->count;
        if (!s->least && share < DELETED_MIN_BYTES) continue;
        status = report(f, all, s, route, route->count, share);
    }
    model_routes_free(&routes);
    if (!status && s->least && bare >= s->least) status = report(f, all, s, NULL, bare, 0);
    return status;
}

int finding_unclosed_resource(findings_t *f) {
    model_resources_t all;
    int status = model_resources(f->m, NULL, &all, f->e);
    if (status) return status;
    size_t room = (all.count + (size_t)1) * sizeof(uint32_t);
    uint32_t *ids = mem_map(room);
    if (!ids) status = findings_no_memory(f);
    for (size_t i = 0; i < sizeof sorts / sizeof *sorts && !status; i++)
        status = find_sort(f, &all, &sorts[i], ids);
    mem_unmap(ids, room);
    model_resources_free(&all);
    return status;
}
