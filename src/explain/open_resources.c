#define _GNU_SOURCE
#include "explain/open_resources.h"

#include "base/mem.h"
#include "base/vec.h"
#include "explain/model_data.h"
#include "explain/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

VEC_DEFINE(resource_rows, model_resource_t);

typedef struct wanted {
    uint64_t address;
    uint32_t row;
} wanted_t;

typedef struct reading {
    const model_t *m;
    const profile_t *profile;
    model_resources_t *out;
    resource_rows_t rows;
    err_t *e;
} reading_t;

static int no_memory(const reading_t *r) {
    return err_set(r->e, -ENOMEM, "no memory for the list of resources");
}

/* ---- The table ---- */

static const char *keep(reading_t *r, const char *text) {
    return *text ? arena_text(&r->out->memory, text, strlen(text)) : "";
}

static int read_rows(reading_t *r, const lowtide_table *t, wanted_t *wanted, uint32_t *count) {
    uint32_t kind = lowtide_table_column(t, "kind"), name = lowtide_table_column(t, "name");
    uint32_t number = lowtide_table_column(t, "descriptor"), file = lowtide_table_column(t, "file");
    uint32_t line = lowtide_table_column(t, "line"), function = lowtide_table_column(t, "function");
    uint32_t note = lowtide_table_column(t, "note"), address = lowtide_table_column(t, "address");
    uint32_t bytes = lowtide_table_column(t, "bytes"), rows = lowtide_table_rows(t);
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t at = lowtide_table_number(t, line, i);
        model_resource_t x = {.kind = keep(r, lowtide_table_text(t, kind, i)),
                              .name = keep(r, lowtide_table_text(t, name, i)),
                              .note = keep(r, lowtide_table_text(t, note, i)),
                              .descriptor = (int64_t)lowtide_table_number(t, number, i),
                              .bytes = lowtide_table_number(t, bytes, i),
                              .id = LOWTIDE_NONE,
                              .line = at < UINT32_MAX ? (uint32_t)at : 0};
        if (*lowtide_table_text(t, file, i)) {
            x.file = keep(r, lowtide_table_text(t, file, i));
            x.function = keep(r, lowtide_table_text(t, function, i));
        }
        if (!x.kind || !x.name || !x.note || (x.line && x.file && !x.function)) return no_memory(r);
        wanted_t w = {lowtide_table_number(t, address, i), (uint32_t)r->rows.count};
        if (w.address) wanted[(*count)++] = w;
        if (resource_rows_push(&r->rows, x)) return no_memory(r);
    }
    return 0;
}

static int by_address(const void *a, const void *b) {
    const wanted_t *x = a, *y = b;
    return x->address < y->address ? -1 : x->address > y->address;
}

/* The objects at the addresses that the rows name. */
static int find_objects(reading_t *r, wanted_t *wanted, uint32_t count) {
    const lowtide_recording *rec = model_recording(r->m);
    lowtide_chunk *chunk = NULL;
    int status = 0;
    if (count) qsort(wanted, count, sizeof *wanted, by_address);
    for (uint32_t i = 0; count && i < lowtide_chunks(rec) && !status; i++) {
        lowtide_error error;
        status = lowtide_chunk_load(rec, i, LOWTIDE_COL_ADDRESS, &chunk, &error);
        if (status) err_set(r->e, status, "%s", error.text);
        for (uint32_t k = 0; !status && k < chunk->count; k++) {
            wanted_t key = {chunk->address[k], 0};
            wanted_t *hit =
                key.address ? bsearch(&key, wanted, count, sizeof *wanted, by_address) : NULL;
            if (!hit || lowtide_shape_at(rec, chunk->shape[k])->kind != LOWTIDE_SHAPE_OBJECT)
                continue;
            while (hit > wanted && hit[-1].address == key.address) hit--;
            for (; hit < wanted + count && hit->address == key.address; hit++)
                r->rows.at[hit->row].id = chunk->first + k;
        }
    }
    lowtide_chunk_free(chunk);
    return status;
}

/* What a program holds of an open file is the outermost of the layers that it made over the descriptor. */
static uint32_t outermost(const model_t *m, uint32_t id) {
    static const char *const layers[] = {"_io.BufferedReader", "_io.BufferedWriter",
                                         "_io.BufferedRandom", "_io.TextIOWrapper",
                                         "socket.SocketIO"};
    for (int depth = 0; depth < 3; depth++) {
        const uint32_t *by;
        uint32_t n = model_referrers(m, id, &by), outer = LOWTIDE_NONE;
        for (uint32_t i = 0; i < n && outer == LOWTIDE_NONE; i++) {
            const char *type = model_type_name(m, by[i]);
            for (size_t k = 0; k < sizeof layers / sizeof *layers; k++)
                if (strcmp(type, layers[k]) == 0) outer = by[i];
        }
        if (outer == LOWTIDE_NONE) break;
        id = outer;
    }
    return id;
}

static int read_table(reading_t *r) {
    lowtide_table *t;
    lowtide_error error;
    int status = lowtide_table_load(model_recording(r->m), "resources", &t, &error);
    if (status == -ENOMEM) return no_memory(r);
    if (status) return 0; /* a damaged one is as good as none */
    uint32_t rows = lowtide_table_rows(t), count = 0;
    wanted_t *wanted = mem_alloc((rows + (size_t)1) * sizeof *wanted);
    status = wanted ? read_rows(r, t, wanted, &count) : no_memory(r);
    if (!status) status = find_objects(r, wanted, count);
    for (size_t i = 0; !status && i < r->rows.count; i++) {
        model_resource_t *x = &r->rows.at[i];
        if (x->id != LOWTIDE_NONE && x->descriptor >= 0 && strcmp(x->kind, "file") == 0)
            x->id = outermost(r->m, x->id);
    }
    mem_free(wanted);
    lowtide_table_free(t);
    return status;
}

/* ---- DB-API objects ---- */

int resource_attribute(const model_t *m, uint32_t id, const char *name, uint32_t *value, err_t *e) {
    uint32_t dict;
    size_t n = strlen(name);
    int status = names_field(m, id, name, n, value, e);
    if (status || *value != LOWTIDE_NONE) return status;
    if ((status = names_namespace(m, id, &dict, e)) || dict == LOWTIDE_NONE) return status;
    return names_lookup(m, dict, name, n, value, e);
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcasecmp(text + n - k, end) == 0;
}

/* "cursor", "connection", or NULL: by the type's name and by what its package says of itself. */
static int database_kind(const reading_t *r, const model_type_t *t, const char **kind) {
    static const char *const told[] = {"apilevel", "paramstyle"};
    const model_t *m = r->m;
    *kind = NULL;
    if (t->type_id == LOWTIDE_NONE || !t->module || !m->names) return 0;
    const char *word = ends_with(t->name, "cursor")       ? "cursor"
                       : ends_with(t->name, "connection") ? "connection"
                                                          : NULL;
    /* The agent has told sqlite3's, and knows which are closed. */
    if (!word || strcmp(t->module, "sqlite3") == 0) return 0;
    uint32_t module = names_get(&m->names->modules, t->module, strcspn(t->module, "."));
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        uint32_t value = LOWTIDE_NONE;
        if (module == LOWTIDE_NONE) return 0;
        int status = resource_attribute(m, module, told[i], &value, r->e);
        if (status) return status;
        if (value == LOWTIDE_NONE) return 0;
    }
    *kind = word;
    return 0;
}

/* Drivers differ in how an object says that it is closed: by a flag, or by having let go of what it stood on. */
static int is_closed(const model_t *m, uint32_t id, bool *closed, err_t *e) {
    static const char *const flags[] = {"closed", "_closed"}, *const stands_on[] = {"connection",
                                                                                    "_connection",
                                                                                    "_sock"};
    lowtide_object o;
    uint32_t value;
    int status = 0;
    *closed = false;
    for (size_t i = 0; i < 2 && !*closed && !status; i++) {
        status = resource_attribute(m, id, flags[i], &value, e);
        if (status || value == LOWTIDE_NONE) continue;
        status = model_read(m, value, &o, e);
        *closed = !status && o.value.kind == LOWTIDE_VALUE_BOOL && o.value.integer;
    }
    for (size_t i = 0; i < 3 && !*closed && !status; i++) {
        status = resource_attribute(m, id, stands_on[i], &value, e);
        if (!status && value != LOWTIDE_NONE)
            *closed = strcmp(model_type_name(m, value), "NoneType") == 0;
    }
    return status;
}

static int read_database(reading_t *r) {
    const model_t *m = r->m;
    const char **kinds = mem_alloc((m->type_count + (size_t)1) * sizeof *kinds);
    int status = kinds ? 0 : no_memory(r);
    bool any = false;
    for (uint32_t i = 0; i < m->type_count && !status; i++) {
        status = database_kind(r, &m->types[i], &kinds[i]);
        any |= !status && kinds[i];
    }
    for (uint32_t id = 0; any && id < m->g.n && !status; id++) {
        const char *kind = kinds[model_type_of(m, id)];
        bool closed;
        if (!kind || (status = is_closed(m, id, &closed, r->e)) || closed) continue;
        model_resource_t x = {
            .kind = kind, .name = model_type_name(m, id), .note = "", .descriptor = -1, .id = id};
        if (resource_rows_push(&r->rows, x)) status = no_memory(r);
    }
    mem_free(kinds);
    return status;
}

/* ---- Both ---- */

/* Whose opening nobody saw was made where its object was, if that was sampled. */
static int read_sites(reading_t *r) {
    const profile_t *p = r->profile;
    uint32_t n = r->m->g.n;
    if (!p || !p->sample_count || !r->rows.count) return 0;
    uint32_t *sample = mem_map((n + (size_t)1) * sizeof *sample);
    if (!sample) return no_memory(r);
    for (uint32_t i = 0; i < p->sample_count; i++)
        if (p->samples[i].object < n) sample[p->samples[i].object] = i + 1;
    for (size_t i = 0; i < r->rows.count; i++) {
        model_resource_t *x = &r->rows.at[i];
        if (x->file || x->id >= n || !sample[x->id]) continue;
        const profile_frame_t *f =
            &p->sites[p->stacks[p->samples[sample[x->id] - 1].stack].site].frame;
        if (f->kind != PROFILE_PYTHON) continue;
        x->file = keep(r, f->file);
        x->function = keep(r, f->function);
        x->line = f->line;
    }
    mem_unmap(sample, (n + (size_t)1) * sizeof *sample);
    return 0;
}

int model_resources(const model_t *m, const profile_t *profile, model_resources_t *out, err_t *e) {
    reading_t r = {.m = m, .profile = profile, .out = out, .e = e};
    *out = (model_resources_t){0};
    int status = read_table(&r);
    if (!status) status = read_database(&r);
    if (!status) status = read_sites(&r);
    if (!status && r.rows.count) {
        out->rows = arena_alloc(&out->memory, r.rows.count * sizeof *out->rows);
        if (!out->rows) status = no_memory(&r);
    }
    if (!status && r.rows.count) {
        memcpy(out->rows, r.rows.at, r.rows.count * sizeof *out->rows);
        out->count = (uint32_t)r.rows.count;
    }
    resource_rows_free(&r.rows);
    if (status) model_resources_free(out);
    return status;
}

void model_resources_free(model_resources_t *r) {
    arena_free(&r->memory);
    *r = (model_resources_t){0};
}
