#define _GNU_SOURCE
#include "view/sql_tables.h"

#include "base/map.h"
#include "base/strbuf.h"
#include "view/sql_profile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum plan { PLAN_SCAN, PLAN_ID, PLAN_ADDRESS, PLAN_PARENT, PLAN_TYPE, PLAN_TARGET };

/* One for the connection: what all tables share. */
typedef struct source {
    const model_t *model;
    map_t addresses; /* of Python objects; filled at the first look-up */
    sql_profile_t profile;
} source_t;

typedef struct table {
    sqlite3_vtab base;
    const sql_table_t *is;
    source_t *source;
} table_t;

typedef struct cursor {
    sqlite3_vtab_cursor base;
    const sql_table_t *is;
    source_t *source;
    sql_row_t row;
    int plan;
    bool done;
    sqlite3_int64 rowid;
    /* nodes: those still to look at are [next, end), with PLAN_PARENT as places in dominator order */
    uint32_t next, end;
    uint8_t *types; /* PLAN_TYPE: which of model_types are wanted */
    char *type;
    /* decoded chunk that holds the row, when scanning for columns that need it */
    unsigned columns;
    lowtide_chunk *chunk;
    uint32_t chunk_next;
    /* references: those of the current node, and with PLAN_TARGET the nodes to look at */
    uint32_t *edges, edge_count, edge_room, edge_at, target;
    uint32_t *sources, source_count, source_at;
} cursor_t;

static int fail(cursor_t *c, int code, const char *text) {
    sqlite3_free(c->base.pVtab->zErrMsg);
    c->base.pVtab->zErrMsg = sqlite3_mprintf("%s", text);
    return code;
}

static const lowtide_shape *shape_of(const model_t *m, uint32_t id) {
    return lowtide_shape_at(model_recording(m), model_shape(m, id));
}

/* ---- Rows that are nodes ---- */

static uint32_t nodes_count(const cursor_t *c) {
    uint32_t n = model_objects(c->source->model);
    return c->is->rows == SQL_ROWS_NODES ? n + MODEL_VIRTUAL_NODES : n;
}

static bool is_row(const cursor_t *c, uint32_t id) {
    const model_t *m = c->source->model;
    if (id >= nodes_count(c)) return false;
    if (c->is->rows == SQL_ROWS_NODES || c->is->rows == SQL_ROWS_REFERENCES) return true;
    const lowtide_shape *shape = shape_of(m, id);
    switch (c->is->rows) {
    case SQL_ROWS_OBJECTS:
    case SQL_ROWS_PATHS:
        return shape->kind == LOWTIDE_SHAPE_OBJECT;
    case SQL_ROWS_MODULES:
        return shape->flags & LOWTIDE_SHAPE_IS_MODULE;
    case SQL_ROWS_THREADS:
        return shape->kind == LOWTIDE_SHAPE_THREAD;
    default:
        return shape->kind == LOWTIDE_SHAPE_FRAME;
    }
}

static bool has_type(const cursor_t *c, uint32_t id) {
    const model_t *m = c->source->model;
    if (id < model_objects(m)) return c->types[model_type_of(m, id)];
    return strcmp(model_type_name(m, id), c->type) == 0;
}

/* The next node that is a row, or LOWTIDE_NONE. */
static uint32_t next_node(cursor_t *c) {
    const model_t *m = c->source->model;
    while (c->next < c->end) {
        uint32_t id = c->next;
        if (c->plan == PLAN_PARENT) {
            id = model_at(m, c->next);
            c->next += model_retained_objects(m, id);
        } else {
            c->next++;
        }
        if (c->plan == PLAN_TYPE && !has_type(c, id)) continue;
        if (is_row(c, id)) return id;
    }
    return LOWTIDE_NONE;
}

/* Decodes the chunk that holds the object; only ever forward. */
static int chunk_reach(cursor_t *c, uint32_t id) {
    lowtide_recording *rec = model_recording(c->source->model);
    c->row.chunk = NULL;
    if (!c->columns || id >= model_objects(c->source->model)) return SQLITE_OK;
    while (!c->chunk_next || id >= c->chunk->first + c->chunk->count) {
        lowtide_error e;
        if (lowtide_chunk_load(rec, c->chunk_next++, c->columns, &c->chunk, &e))
            return fail(c, SQLITE_CORRUPT_VTAB, e.text);
    }
    c->row.chunk = c->chunk;
    return SQLITE_OK;
}

/* ---- Rows that are references ---- */

static int edges_copy(cursor_t *c, const uint32_t *edges, uint32_t count) {
    if (count > c->edge_room) {
        uint32_t *at = sqlite3_realloc64(c->edges, (sqlite3_uint64)count * sizeof *at);
        if (!at) return SQLITE_NOMEM;
        c->edges = at;
        c->edge_room = count;
    }
    if (count) memcpy(c->edges, edges, count * sizeof *edges);
    c->edge_count = count;
    c->edge_at = 0;
    return SQLITE_OK;
}

static int edges_load(cursor_t *c, uint32_t id) {
    c->row.id = id;
    if (c->plan == PLAN_SCAN) {
        int status = chunk_reach(c, id);
        if (status) return status;
        uint32_t i = id - c->chunk->first, begin = c->chunk->edge_begin[i];
        return edges_copy(c, c->chunk->edges + begin, c->chunk->edge_begin[i + 1] - begin);
    }
    lowtide_object o;
    lowtide_error e;
    if (lowtide_object_at(model_recording(c->source->model), id, &o, &e))
        return fail(c, SQLITE_CORRUPT_VTAB, e.text);
    return edges_copy(c, o.edges, o.edge_count);
}

static int next_reference(cursor_t *c) {
    for (;;) {
        const lowtide_shape *shape = c->edge_count ? shape_of(c->source->model, c->row.id) : NULL;
        while (c->edge_at < c->edge_count) {
            uint32_t label = c->edge_at++, target = c->edges[label];
            if (target == LOWTIDE_NONE) continue;
            if (c->plan == PLAN_TARGET && target != c->target) continue;
            uint32_t position;
            if (lowtide_label_at(shape, label, &position).borrowed) continue;
            c->row.label = label;
            c->row.target = target;
            return SQLITE_OK;
        }
        uint32_t id = LOWTIDE_NONE;
        if (c->plan != PLAN_TARGET)
            id = next_node(c);
        else if (c->source_at < c->source_count)
            id = c->sources[c->source_at++];
        c->done = id == LOWTIDE_NONE;
        if (c->done) return SQLITE_OK;
        int status = edges_load(c, id);
        if (status) return status;
    }
}

static int compare_ids(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Referrers come one entry a reference; each is looked at once. */
static int referrers_copy(cursor_t *c, uint32_t target) {
    const uint32_t *ids;
    uint32_t count = model_referrers(c->source->model, target, &ids), kept = 0;
    sqlite3_free(c->sources);
    c->source_count = c->source_at = 0;
    c->sources = sqlite3_malloc64(((sqlite3_uint64)count + 1) * sizeof *ids);
    if (!c->sources) return SQLITE_NOMEM;
    if (count) memcpy(c->sources, ids, count * sizeof *ids);
    qsort(c->sources, count, sizeof *ids, compare_ids);
    for (uint32_t i = 0; i < count; i++)
        if (!i || c->sources[i] != c->sources[i - 1]) c->sources[kept++] = c->sources[i];
    c->source_count = kept;
    return SQLITE_OK;
}

/* ---- Look-ups ---- */

static int addresses_fill(cursor_t *c) {
    source_t *s = c->source;
    if (s->addresses.count) return SQLITE_OK;
    lowtide_recording *rec = model_recording(s->model);
    lowtide_chunk *chunk = NULL;
    lowtide_error e;
    int status = map_reserve(&s->addresses, model_objects(s->model)) ? SQLITE_NOMEM : SQLITE_OK;
    for (uint32_t i = 0; i < lowtide_chunks(rec) && !status; i++) {
        if (lowtide_chunk_load(rec, i, LOWTIDE_COL_ADDRESS, &chunk, &e)) {
            status = fail(c, SQLITE_CORRUPT_VTAB, e.text);
            break;
        }
        for (uint32_t k = 0; k < chunk->count && !status; k++) {
            int fresh;
            if (shape_of(s->model, chunk->first + k)->kind != LOWTIDE_SHAPE_OBJECT) continue;
            uint32_t *id = map_put(&s->addresses, chunk->address[k], &fresh);
            if (!id) status = SQLITE_NOMEM;
            if (id && fresh) *id = chunk->first + k;
        }
    }
    lowtide_chunk_free(chunk);
    return status;
}

static int types_wanted(cursor_t *c, const char *name) {
    uint32_t count;
    const model_type_t *types = model_types(c->source->model, &count);
    sqlite3_free(c->types);
    sqlite3_free(c->type);
    c->types = sqlite3_malloc64(count + 1);
    c->type = sqlite3_mprintf("%s", name);
    if (!c->types || !c->type) return SQLITE_NOMEM;
    for (uint32_t i = 0; i < count; i++) c->types[i] = strcmp(types[i].name, name) == 0;
    return SQLITE_OK;
}

/* Narrows [next, end) down to what the value asks for; an empty range where no row can match. */
static int plan_apply(cursor_t *c, sqlite3_value *value) {
    const model_t *m = c->source->model;
    int64_t n = sqlite3_value_int64(value);
    uint32_t nodes = model_objects(m) + MODEL_VIRTUAL_NODES;
    bool is_node = sqlite3_value_type(value) != SQLITE_NULL && n >= 0 && n < nodes;
    if (c->plan == PLAN_TYPE) {
        const char *name = (const char *)sqlite3_value_text(value);
        c->end = name ? c->end : 0;
        return name ? types_wanted(c, name) : SQLITE_OK;
    }
    if (c->plan == PLAN_ADDRESS) {
        int status = addresses_fill(c);
        uint32_t *id = status || n <= 0 ? NULL : map_get(&c->source->addresses, (uint64_t)n);
        c->next = id ? *id : 0;
        c->end = id ? *id + 1 : 0;
        return status;
    }
    if (!is_node) {
        c->end = 0;
        return SQLITE_OK;
    }
    uint32_t id = (uint32_t)n;
    if (c->plan == PLAN_TARGET) {
        c->target = id;
        return id < model_objects(m) ? referrers_copy(c, id) : SQLITE_OK;
    }
    c->next = c->plan == PLAN_PARENT ? model_order(m, id) + 1 : id;
    c->end = c->plan == PLAN_PARENT ? model_order(m, id) + model_retained_objects(m, id) : id + 1;
    return SQLITE_OK;
}

/* ---- SQLite's side ---- */

const sql_table_t *sql_table_at(int i) {
    if (i < sql_tables_count) return &sql_tables[i];
    return i - sql_tables_count < sql_profile_tables_count
               ? &sql_profile_tables[i - sql_tables_count]
               : NULL;
}

/* Rows that are counted through and stand for no node. */
static bool is_plain(const sql_table_t *t) {
    return t->rows == SQL_ROWS_TYPES || t->rows == SQL_ROWS_META || sql_is_of_profile(t->rows);
}

static uint32_t plain_rows(const cursor_t *c) {
    uint32_t count = 0;
    if (sql_is_of_profile(c->is->rows)) return sql_profile_rows(&c->source->profile, c->is->rows);
    if (c->is->rows == SQL_ROWS_TYPES) {
        model_types(c->source->model, &count);
        return count;
    }
    const char *key, *value;
    while (lowtide_meta_at(model_recording(c->source->model), count, &key, &value)) count++;
    return count;
}

static int table_next(sqlite3_vtab_cursor *base) {
    cursor_t *c = (cursor_t *)base;
    c->rowid++;
    if (c->is->rows == SQL_ROWS_REFERENCES) return next_reference(c);
    if (is_plain(c->is)) {
        c->row.id = c->next++;
        c->done = c->row.id >= c->end;
        return SQLITE_OK;
    }
    uint32_t id = next_node(c);
    c->done = id == LOWTIDE_NONE;
    c->row.id = id;
    c->row.chunk = NULL;
    bool jumps = c->plan != PLAN_SCAN && c->plan != PLAN_TYPE;
    return c->done || jumps ? SQLITE_OK : chunk_reach(c, id);
}

static int table_filter(sqlite3_vtab_cursor *base, int plan, const char *name, int argc,
                        sqlite3_value **argv) {
    (void)name;
    cursor_t *c = (cursor_t *)base;
    bool plain = is_plain(c->is);
    err_t e;
    if (sql_is_of_profile(c->is->rows) &&
        sql_profile_load(&c->source->profile, c->source->model, c->is->rows, &e)) {
        return fail(c, SQLITE_ERROR, e.text);
    }
    c->plan = plan & 0xff;
    c->columns = (unsigned)plan >> 8;
    c->chunk_next = 0;
    c->edge_count = c->edge_at = 0;
    c->source_count = c->source_at = 0;
    c->next = 0;
    c->end = plain ? plain_rows(c) : nodes_count(c);
    c->row = (sql_row_t){.model = c->source->model};
    c->rowid = -1;
    c->done = false;
    if (argc && plain) {
        int64_t n = sqlite3_value_int64(argv[0]);
        bool is_row = sqlite3_value_type(argv[0]) != SQLITE_NULL && n >= 0 && n < c->end;
        c->next = is_row ? (uint32_t)n : c->end;
        c->end = is_row ? c->next + 1 : c->end;
    }
    int status = argc && !plain ? plan_apply(c, argv[0]) : SQLITE_OK;
    return status ? status : table_next(base);
}

static int table_eof(sqlite3_vtab_cursor *base) {
    return ((cursor_t *)base)->done;
}

static int table_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    *out = ((cursor_t *)base)->rowid;
    return SQLITE_OK;
}

static int table_column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int column) {
    cursor_t *c = (cursor_t *)base;
    if (sql_is_of_profile(c->is->rows)) {
        sql_profile_value(&c->source->profile, c->is, c->row.id, column, ctx);
        return SQLITE_OK;
    }
    char *message = NULL;
    int status = sql_column_value(c->is, &c->row, column, ctx, &message);
    if (message) fail(c, status, message);
    sqlite3_free(message);
    return status;
}

static int table_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out) {
    table_t *t = (table_t *)base;
    cursor_t *c = sqlite3_malloc64(sizeof *c);
    if (!c) return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    c->is = t->is;
    c->source = t->source;
    *out = &c->base;
    return SQLITE_OK;
}

static int table_close(sqlite3_vtab_cursor *base) {
    cursor_t *c = (cursor_t *)base;
    lowtide_chunk_free(c->chunk);
    sqlite3_free(c->types);
    sqlite3_free(c->type);
    sqlite3_free(c->edges);
    sqlite3_free(c->sources);
    sqlite3_free(c);
    return SQLITE_OK;
}

/* How a query gets at its rows: the constraint that leaves the fewest. SQLite checks each row again, so a value of
 * another type than the column's costs nothing but the look-up. */
static int table_best_index(sqlite3_vtab *base, sqlite3_index_info *info) {
    const table_t *t = (const table_t *)base;
    static const struct {
        int plan;
        double rows;
    } of_key[] = {
        [SQL_KEY_ID] = {PLAN_ID, 1},          [SQL_KEY_ADDRESS] = {PLAN_ADDRESS, 1},
        [SQL_KEY_PARENT] = {PLAN_PARENT, 20}, [SQL_KEY_TARGET] = {PLAN_TARGET, 5},
        [SQL_KEY_TYPE] = {PLAN_TYPE, 0},
    };
    double nodes = model_objects(t->source->model) + 1.0;
    double all = t->is->rows == SQL_ROWS_REFERENCES ? nodes * 3 : nodes;
    /* A path is found anew for each row. */
    double each = t->is->rows == SQL_ROWS_PATHS ? 1000 : 1;
    int best = -1, plan = PLAN_SCAN;
    double rows = all;
    for (int i = 0; i < info->nConstraint; i++) {
        int column = info->aConstraint[i].iColumn;
        if (!info->aConstraint[i].usable || info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ ||
            column < 0)
            continue;
        int key = t->is->columns[column].key;
        if (!key) continue;
        if (key == SQL_KEY_TYPE && strcmp(sqlite3_vtab_collation(info, i), "BINARY") != 0) continue;
        double left = key == SQL_KEY_TYPE ? nodes / 50 + 1 : of_key[key].rows;
        if (t->is->rows == SQL_ROWS_REFERENCES && key == SQL_KEY_ID) left = 8;
        if (left >= rows) continue;
        rows = left;
        best = i;
        plan = of_key[key].plan;
    }
    unsigned columns = 0;
    for (int i = 0; i < SQL_COLUMNS_MAX && t->is->columns[i].name; i++)
        if (info->colUsed & 1ULL << i) columns |= t->is->columns[i].decodes;
    if (t->is->rows == SQL_ROWS_REFERENCES) columns = LOWTIDE_COL_EDGES;
    if (best >= 0) info->aConstraintUsage[best].argvIndex = 1;
    info->idxNum = (int)(columns << 8) | plan;
    info->estimatedRows = (sqlite3_int64)rows;
    /* Passing over a row of another type is cheap, but not free. */
    info->estimatedCost = rows * each + (plan == PLAN_TYPE ? nodes / 10 : 0);
    return SQLITE_OK;
}

static int table_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                         sqlite3_vtab **out, char **message) {
    (void)argc;
    const sql_table_t *is = NULL;
    for (int i = 0; sql_table_at(i); i++)
        if (strcmp(sql_table_at(i)->name, argv[0]) == 0) is = sql_table_at(i);
    strbuf_t schema = {0};
    strbuf_puts(&schema, "CREATE TABLE x(");
    for (int i = 0; i < SQL_COLUMNS_MAX && is->columns[i].name; i++)
        strbuf_printf(&schema, "%s%s %s", i ? ", " : "", is->columns[i].name, is->columns[i].type);
    strbuf_putc(&schema, ')');
    int status = schema.failed ? SQLITE_NOMEM : sqlite3_declare_vtab(db, strbuf_text(&schema));
    strbuf_free(&schema);
    if (status) {
        *message = sqlite3_mprintf("%s", sqlite3_errmsg(db));
        return status;
    }
    table_t *t = sqlite3_malloc64(sizeof *t);
    if (!t) return SQLITE_NOMEM;
    *t = (table_t){.is = is, .source = aux};
    *out = &t->base;
    return SQLITE_OK;
}

static int table_disconnect(sqlite3_vtab *base) {
    sqlite3_free(base);
    return SQLITE_OK;
}

/* Without xCreate a table needs no CREATE: it is there under its module's name. */
static const sqlite3_module module = {
    .xConnect = table_connect,
    .xBestIndex = table_best_index,
    .xDisconnect = table_disconnect,
    .xOpen = table_open,
    .xClose = table_close,
    .xFilter = table_filter,
    .xNext = table_next,
    .xEof = table_eof,
    .xColumn = table_column,
    .xRowid = table_rowid,
};

static void source_free(void *p) {
    source_t *s = p;
    map_free(&s->addresses);
    sql_profile_free(&s->profile);
    sqlite3_free(s);
}

int sql_tables_create(sqlite3 *db, const model_t *m, err_t *e) {
    source_t *s = sqlite3_malloc64(sizeof *s);
    if (!s) return err_set(e, -ENOMEM, "no memory for the tables; free some and try again");
    *s = (source_t){.model = m};
    for (int i = 0; sql_table_at(i); i++) {
        /* The first table's end is the source's: SQLite calls it also when registering fails. */
        int status =
            sqlite3_create_module_v2(db, sql_table_at(i)->name, &module, s, i ? NULL : source_free);
        if (status) return err_set(e, -ENOMEM, "cannot make the tables: %s", sqlite3_errmsg(db));
    }
    /* SQLite connects a table at its first use, which an authorizer that only lets read would refuse. */
    for (int i = 0; sql_table_at(i); i++) {
        char query[64];
        snprintf(query, sizeof query, "SELECT 0 FROM %s LIMIT 0", sql_table_at(i)->name);
        if (sqlite3_exec(db, query, NULL, NULL, NULL) != SQLITE_OK)
            return err_set(e, -ENOMEM, "cannot make the tables: %s", sqlite3_errmsg(db));
    }
    return 0;
}
