/* The tables of an allocation profile, and those that a recording holds as they are (ledger, pins, resources). For
 * sql_tables.c, which gives them their cursors. */
#ifndef LOWTIDE_VIEW_SQL_PROFILE_H
#define LOWTIDE_VIEW_SQL_PROFILE_H

#include "explain/profile.h"
#include "view/sql_tables.h"

extern const sql_table_t sql_profile_tables[];
extern const int sql_profile_tables_count;

static inline bool sql_is_of_profile(int rows) {
    return rows >= SQL_ROWS_SITES;
}

/* Built at the first question, as most are about the heap. */
typedef struct sql_profile {
    const profile_t *profile;
    profile_t *owned;
    lowtide_table *raw[SQL_ROWS_END - SQL_ROWS_LEDGER];
} sql_profile_t;

/* What the table's rows are made from. 0 or a negative errno. */
int sql_profile_load(sql_profile_t *s, const model_t *m, int rows, err_t *e);
void sql_profile_free(sql_profile_t *s);

uint32_t sql_profile_rows(const sql_profile_t *s, int rows);
void sql_profile_value(const sql_profile_t *s, const sql_table_t *t, uint32_t row, int column,
                       sqlite3_context *ctx);

#endif
