#define _GNU_SOURCE
#include "view/sql_view.h"

#include "base/strbuf.h"
#include "base/vec.h"
#include "view/json.h"
#include "view/report_view.h"
#include "view/sql_tables.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Column widths are measured over the first rows; later ones that are wider push their neighbours aside. */
enum { MEASURED_ROWS = 1000, ANSWER_COLUMNS_MAX = 200, GAP = 2, CELLS_LEAST = 8 };

/* ---- The connection ---- */

static int allow(void *unused, int action, const char *a, const char *b, const char *c,
                 const char *d) {
    (void)unused, (void)a, (void)c, (void)d;
    switch (action) {
    case SQLITE_SELECT:
    case SQLITE_READ:
    case SQLITE_RECURSIVE:
        return SQLITE_OK;
    case SQLITE_FUNCTION:
        return sqlite3_stricmp(b, "load_extension") ? SQLITE_OK : SQLITE_DENY;
    default:
        return SQLITE_DENY;
    }
}

static int connect(const model_t *m, sqlite3 **out, err_t *e) {
    sqlite3 *db = NULL;
    int status = sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_MEMORY, NULL);
    if (status == SQLITE_OK)
        status = sqlite3_exec(db, "PRAGMA temp_store = MEMORY", NULL, NULL, NULL);
    if (status != SQLITE_OK) {
        err_set(e, -ENOMEM, "cannot start SQLite: %s", db ? sqlite3_errmsg(db) : "no memory");
        sqlite3_close(db);
        return -ENOMEM;
    }
    sqlite3_limit(db, SQLITE_LIMIT_ATTACHED, 0);
    sqlite3_limit(db, SQLITE_LIMIT_COLUMN, ANSWER_COLUMNS_MAX);
    int code = sql_tables_create(db, m, e);
    if (code) {
        sqlite3_close(db);
        return code;
    }
    sqlite3_set_authorizer(db, allow, NULL);
    *out = db;
    return 0;
}

static int only_read(err_t *e) {
    return err_set(e, -EINVAL, "a recording is only read: use one SELECT");
}

static int query_error(sqlite3 *db, err_t *e) {
    if (sqlite3_errcode(db) == SQLITE_AUTH) return only_read(e);
    return err_set(e, -EINVAL, "%s; `lowtide sql F` lists tables and columns", sqlite3_errmsg(db));
}

/* ---- JSON and CSV ---- */

static void hex_text(sqlite3_stmt *q, int i, strbuf_t *out) {
    const unsigned char *at = sqlite3_column_blob(q, i);
    int n = sqlite3_column_bytes(q, i);
    strbuf_puts(out, "x'");
    for (int k = 0; k < n; k++) strbuf_printf(out, "%02x", at[k]);
    strbuf_putc(out, '\'');
}

static void json_cell(json_t *j, sqlite3_stmt *q, int i) {
    strbuf_t hex = {0};
    switch (sqlite3_column_type(q, i)) {
    case SQLITE_INTEGER:
        json_int(j, NULL, sqlite3_column_int64(q, i));
        break;
    case SQLITE_FLOAT:
        json_real(j, NULL, sqlite3_column_double(q, i));
        break;
    case SQLITE_NULL:
        json_null(j, NULL);
        break;
    case SQLITE_BLOB:
        hex_text(q, i, &hex);
        json_text(j, NULL, strbuf_text(&hex));
        strbuf_free(&hex);
        break;
    default:
        json_text_n(j, NULL, (const char *)sqlite3_column_text(q, i),
                    (size_t)sqlite3_column_bytes(q, i));
    }
}

static int print_json(sqlite3_stmt *q, FILE *file) {
    json_t j;
    json_init(&j, file);
    int columns = sqlite3_column_count(q), status;
    json_open(&j, NULL, '{');
    json_uint(&j, "schema", 1);
    json_open(&j, "columns", '[');
    for (int i = 0; i < columns; i++) json_text(&j, NULL, sqlite3_column_name(q, i));
    json_close(&j);
    json_open(&j, "rows", '[');
    while ((status = sqlite3_step(q)) == SQLITE_ROW && !ferror(file)) {
        json_open(&j, NULL, '[');
        /* A row is a line. */
        j.compact = true;
        for (int i = 0; i < columns; i++) json_cell(&j, q, i);
        json_close(&j);
        j.compact = false;
    }
    if (status == SQLITE_DONE) {
        json_close(&j);
        json_close(&j);
    }
    return status;
}

static void csv_field(const screen_t *s, const char *text, size_t n) {
    bool quoted = false;
    for (size_t i = 0; i < n && !quoted; i++) quoted = strchr("\",\r\n", text[i]) || !text[i];
    if (s->terminal) {
        screen_text(s, text, n, INT32_MAX);
        return;
    }
    if (quoted) fputc('"', s->file);
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"') fputc('"', s->file);
        fputc(text[i], s->file);
    }
    if (quoted) fputc('"', s->file);
}

static int print_csv(sqlite3_stmt *q, const screen_t *s) {
    int columns = sqlite3_column_count(q), status;
    for (int i = 0; i < columns; i++) {
        const char *name = sqlite3_column_name(q, i);
        if (i) fputc(',', s->file);
        csv_field(s, name, strlen(name));
    }
    screen_end(s);
    strbuf_t hex = {0};
    while ((status = sqlite3_step(q)) == SQLITE_ROW && !ferror(s->file)) {
        for (int i = 0; i < columns; i++) {
            if (i) fputc(',', s->file);
            if (sqlite3_column_type(q, i) == SQLITE_BLOB) {
                strbuf_clear(&hex);
                hex_text(q, i, &hex);
                csv_field(s, strbuf_text(&hex), hex.count);
                continue;
            }
            const char *text = (const char *)sqlite3_column_text(q, i);
            csv_field(s, text ? text : "", (size_t)sqlite3_column_bytes(q, i));
        }
        screen_end(s);
    }
    strbuf_free(&hex);
    return status;
}

/* ---- Text ---- */

/* A cell's text stands in the sheet's bytes. */
typedef struct cell {
    size_t at;
    uint32_t bytes;
    bool right, null;
} cell_t;

VEC_DEFINE(cell_vec, cell_t);

typedef struct sheet {
    strbuf_t text;
    cell_vec_t cells;
    int columns, widths[ANSWER_COLUMNS_MAX];
} sheet_t;

static void sheet_add(sheet_t *t, sqlite3_stmt *q) {
    for (int i = 0; i < t->columns; i++) {
        int type = sqlite3_column_type(q, i);
        cell_t c = {.at = t->text.count, .null = type == SQLITE_NULL};
        c.right = type == SQLITE_INTEGER || type == SQLITE_FLOAT;
        if (type == SQLITE_BLOB)
            hex_text(q, i, &t->text);
        else if (type == SQLITE_NULL)
            strbuf_puts(&t->text, "NULL");
        else
            strbuf_put(&t->text, (const char *)sqlite3_column_text(q, i),
                       (size_t)sqlite3_column_bytes(q, i));
        c.bytes = (uint32_t)(t->text.count - c.at);
        if (cell_vec_push(&t->cells, c)) t->text.failed = 1;
    }
}

static void sheet_clear(sheet_t *t) {
    strbuf_clear(&t->text);
    t->cells.count = 0;
}

static void sheet_measure(sheet_t *t, const screen_t *s, sqlite3_stmt *q) {
    for (int i = 0; i < t->columns; i++) {
        const char *name = sqlite3_column_name(q, i);
        t->widths[i] = screen_cells(s, name, strlen(name));
    }
    for (size_t k = 0; k < t->cells.count; k++) {
        int n = screen_cells(s, strbuf_text(&t->text) + t->cells.at[k].at, t->cells.at[k].bytes);
        int *width = &t->widths[k % (size_t)t->columns];
        if (n > *width) *width = n;
    }
    /* On a terminal a line stays a line: the widest columns give way. A pipe gets all. */
    int total = (t->columns - 1) * GAP;
    for (int i = 0; i < t->columns; i++) total += t->widths[i];
    while (s->terminal && total > s->width) {
        int widest = 0;
        for (int i = 1; i < t->columns; i++)
            if (t->widths[i] > t->widths[widest]) widest = i;
        if (t->widths[widest] <= CELLS_LEAST) break;
        t->widths[widest]--;
        total--;
    }
}

static void sheet_cell(const sheet_t *t, const screen_t *s, size_t k) {
    const cell_t *c = &t->cells.at[k];
    int i = (int)(k % (size_t)t->columns);
    const char *text = strbuf_text(&t->text) + c->at;
    int most = s->terminal ? t->widths[i] : INT32_MAX;
    int used = screen_cells(s, text, c->bytes), pad = t->widths[i] - used;
    bool last = i == t->columns - 1;
    if (i) screen_gap(s, GAP);
    if (c->right) screen_gap(s, pad);
    if (c->null) screen_style(s, STYLE_DIM);
    used = screen_text(s, text, c->bytes, most);
    if (c->null) screen_style(s, STYLE_PLAIN);
    if (!c->right && !last) screen_gap(s, t->widths[i] - used);
    if (last) screen_end(s);
}

static void sheet_header(const sheet_t *t, const screen_t *s, sqlite3_stmt *q) {
    screen_style(s, STYLE_DIM);
    for (int i = 0; i < t->columns; i++) {
        const char *name = sqlite3_column_name(q, i);
        bool right = t->cells.count && t->cells.at[i].right;
        int cells = screen_cells(s, name, strlen(name));
        if (i) screen_gap(s, GAP);
        if (right) screen_gap(s, t->widths[i] - cells);
        cells = screen_text(s, name, strlen(name), s->terminal ? t->widths[i] : INT32_MAX);
        if (!right && i < t->columns - 1) screen_gap(s, t->widths[i] - cells);
    }
    screen_style(s, STYLE_PLAIN);
    screen_end(s);
}

static int print_text(sqlite3_stmt *q, const screen_t *s) {
    sheet_t t = {.columns = sqlite3_column_count(q)};
    bool headed = false;
    int status;
    do {
        status = sqlite3_step(q);
        if (status == SQLITE_ROW) sheet_add(&t, q);
        size_t rows = t.cells.count / (size_t)t.columns;
        if (t.text.failed) status = SQLITE_NOMEM;
        if (status == SQLITE_ROW && rows < MEASURED_ROWS && !headed) continue;
        if (status != SQLITE_ROW && status != SQLITE_DONE) break;
        if (!headed) {
            sheet_measure(&t, s, q);
            sheet_header(&t, s, q);
            headed = true;
        }
        for (size_t k = 0; k < t.cells.count; k++) sheet_cell(&t, s, k);
        sheet_clear(&t);
    } while (status == SQLITE_ROW && !ferror(s->file));
    strbuf_free(&t.text);
    cell_vec_free(&t.cells);
    return status;
}

int sql_query(const model_t *m, const char *query, int format, const screen_t *s, err_t *e) {
    sqlite3 *db;
    sqlite3_stmt *q = NULL;
    const char *tail;
    int code = connect(m, &db, e);
    if (code) return code;
    int status = sqlite3_prepare_v2(db, query, -1, &q, &tail);
    if (status != SQLITE_OK) {
        code = query_error(db, e);
    } else if (!q || tail[strspn(tail, " \t\r\n;")]) {
        code = err_set(e, -EINVAL, "one statement is run, not %s; use one SELECT",
                       q ? "several" : "none");
    } else if (!sqlite3_column_count(q) || !sqlite3_stmt_readonly(q)) {
        code = only_read(e);
    } else {
        status = format == SQL_JSON  ? print_json(q, s->file)
                 : format == SQL_CSV ? print_csv(q, s)
                                     : print_text(q, s);
        if (status == SQLITE_NOMEM)
            code = err_set(e, -ENOMEM, "no memory for the answer; ask for fewer rows");
        else if (status != SQLITE_DONE && status != SQLITE_ROW)
            code = query_error(db, e);
    }
    sqlite3_finalize(q);
    sqlite3_close(db);
    return code;
}

/* ---- The tables themselves ---- */

static void schema_json(FILE *file) {
    json_t j;
    json_init(&j, file);
    json_open(&j, NULL, '{');
    json_uint(&j, "schema", 1);
    json_open(&j, "tables", '[');
    for (int i = 0; sql_table_at(i); i++) {
        const sql_table_t *t = sql_table_at(i);
        json_open(&j, NULL, '{');
        json_text(&j, "name", t->name);
        json_text(&j, "meaning", t->meaning);
        json_open(&j, "columns", '[');
        for (int k = 0; k < SQL_COLUMNS_MAX && t->columns[k].name; k++) {
            json_open(&j, NULL, '{');
            json_text(&j, "name", t->columns[k].name);
            json_text(&j, "type", *t->columns[k].type ? t->columns[k].type : NULL);
            json_text(&j, "meaning", t->columns[k].meaning);
            json_close(&j);
        }
        json_close(&j);
        json_close(&j);
    }
    json_close(&j);
    json_close(&j);
}

void sql_schema(int format, const screen_t *s) {
    enum { NAME_CELLS = 18 };
    if (format == SQL_JSON) {
        schema_json(s->file);
        return;
    }
    if (format == SQL_CSV) fputs("table,column,type,meaning\n", s->file);
    for (int i = 0; sql_table_at(i); i++) {
        const sql_table_t *t = sql_table_at(i);
        if (format == SQL_TEXT) {
            if (i) screen_end(s);
            view_heading(s, t->name, t->meaning);
        }
        for (int k = 0; k < SQL_COLUMNS_MAX && t->columns[k].name; k++) {
            const sql_column_t *c = &t->columns[k];
            if (format == SQL_CSV) {
                fprintf(s->file, "%s,%s,%s,\"%s\"\n", t->name, c->name, c->type, c->meaning);
                continue;
            }
            screen_gap(s, GAP);
            screen_padded(s, c->name, NAME_CELLS);
            screen_wrapped(s, c->meaning, GAP + NAME_CELLS, s->width - GAP - NAME_CELLS);
        }
    }
}
