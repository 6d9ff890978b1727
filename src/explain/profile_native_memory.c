/* native-memory: pixels, parse trees, pages of a database in memory, a renderer's buffers. Of those Python objects are handles
 * of some hundred bytes, so the heap shows nothing, and may be a hundredth of what is resident. The line that made them is known
 * by their samples: live ones of C allocators in which no object lies. */
#define _GNU_SOURCE
#include "explain/profile_findings.h"

#include "base/mem.h"
#include "base/origin.h"
#include "explain/model_owners.h"

#include <ctype.h>
#include <string.h>

enum {
    NATIVE_MIN_BYTES = 16 << 20,
    NATIVE_SHARE = 10,
    NATIVE_MOST = 3,
    NATIVE_EACH = 3,   /* blocks of an object at most */
    NATIVE_MANY = 100, /* of fewer, a multiple says nothing */
    NATIVE_FEW = 8,    /* of fewer, even as many objects as blocks say nothing */
    DOMAIN_RAW = 1,
    DOMAIN_MMAP = 4
};

typedef struct native_advice {
    const char *file;    /* how it begins, below the installed packages */
    const char *call[2]; /* or of the line's text, where no longer name ends in it */
    const char *owner;   /* the type of the objects that own it; NULL: not always the same */
    const char *advice;  /* what to do with it */
} native_advice_t;

static const native_advice_t native_advices[] = {
    {"matplotlib/",
     {NULL},
     "matplotlib.figure.Figure",
     "plt.close(fig) when a figure is saved or shown (pyplot keeps every figure that it made)"},
    {"PIL/",
     {NULL},
     NULL,
     "image.close() when an image is done with, and keep the encoded file or a thumbnail in the "
     "place of its pixels"},
    {"lxml/",
     {"etree."},
     "lxml.etree._Element",
     "el.clear() for each element that iterparse has told, and keep texts and numbers, no "
     "elements: each keeps its whole tree"},
    {"_polars_runtime",
     {NULL},
     "polars.dataframe.frame.DataFrame",
     "scan_… and collect(engine=\"streaming\") in place of read_…, and del of frames that are "
     "done with: its allocator gives back what they had some seconds later"},
    {"sqlalchemy/",
     {".execute(", ".executemany("},
     NULL,
     "close the connection or cursor, or keep the database in a file"},
    {"torch/",
     {NULL},
     "torch.Tensor",
     "del tensors that are done with, and keep numbers in their place (loss.item(), "
     "x.detach().cpu())"},
};

typedef struct native_sum {
    uint64_t bytes, alive, interval;
    uint64_t pool; /* of the bytes, in Arrow's pool */
    double variance;
} native_sum_t;

typedef struct native_owner {
    const char *type, *path; /* NULL: not known */
    uint64_t count;
    bool garbage; /* nothing holds them */
} native_owner_t;

static const profile_frame_t *native_taker(const profile_t *p, const profile_site_t *line) {
    return line->most < p->site_count ? &p->sites[line->most].frame : &line->frame;
}

/* Of "etree." not the end of "my_etree."; ".execute(" begins no name, and may follow one. */
static bool native_calls(const char *source, const char *call) {
    for (const char *at = source; (at = strstr(at, call)); at++) {
        bool within =
            *call != '.' && at > source && (isalnum((unsigned char)at[-1]) || at[-1] == '_');
        if (!within) return true;
    }
    return false;
}

/* The file says who took it, before what any line's text lets one guess. */
static const native_advice_t *native_advice(const profile_t *p, const profile_site_t *line,
                                            bool *sure) {
    const char *below;
    const bool installed = origin_of(native_taker(p, line)->file, &below) == ORIGIN_PACKAGE;
    const char *source = line->frame.source ? line->frame.source : "";
    const size_t rows = sizeof native_advices / sizeof *native_advices;
    *sure = false;
    for (size_t i = 0; i < rows; i++) {
        const char *begin = native_advices[i].file;
        *sure = installed && strncmp(below, begin, strlen(begin)) == 0;
        if (*sure) return &native_advices[i];
    }
    for (size_t i = 0; i < rows; i++) {
        const native_advice_t *row = &native_advices[i];
        for (size_t k = 0; k < sizeof row->call / sizeof *row->call && row->call[k]; k++)
            if (native_calls(source, row->call[k])) return row;
    }
    return NULL;
}

/* Of threads that are in no Python no frame tells whose they are, but for C's. Of polars, which works in threads of its own, and
 * takes memory in no other way worth telling, it is enough that the program has data of it. */
static const native_advice_t *native_threads(const model_t *m, const char **library) {
    bool alive = false;
    for (uint32_t i = 0; i < m->type_count && !alive; i++)
        alive = m->types[i].count && model_type_is_polars(&m->types[i]);
    for (size_t k = 0; alive && k < sizeof native_advices / sizeof *native_advices; k++) {
        if (strcmp(native_advices[k].file, "_polars_runtime") != 0) continue;
        *library = "polars";
        return &native_advices[k];
    }
    return NULL;
}

/* The first directory below the installed packages: "PIL". */
static size_t native_package(const char *file, const char **package) {
    return origin_of(file, package) == ORIGIN_PACKAGE ? strcspn(*package, "/") : 0;
}

/* Whether so many objects have `each` blocks, as far as samples tell how many blocks there are. */
static bool native_fits(uint64_t count, uint64_t each, const profile_sums_t *s,
                        uint64_t off_bytes) {
    uint64_t blocks = s->blocks[PROFILE_LIVE], all = count * each;
    uint64_t off = all > blocks ? all - blocks : blocks - all, doubt = blocks / 10;
    if (each == 1) return off <= doubt;
    if (blocks < NATIVE_MANY || !s->bytes[PROFILE_LIVE]) return false;
    return off <=
           doubt + (uint64_t)((double)blocks * (double)off_bytes / (double)s->bytes[PROFILE_LIVE]);
}

/* Numbers alone may be alike by chance. What C code makes is owned by an object of C's, or by one that made it: then a method of it is
 * what took it (`Tree.__init__`; before Python 3.11 `__init__`). */
static bool native_may_own(const model_t *m, const model_type_t *t, const char *function) {
    if (!(lowtide_shape_at(m->rec, t->shape)->flags & LOWTIDE_SHAPE_HEAP_TYPE)) return true;
    const char *dot = strrchr(t->name, '.'), *name = dot ? dot + 1 : t->name;
    size_t n = strlen(name);
    return (strncmp(function, name, n) == 0 && function[n] == '.') ||
           strcmp(function, "__init__") == 0;
}

/* Of the package's types the one that has an instance for each block, or for each two or three. `sure`: it is known for such ones. */
static uint32_t native_type(const profile_t *p, const profile_site_t *line, const model_t *m,
                            const native_advice_t *advice, bool sure) {
    const char *package;
    const profile_sums_t none = {0},
                         *sums = line->most < p->site_count ? &p->sites[line->most].sums : &none;
    uint64_t off = profile_error(p, sums, PROFILE_LIVE);
    const profile_frame_t *taker = native_taker(p, line);
    size_t length = native_package(taker->file, &package);
    for (uint64_t each = 1; each <= NATIVE_EACH; each++) {
        for (uint32_t i = 0; i < m->type_count; i++) {
            const model_type_t *t = &m->types[i];
            if (advice && advice->owner) {
                if (strcmp(t->name, advice->owner) == 0) return i;
                continue;
            }
            bool its = length && strncmp(t->name, package, length) == 0 && t->name[length] == '.';
            if (its && t->count >= (sure ? 2 : NATIVE_FEW) &&
                native_fits(t->count, each, sums, off) &&
                (sure || native_may_own(m, t, taker->function)))
                return i;
        }
    }
    return LOWTIDE_NONE;
}

/* Where most of the type's instances are kept. */
static int native_owner(findings_t *f, const profile_t *p, const profile_site_t *line,
                        const native_advice_t *advice, bool sure, native_owner_t *out) {
    const model_t *m = f->m;
    uint32_t type = native_type(p, line, m, advice, sure), count = 0;
    model_routes_t routes;
    *out = (native_owner_t){0};
    if (type == LOWTIDE_NONE || !m->types[type].count) return 0;
    uint32_t *ids = mem_alloc(m->types[type].count * sizeof *ids);
    if (!ids) return findings_no_memory(f);
    for (uint32_t id = 0; id < m->g.n && count < m->types[type].count; id++)
        if (model_type_of(m, id) == type) ids[count++] = id;
    int status = model_routes_of(m, ids, count, NULL, &routes, f->e);
    mem_free(ids);
    if (status) return status;
    *out = (native_owner_t){.type = m->types[type].name, .count = count};
    static const char garbage[] = "garbage > ";
    out->garbage = routes.count && routes.routes[0].count > count / 2 &&
                   strncmp(routes.routes[0].text, garbage, sizeof garbage - 1) == 0;
    if (!out->garbage && routes.count && routes.routes[0].through &&
        routes.routes[0].count > count / 2) {
        out->path = findings_text(f, "%s", routes.routes[0].through);
        status = out->path ? 0 : findings_no_memory(f);
    }
    model_routes_free(&routes);
    return status;
}

/* What took it: a line; with frames of C alone the library; or threads that are in no Python. */
static const char *native_place(findings_t *f, const profile_frame_t *frame) {
    const char *base = profile_file_base(frame->file);
    if (!*base) return "threads of C code";
    return frame->line ? findings_text(f, "%s:%u", base, frame->line) : base;
}

static const char *native_fix(findings_t *f, const char *place, const native_advice_t *advice,
                              const char *library, const char *holder) {
    if (holder)
        return findings_text(
            f,
            "drop what has it of pyarrow's memory pool, as soon as it is done with "
            "(%s may be that): pyarrow.total_allocated_bytes() tells what is in "
            "use, and pyarrow.default_memory_pool().release_unused() returns the "
            "rest",
            holder);
    if (library)
        return findings_text(f, "free what %s makes in its threads: %s", library, advice->advice);
    if (!place)
        return findings_text(f, "bound what a library's own threads keep, by its settings: "
                                "`lowtide run --native` tells which library it is");
    return findings_text(f, "free what %s makes: %s", place,
                         advice ? advice->advice
                                : "close it, or drop the object that owns it, as soon as it is "
                                  "done with; or make less of it at a time");
}

/* `holder` is what may have what it made in Arrow's pool. */
static int native_report(findings_t *f, const profile_t *p, uint32_t at, const native_sum_t *sum,
                         const char *holder) {
    const profile_site_t *line = &p->lines[at];
    bool sure;
    const native_advice_t *advice = native_advice(p, line, &sure);
    const bool is_known = *line->frame.file;
    const char *library = NULL;
    if (!is_known) advice = native_threads(f->m, &library);
    const char *place = native_place(f, &line->frame);
    char size[32], error[32], number[32];
    uint64_t off = profile_spread(sum->variance, sum->interval);
    native_owner_t owner = {0};
    int status = holder ? 0 : native_owner(f, p, line, advice, sure, &owner);
    if (status) return status;
    model_finding_t *x = findings_add(f, "native-memory");
    if (!x) return findings_no_memory(f);
    x->bytes = sum->bytes;
    x->objects = owner.count;
    x->type = (char *)owner.type;
    x->path = (char *)owner.path;
    /* Some of it may be free by now. */
    x->confidence = holder ? "low" : sure && off * 4 < sum->bytes ? "high" : "medium";
    const char *where = owner.garbage ? ", garbage that waits for the collector"
                        : owner.path  ? ", most through "
                                      : "";
    const char *of =
        owner.type ? findings_text(f, "; alive are %s %s%s%s", findings_count(owner.count, number),
                                   owner.type, where, owner.path ? owner.path : "")
                   : "";
    if (!place || !of) return findings_no_memory(f);
    x->title =
        findings_text(f, "%s made %s (± %s) outside of Python's heap that C code has not freed%s",
                      place, findings_bytes(sum->bytes, size), findings_bytes(off, error), of);
    x->fix = (char *)native_fix(f, is_known ? place : NULL, advice, library, holder);
    if (!x->title || !x->fix) return findings_no_memory(f);
    return is_known ? profile_set_site(f, &line->frame, x) : 0;
}

/* What each line has alive without an object in it. What Arrow's pool holds free is an allocator's, whichever line it was first mapped
 * for (allocator-retention tells it); where somebody may have it, it is the line's. Of a mapping a sample tells the address space, and the table what was touched of
 * it: no line has more than the table says. Returns what is alive in all. */
static uint64_t native_sums(const profile_t *p, const model_pool_t *pool, native_sum_t *sums) {
    uint64_t all = 0;
    for (uint32_t i = 0; i < p->sample_count; i++) {
        const profile_sample_t *s = &p->samples[i];
        if (s->process != p->main_process || s->object != LOWTIDE_NONE ||
            (s->domain != DOMAIN_RAW && s->domain < DOMAIN_MMAP))
            continue;
        bool pooled = model_pool_has(pool, s->address, s->bytes);
        if (pooled && !pool->holder) continue;
        native_sum_t *sum = &sums[s->line];
        if (pooled) sum->pool += s->weight;
        double weight = (double)s->weight, bytes = (double)s->bytes;
        sum->bytes += s->weight;
        if (weight > bytes) sum->variance += weight * (weight - bytes);
        sum->interval = p->processes[s->process].interval_bytes;
    }
    for (uint32_t i = 0; i < p->cell_count; i++) {
        const profile_cell_t *c = &p->cells[i];
        if (c->process != p->main_process) continue;
        sums[c->line].alive += c->sums.bytes[PROFILE_LIVE];
        all += c->sums.bytes[PROFILE_LIVE];
    }
    for (uint32_t i = 0; i < p->line_count; i++)
        if (sums[i].bytes > sums[i].alive) sums[i].bytes = sums[i].alive;
    return all;
}

int profile_native_memory(findings_t *f, const profile_t *p) {
    if (!model_objects(f->m) || !p->sample_count || !p->line_count) return 0;
    model_pool_t pool;
    int status = model_pool_of(f->m, MODEL_ARROW_POOL, &pool, f->e);
    if (status) return status;
    native_sum_t *sums = mem_map(p->line_count * sizeof *sums);
    uint64_t all = sums ? native_sums(p, &pool, sums) : 0;
    const char *holder = pool.holder;
    model_pool_free(&pool);
    if (!sums) return findings_no_memory(f);
    for (int found = 0; !status && found < NATIVE_MOST; found++) {
        uint32_t most = 0;
        for (uint32_t i = 1; i < p->line_count; i++)
            if (sums[i].bytes > sums[most].bytes) most = i;
        const native_sum_t *sum = &sums[most];
        if (sum->bytes < NATIVE_MIN_BYTES || sum->bytes < all / NATIVE_SHARE) break;
        /* What importing a module takes is there for good. */
        bool told = sum->bytes > profile_spread(sum->variance, sum->interval) &&
                    !profile_is_import(&p->lines[most].frame);
        bool pooled = sum->pool > sum->bytes / 2;
        if (told) status = native_report(f, p, most, sum, pooled ? holder : NULL);
        sums[most].bytes = 0;
    }
    mem_unmap(sums, p->line_count * sizeof *sums);
    return status;
}
