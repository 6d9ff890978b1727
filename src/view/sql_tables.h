/* A recording as SQLite virtual tables, straight over the mapped file and the model: nothing is copied, a column is
 * decoded when a query asks for it. docs/sql.md describes each table for the user; the columns are listed once, in
 * sql_columns.c.
 *
 * Look-ups by id, address, dominator, source or target jump to their rows; `type = '…'` passes over other objects
 * without decoding them. Everything is read-only.
 */
#ifndef LOWTIDE_VIEW_SQL_TABLES_H
#define LOWTIDE_VIEW_SQL_TABLES_H

#include "explain/model.h"

#include <sqlite3.h>

enum { SQL_COLUMNS_MAX = 24 };

/* What an equality on a column may be used for. */
enum sql_key {
    SQL_KEY_NONE,
    SQL_KEY_ID,
    SQL_KEY_ADDRESS,
    SQL_KEY_PARENT,
    SQL_KEY_TYPE,
    SQL_KEY_TARGET
};

typedef struct sql_column {
    const char *name, *type; /* type: INTEGER, TEXT, or "" where values have their own */
    const char *meaning;
    uint8_t key;     /* sql_key */
    uint8_t decodes; /* lowtide_columns that must be decoded for it */
} sql_column_t;

/* Which nodes are rows. */
enum sql_rows {
    SQL_ROWS_OBJECTS, /* Python objects */
    SQL_ROWS_PATHS,   /* the same, with their paths */
    SQL_ROWS_NODES,   /* those, pseudo-objects, and the model's virtual nodes */
    SQL_ROWS_MODULES,
    SQL_ROWS_THREADS,
    SQL_ROWS_FRAMES,
    SQL_ROWS_REFERENCES, /* a row each owning reference */
    SQL_ROWS_TYPES,
    SQL_ROWS_META,
    /* of an allocation profile (sql_profile.h) */
    SQL_ROWS_SITES,
    SQL_ROWS_CELLS,
    SQL_ROWS_STACKS,
    SQL_ROWS_SAMPLES,
    SQL_ROWS_POINTS,
    SQL_ROWS_EVENTS,
    SQL_ROWS_PROCESSES,
    SQL_ROWS_COURSES,
    /* tables of the recording, as they are */
    SQL_ROWS_LEDGER,
    SQL_ROWS_ARENAS,
    SQL_ROWS_HEAPS,
    SQL_ROWS_RESOURCES,
    SQL_ROWS_MAPPINGS,
    SQL_ROWS_BLOCKS,
    SQL_ROWS_END
};

typedef struct sql_table {
    const char *name, *meaning;
    int rows; /* sql_rows */
    sql_column_t columns[SQL_COLUMNS_MAX];
} sql_table_t;

extern const sql_table_t sql_tables[];
extern const int sql_tables_count;
/* The i-th of all tables, NULL when there are no more. */
const sql_table_t *sql_table_at(int i);

/* A cursor's row, as the columns see it. */
typedef struct sql_row {
    const model_t *model;
    uint32_t id;                /* node; or index of the type or meta pair */
    const lowtide_chunk *chunk; /* holds the object, decoded as asked; NULL: look it up */
    uint32_t target, label;     /* references: and the how-manieth of the object */
} sql_row_t;

/* Puts the value of the column into ctx; SQLITE_OK or an error with *message set (sqlite3_mprintf). */
int sql_column_value(const sql_table_t *t, const sql_row_t *row, int column, sqlite3_context *ctx,
                     char **message);

/* Makes the tables in `db`. The model stays the caller's and outlives it. */
int sql_tables_create(sqlite3 *db, const model_t *m, err_t *e);

#endif
