#include "explain/model_owners.h"

#include "base/mem.h"
#include "base/vec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { WHOLE_BLOCK_HEAD = 4096 /* an object that is a block stands at its beginning */ };

typedef struct owned {
    uint64_t begin, end, left; /* left: resident, and nobody's yet */
    uint32_t row;
} owned_t;
VEC_DEFINE(owned_places, owned_t);

typedef struct share {
    uint32_t id, row;
    uint64_t bytes;
} share_t;
VEC_DEFINE(owner_shares, share_t);

typedef struct owners_work {
    const model_t *m;
    model_owners_t *out;
    lowtide_table *table;
    owned_places_t places;
    owner_shares_t shares;
    err_t *e;
} owners_work_t;

static int no_memory(owners_work_t *w) {
    return err_set(w->e, -ENOMEM, "no memory for what owns mappings");
}

static int by_begin(const void *a, const void *b) {
    const owned_t *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static int by_id(const void *a, const void *b) {
    const share_t *x = a, *y = b;
    if (x->id != y->id) return x->id > y->id ? 1 : -1;
    return (x->row > y->row) - (x->row < y->row);
}

static int by_bytes(const void *a, const void *b) {
    const share_t *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* A damaged table is as good as none. */
static int load(owners_work_t *w, const char *name, lowtide_table **out) {
    lowtide_error error;
    int status = lowtide_table_load(model_recording(w->m), name, out, &error);
    if (status) *out = NULL;
    return status == -ENOMEM ? no_memory(w) : 0;
}

static int read_places(owners_work_t *w) {
    int status = load(w, "mappings", &w->table);
    if (status || !w->table) return status;
    uint32_t at = lowtide_table_column(w->table, "address");
    uint32_t bytes = lowtide_table_column(w->table, "bytes");
    uint32_t resident = lowtide_table_column(w->table, "resident_bytes");
    for (uint32_t i = 0; i < lowtide_table_rows(w->table); i++) {
        owned_t p = {.begin = lowtide_table_number(w->table, at, i),
                     .left = lowtide_table_number(w->table, resident, i),
                     .row = i};
        p.end = p.begin + lowtide_table_number(w->table, bytes, i);
        if (p.end < p.begin || p.left > p.end - p.begin) continue;
        if (owned_places_push(&w->places, p)) return no_memory(w);
    }
    if (w->places.count) qsort(w->places.at, w->places.count, sizeof *w->places.at, by_begin);
    return 0;
}

static int covers(const void *address, const void *place) {
    const owned_t *p = place;
    uint64_t at = *(const uint64_t *)address;
    return at < p->begin ? -1 : at >= p->end;
}

static owned_t *place_of(const owners_work_t *w, uint64_t address) {
    const owned_places_t *v = &w->places;
    return v->count ? bsearch(&address, v->at, v->count, sizeof *v->at, covers) : NULL;
}

static int give(owners_work_t *w, owned_t *p, uint32_t id, uint64_t bytes) {
    if (bytes > p->left) bytes = p->left;
    if (!bytes) return 0;
    p->left -= bytes;
    w->out->bytes += bytes;
    return owner_shares_push(&w->shares, (share_t){id, p->row, bytes}) ? no_memory(w) : 0;
}

/* What objects own apart from their own block. Malloc's blocks are whole somebody's; several may share a mapping. */
static int give_blocks(owners_work_t *w) {
    lowtide_table *t;
    int status = load(w, "blocks", &t);
    if (status || !t) return status;
    uint32_t object = lowtide_table_column(t, "object"), at = lowtide_table_column(t, "address");
    uint32_t part = lowtide_table_column(
        t, "bytes"); /* of one of several; earlier recordings have no such column */
    for (uint32_t i = 0; i < lowtide_table_rows(t) && !status; i++) {
        uint64_t id = lowtide_table_number(t, object, i);
        uint64_t address = lowtide_table_number(t, at, i);
        owned_t *p = place_of(w, address);
        if (!p || id >= model_objects(w->m)) continue;
        uint64_t bytes = address - p->begin < WHOLE_BLOCK_HEAD ? p->left : 0;
        uint64_t told = lowtide_table_number(t, part, i);
        uint64_t shallow = model_shallow(w->m, (uint32_t)id);
        if (told && told < shallow) shallow = told;
        /* Of a page more than told: malloc's own words, and rounding. */
        if (!bytes || bytes > shallow + WHOLE_BLOCK_HEAD * 2) bytes = shallow;
        status = give(w, p, (uint32_t)id, bytes);
    }
    lowtide_table_free(t);
    return status;
}

/* Objects that are a large block themselves: a bytes object, a str, a tuple. */
static int give_objects(owners_work_t *w) {
    const lowtide_recording *rec = model_recording(w->m);
    lowtide_chunk *c = NULL;
    int status = 0;
    for (uint32_t i = 0; i < lowtide_chunks(rec) && !status; i++) {
        lowtide_error error;
        status = lowtide_chunk_load(rec, i, LOWTIDE_COL_ADDRESS | LOWTIDE_COL_SIZE, &c, &error);
        if (status) {
            err_set(w->e, status, "%s", error.text);
            break;
        }
        for (uint32_t k = 0; k < c->count && !status; k++) {
            if (c->size[k] < WHOLE_BLOCK_HEAD ||
                lowtide_shape_at(rec, c->shape[k])->kind != LOWTIDE_SHAPE_OBJECT)
                continue;
            owned_t *p = place_of(w, c->address[k]);
            if (p && c->address[k] - p->begin < WHOLE_BLOCK_HEAD)
                status = give(w, p, c->first + k, c->size[k] + WHOLE_BLOCK_HEAD * 2);
        }
    }
    lowtide_chunk_free(c);
    return status;
}

static void add_up(owner_shares_t *v) {
    size_t kept = 0;
    if (v->count) qsort(v->at, v->count, sizeof *v->at, by_id);
    for (size_t i = 0; i < v->count; i++) {
        if (kept && v->at[kept - 1].id == v->at[i].id)
            v->at[kept - 1].bytes += v->at[i].bytes;
        else
            v->at[kept++] = v->at[i];
    }
    v->count = kept;
    if (kept) qsort(v->at, kept, sizeof *v->at, by_bytes);
}

static int say(owners_work_t *w, uint32_t max) {
    model_owners_t *out = w->out;
    uint32_t line = lowtide_table_column(w->table, "line");
    out->owners = arena_alloc(&out->memory, (max + 1) * sizeof *out->owners);
    if (!out->owners) return no_memory(w);
    for (size_t i = 0; i < w->shares.count && out->count < max; i++) {
        const share_t *s = &w->shares.at[i];
        const char *name = lowtide_table_text(w->table, line, s->row);
        model_owner_t *o = &out->owners[out->count++];
        model_path_t path;
        *o = (model_owner_t){.type = model_type_name(w->m, s->id), .id = s->id, .bytes = s->bytes};
        int status = model_path_to(w->m, s->id, &path, w->e);
        if (status) return status;
        o->expression = path.expression;
        o->path = arena_text(&out->memory, path.text, strlen(path.text));
        o->line = arena_text(&out->memory, name, strlen(name));
        model_path_free(&path);
        if (!o->path || !o->line) return no_memory(w);
    }
    return 0;
}

static void end(owners_work_t *w) {
    if (w->table) lowtide_table_free(w->table);
    owned_places_free(&w->places);
    owner_shares_free(&w->shares);
}

int model_owners(const model_t *m, uint32_t max, model_owners_t *out, err_t *e) {
    owners_work_t w = {.m = m, .out = out, .e = e};
    *out = (model_owners_t){0};
    int status = read_places(&w);
    if (!status && w.places.count) {
        status = give_blocks(&w);
        if (!status) status = give_objects(&w);
        add_up(&w.shares);
        if (!status) status = say(&w, max);
    }
    end(&w);
    if (status) model_owners_free(out);
    return status;
}

bool model_type_is_polars(const model_type_t *t) {
    return strcmp(t->name, "polars.dataframe.frame.DataFrame") == 0 ||
           strcmp(t->name, "polars.lazyframe.frame.LazyFrame") == 0 ||
           strcmp(t->name, "polars.series.series.Series") == 0;
}

static bool pool_ends_in(const char *name, const char *end) {
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

/* What is left of the line's mappings when each owner has been given its part. */
static int take_pool(owners_work_t *w, const char *line, model_pool_t *out) {
    uint32_t name = lowtide_table_column(w->table, "line");
    uint32_t resident = lowtide_table_column(w->table, "resident_bytes");
    out->ranges = mem_alloc((w->places.count + 1) * sizeof *out->ranges);
    if (!out->ranges) return no_memory(w);
    for (size_t i = 0; i < w->places.count; i++) {
        const owned_t *p = &w->places.at[i];
        if (strcmp(lowtide_table_text(w->table, name, p->row), line) != 0) continue;
        out->ranges[out->count++] = (model_pool_range_t){p->begin, p->end};
        out->resident += lowtide_table_number(w->table, resident, p->row);
        out->unowned += p->left;
    }
    return 0;
}

enum { POOL_NEVER, POOL_TOLD, POOL_UNTOLD };

/* What instances of the type have of Arrow's pool: nothing; buffers that the recording tells; or some that it does not (a reader's, a
 * scalar's, an expression's are C++ objects of many layouts). Polars takes over Arrow's buffers as they are. */
static int pool_may_hold(const model_t *m, const model_type_t *t) {
    static const char *const told[] = {"Array", "Table", "RecordBatch", "Buffer"};
    static const char *const never[] = {"Type",       "Field",          "Schema",
                                        "Function",   "MemoryPool",     "KeyValueMetadata",
                                        "NullScalar", "IpcReadOptions", "IpcWriteOptions",
                                        "Nanny",      "APIShim",        "FileSystem"};
    const char *name = strrchr(t->name, '.');
    if (!t->count || !name) return POOL_NEVER;
    if (model_type_is_polars(t)) return POOL_UNTOLD;
    /* A class of Python's has it by an object of C's alone, which is looked at itself. */
    const lowtide_shape *shape = lowtide_shape_at(model_recording(m), t->shape);
    bool is_arrow = strncmp(t->module, "pyarrow", 7) == 0 && strchr(".", t->module[7]);
    if (!is_arrow || shape->flags & LOWTIDE_SHAPE_HEAP_TYPE) return POOL_NEVER;
    if (strncmp(++name, "__pyx_", 6) == 0) return POOL_NEVER;
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (pool_ends_in(name, never[i])) return POOL_NEVER;
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        if (pool_ends_in(name, told[i])) return POOL_TOLD;
    return POOL_UNTOLD;
}

/* An array of which no block is told has another's: the body of a message that was read, or what a second array has as well. */
static const char *pool_holder(owners_work_t *w) {
    uint32_t count, ids = model_objects(w->m);
    const model_type_t *types = model_types(w->m, &count);
    bool told = false;
    for (uint32_t i = 0; i < count; i++) {
        int may = pool_may_hold(w->m, &types[i]);
        if (may == POOL_UNTOLD) return types[i].name;
        told |= may == POOL_TOLD;
    }
    add_up(&w->shares);
    if (w->shares.count) qsort(w->shares.at, w->shares.count, sizeof *w->shares.at, by_id);
    size_t at = 0;
    for (uint32_t id = 0; told && id < ids; id++) {
        const model_type_t *t = &types[model_type_of(w->m, id)];
        while (at < w->shares.count && w->shares.at[at].id < id) at++;
        bool has_block = at < w->shares.count && w->shares.at[at].id == id;
        if (!has_block && pool_may_hold(w->m, t) == POOL_TOLD) return t->name;
    }
    return NULL;
}

int model_pool_of(const model_t *m, const char *line, model_pool_t *out, err_t *e) {
    model_owners_t owners = {0};
    owners_work_t w = {.m = m, .out = &owners, .e = e};
    *out = (model_pool_t){0};
    int status = read_places(&w);
    if (!status && w.places.count) {
        status = give_blocks(&w);
        if (!status) status = take_pool(&w, line, out);
        if (!status && model_pool_is_spare(out)) out->holder = pool_holder(&w);
    }
    end(&w);
    if (status) model_pool_free(out);
    return status;
}

bool model_pool_is_spare(const model_pool_t *pool) {
    return pool->count && pool->unowned >= pool->resident / 4 * 3;
}

void model_pool_free(model_pool_t *pool) {
    mem_free(pool->ranges);
    *pool = (model_pool_t){0};
}

bool model_pool_has(const model_pool_t *pool, uint64_t address, uint64_t bytes) {
    for (uint32_t i = 0; i < pool->count; i++)
        if (address < pool->ranges[i].end && pool->ranges[i].begin < address + bytes) return true;
    return false;
}

void model_owners_free(model_owners_t *o) {
    arena_free(&o->memory);
    *o = (model_owners_t){0};
}
