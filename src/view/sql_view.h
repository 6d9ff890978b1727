/* A query over a recording (sql_tables.h), printed as aligned text, JSON or CSV.
 *
 * The connection can only read: a query that would write, attach a file, load code or change a setting is refused.
 * No file but the recording is touched; sorting stays in memory.
 */
#ifndef LOWTIDE_VIEW_SQL_VIEW_H
#define LOWTIDE_VIEW_SQL_VIEW_H

#include "explain/model.h"
#include "view/screen.h"

enum sql_format { SQL_TEXT, SQL_JSON, SQL_CSV };

/* One statement. -EINVAL: the query is wrong; the line says where. What was printed before an error stays printed. */
int sql_query(const model_t *m, const char *query, int format, const screen_t *s, err_t *e);

/* The tables and what their columns mean. */
void sql_schema(int format, const screen_t *s);

#endif
