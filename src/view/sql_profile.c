#define _GNU_SOURCE
#include "view/sql_profile.h"

#include <string.h>

#define FIGURES                                                                                    \
    {"live_bytes", "INTEGER", "still alive at the end", 0, 0},                                     \
        {"live_blocks", "INTEGER", "how many blocks that was", 0, 0},                              \
        {"live_error", "INTEGER", "how far the bytes may be off (95 %)", 0, 0},                    \
        {"peak_bytes", "INTEGER", "alive when the heap was at its highest", 0, 0},                 \
        {"peak_blocks", "INTEGER", "how many blocks that was", 0, 0},                              \
        {"peak_error", "INTEGER", "how far the bytes may be off (95 %)", 0, 0},                    \
        {"rss_peak_bytes", "INTEGER", "alive when the resident memory was at its highest", 0, 0},  \
        {"rss_peak_blocks", "INTEGER", "how many blocks that was", 0, 0},                          \
        {"rss_peak_error", "INTEGER", "how far the bytes may be off (95 %)", 0, 0},                \
        {"total_bytes", "INTEGER", "made in all", 0, 0},                                           \
        {"total_blocks", "INTEGER", "how many blocks that was", 0, 0},                             \
        {"total_error", "INTEGER", "how far the bytes may be off (95 %)", 0, 0},                   \
        {"gone_bytes", "INTEGER", "alive when its process ended, and gone with it", 0, 0}, {       \
        "gone_blocks", "INTEGER", "how many blocks that was", 0, 0                                 \
    }
enum { FIGURE_COLUMNS = 14 };
/* By column: of which figure, and which of its three. */
static const struct {
    uint8_t figure, part;
} figure_columns[FIGURE_COLUMNS] = {
    {PROFILE_LIVE, 0},     {PROFILE_LIVE, 1},  {PROFILE_LIVE, 2},     {PROFILE_PEAK, 0},
    {PROFILE_PEAK, 1},     {PROFILE_PEAK, 2},  {PROFILE_RSS_PEAK, 0}, {PROFILE_RSS_PEAK, 1},
    {PROFILE_RSS_PEAK, 2}, {PROFILE_TOTAL, 0}, {PROFILE_TOTAL, 1},    {PROFILE_TOTAL, 2},
    {PROFILE_GONE, 0},     {PROFILE_GONE, 1},
};

enum {
    SITE_ID,
    SITE_FILE,
    SITE_LINE,
    SITE_FUNCTION,
    SITE_FROM_FILE,
    SITE_FROM_LINE,
    SITE_FROM_FUNCTION,
    SITE_FIGURES
};
enum { CELL_PROCESS, CELL_STACK, CELL_SITE, CELL_DOMAIN, CELL_FIGURES };
enum {
    STACK_ID,
    STACK_PARENT,
    STACK_SITE,
    STACK_KIND,
    STACK_FUNCTION,
    STACK_FILE,
    STACK_LINE,
    STACK_OFFSET,
    STACK_BUILD,
    STACK_SOURCE,
    STACK_FIRST,
    STACK_MODULE
};
enum {
    SAMPLE_PROCESS,
    SAMPLE_ADDRESS,
    SAMPLE_BYTES,
    SAMPLE_WEIGHT,
    SAMPLE_STACK,
    SAMPLE_SITE,
    SAMPLE_DOMAIN,
    SAMPLE_OBJECT
};
enum { POINT_PROCESS, POINT_T, POINT_RSS, POINT_HEAP };
enum { EVENT_PROCESS, EVENT_T, EVENT_KIND, EVENT_DURATION, EVENT_VALUE, EVENT_TEXT };
enum {
    PROCESS_ID,
    PROCESS_PARENT,
    PROCESS_PID,
    PROCESS_HOW,
    PROCESS_BEGIN,
    PROCESS_END,
    PROCESS_STATUS,
    PROCESS_MODE,
    PROCESS_INTERVAL,
    PROCESS_COMMAND,
    PROCESS_PYTHON,
    PROCESS_RSS_PEAK,
    PROCESS_HEAP_PEAK,
    PROCESS_LINES_UNTIL
};
enum {
    COURSE_PROCESS,
    COURSE_T,
    COURSE_FILE,
    COURSE_LINE,
    COURSE_FUNCTION,
    COURSE_LIVE,
    COURSE_MADE,
    COURSE_HIGH
};

#define PROCESS_OF                                                                                 \
    { "process", "INTEGER", "its number in processes", 0, 0 }
#define SITE_OF                                                                                    \
    { "site", "INTEGER", "its id in sites", 0, 0 }
#define STACK_OF                                                                                   \
    { "stack", "INTEGER", "its id in stacks: the innermost frame", 0, 0 }
#define DOMAIN_OF                                                                                  \
    { "domain", "TEXT", "which allocator: raw, mem, object, mmap, libc", 0, 0 }

const sql_table_t sql_profile_tables[] = {
    {"sites",
     "the lines that made the memory, most at the peak first",
     SQL_ROWS_SITES,
     {
         {"id", "INTEGER", "the site's number, from 0", SQL_KEY_ID, 0},
         {"file", "TEXT", "of the innermost Python frame", 0, 0},
         {"line", "INTEGER", "in that file", 0, 0},
         {"function", "TEXT", "its qualified name", 0, 0},
         {"from_file", "TEXT", "the program's own line behind a library's", 0, 0},
         {"from_line", "INTEGER", "that most of it came by", 0, 0},
         {"from_function", "TEXT", "NULL where the site is the program's own", 0, 0},
         FIGURES,
     }},
    {"allocations",
     "what each stack of each process allocated, by domain",
     SQL_ROWS_CELLS,
     {PROCESS_OF, STACK_OF, SITE_OF, DOMAIN_OF, FIGURES}},
    {"stacks",
     "frames below their callers: a stack is its innermost frame",
     SQL_ROWS_STACKS,
     {
         {"id", "INTEGER", "the stack's number, from 0", SQL_KEY_ID, 0},
         {"parent", "INTEGER", "the stack of its caller; NULL at the outermost", 0, 0},
         SITE_OF,
         {"kind", "TEXT", "python, native or other", 0, 0},
         {"function", "TEXT", "of the frame", 0, 0},
         {"file", "TEXT", "of the frame: source, or library", 0, 0},
         {"line", "INTEGER", "in that file; NULL where not known", 0, 0},
         {"offset", "INTEGER", "of a native frame, in its library", 0, 0},
         {"build_id", "TEXT", "of that library", 0, 0},
         {"source", "TEXT", "the text of the line, where the recording has it", 0, 0},
         {"first_line", "INTEGER", "of the function; NULL where not known", 0, 0},
         {"module", "TEXT", "of a native frame: its library", 0, 0},
     }},
    {"samples",
     "sampled blocks that were alive when the heap was captured",
     SQL_ROWS_SAMPLES,
     {
         PROCESS_OF,
         {"address", "INTEGER", "of the block", 0, 0},
         {"bytes", "INTEGER", "of the block", 0, 0},
         {"weight", "INTEGER", "bytes that it stands for", 0, 0},
         STACK_OF,
         SITE_OF,
         DOMAIN_OF,
         {"object", "INTEGER", "id of the object whose block it is; NULL where not known", 0, 0},
     }},
    {"timeline",
     "memory over time",
     SQL_ROWS_POINTS,
     {
         PROCESS_OF,
         {"t_s", "REAL", "seconds since the recording began", 0, 0},
         {"rss_bytes", "INTEGER", "resident", 0, 0},
         {"heap_bytes", "INTEGER", "allocated; estimated where sampled", 0, 0},
     }},
    {"events",
     "garbage collections, marks, snapshots",
     SQL_ROWS_EVENTS,
     {
         PROCESS_OF,
         {"t_s", "REAL", "seconds since the recording began", 0, 0},
         {"kind", "TEXT", "collection, mark, snapshot or limit", 0, 0},
         {"duration_s", "REAL", "how long it took", 0, 0},
         {"value", "INTEGER", "generation of a collection, objects of a snapshot", 0, 0},
         {"text", "TEXT", "of a mark", 0, 0},
     }},
    {"processes",
     "the processes that were followed",
     SQL_ROWS_PROCESSES,
     {
         {"process", "INTEGER", "its number, 0 the first", SQL_KEY_ID, 0},
         {"parent", "INTEGER", "number of its parent; NULL for the first", 0, 0},
         {"pid", "INTEGER", "its process id", 0, 0},
         {"how", "TEXT", "started, forked, spawned or attached", 0, 0},
         {"begin_s", "REAL", "seconds since the recording began", 0, 0},
         {"end_s", "REAL", "NULL where it had not ended", 0, 0},
         {"exit_status", "INTEGER", "128 + the signal that killed it; NULL: not known", 0, 0},
         {"mode", "TEXT", "sampled or exact; NULL: its allocations were not watched", 0, 0},
         {"interval_bytes", "INTEGER", "between two samples, in the mean", 0, 0},
         {"command", "TEXT", "its arguments, with spaces between", 0, 0},
         {"python", "TEXT", "its version", 0, 0},
         {"rss_peak_bytes", "INTEGER", "its highest resident memory", 0, 0},
         {"heap_peak_bytes", "INTEGER", "the most that was allocated", 0, 0},
         {"lines_until_s", "REAL", "from then on it has no rows in lines; NULL: it has all", 0, 0},
     }},
    {"lines",
     "what the program's own lines had over time, where it changed",
     SQL_ROWS_COURSES,
     {
         PROCESS_OF,
         {"t_s", "REAL", "seconds since the recording began", 0, 0},
         {"file", "TEXT", "of the line; NULL: the row is of the whole heap", 0, 0},
         {"line", "INTEGER", "in that file", 0, 0},
         {"function", "TEXT", "that the line is in", 0, 0},
         {"live_bytes", "INTEGER", "that it has from then on", 0, 0},
         {"made_bytes", "INTEGER", "made since the row of the whole heap before", 0, 0},
         {"high_bytes", "INTEGER", "of the whole heap: the most since then", 0, 0},
     }},
    {"ledger",
     "where every resident byte is",
     SQL_ROWS_LEDGER,
     {
         {"name", "TEXT", "of the layer", 0, 0},
         {"bytes", "INTEGER", "resident", 0, 0},
         {"returnable_bytes", "INTEGER", "that lowtide free would return", 0, 0},
         {"note", "TEXT", "what to know about it", 0, 0},
     }},
    {"arenas",
     "each of pymalloc's arenas; what lies in one is told by objects.address",
     SQL_ROWS_ARENAS,
     {
         {"address", "INTEGER", "where it begins", 0, 0},
         {"bytes", "INTEGER", "how large it is", 0, 0},
         {"resident_bytes", "INTEGER", "of it", 0, 0},
         {"live_bytes", "INTEGER", "of blocks in use", 0, 0},
         {"returnable_bytes", "INTEGER", "that lowtide free would return", 0, 0},
     }},
    {"heaps",
     "each of glibc's heaps",
     SQL_ROWS_HEAPS,
     {
         {"address", "INTEGER", "where it begins", 0, 0},
         {"main", "INTEGER", "1: the program break, 0: of a thread's arena", 0, 0},
         {"bytes", "INTEGER", "how large it is", 0, 0},
         {"resident_bytes", "INTEGER", "of it", 0, 0},
         {"free_bytes", "INTEGER", "resident, of free chunks", 0, 0},
         {"top_bytes", "INTEGER", "of these, at the heap's end", 0, 0},
         {"returnable_bytes", "INTEGER", "that lowtide free would return", 0, 0},
     }},
    {"resources",
     "open files, sockets, threads",
     SQL_ROWS_RESOURCES,
     {
         {"kind", "TEXT", "file, socket, thread, ...", 0, 0},
         {"name", "TEXT", "of the file, thread ...", 0, 0},
         {"note", "TEXT", "deleted, listening, daemon, ended ...", 0, 0},
         {"descriptor", "INTEGER", "file descriptor, PID or TID; -1: none", 0, 0},
         {"file", "TEXT", "where it was opened", 0, 0},
         {"line", "INTEGER", "in that file", 0, 0},
         {"function", "TEXT", "that opened it", 0, 0},
         {"address", "INTEGER", "of its Python object, or 0: objects.address", 0, 0},
         {"bytes", "INTEGER", "that it has", 0, 0},
     }},
    {"mappings",
     "malloc's large blocks, and mappings of memory",
     SQL_ROWS_MAPPINGS,
     {
         {"address", "INTEGER", "where it begins", 0, 0},
         {"bytes", "INTEGER", "how large it is", 0, 0},
         {"resident_bytes", "INTEGER", "of it, that the ledger's line has", 0, 0},
         {"line", "TEXT", "name in ledger", 0, 0},
     }},
    {"blocks",
     "blocks that objects own apart from their own, as far as they are recorded",
     SQL_ROWS_BLOCKS,
     {
         {"object", "INTEGER", "id of the object that owns it", 0, 0},
         {"address", "INTEGER", "where it begins", 0, 0},
         {"bytes", "INTEGER", "of one of several that the object owns; else 0", 0, 0},
     }},
};
const int sql_profile_tables_count = sizeof sql_profile_tables / sizeof sql_profile_tables[0];

int sql_profile_load(sql_profile_t *s, const model_t *m, int rows, err_t *e) {
    static const char *const names[] = {"ledger",    "arenas",   "heaps",
                                        "resources", "mappings", "blocks"};
    lowtide_recording *rec = model_recording(m);
    if (rows >= SQL_ROWS_LEDGER) {
        int i = rows - SQL_ROWS_LEDGER;
        lowtide_error error;
        int status = s->raw[i] ? 0 : lowtide_table_load(rec, names[i], &s->raw[i], &error);
        return status ? err_set(e, status, "%s", error.text) : 0;
    }
    if (s->profile) return 0;
    int status = profile_build(rec, model_namer(m), &s->owned, e);
    if (!status && s->owned->sample_count) status = profile_join(s->owned, m, NULL, e);
    if (!status) s->profile = s->owned;
    return status;
}

void sql_profile_free(sql_profile_t *s) {
    profile_free(s->owned);
    for (int i = 0; i < SQL_ROWS_END - SQL_ROWS_LEDGER; i++) lowtide_table_free(s->raw[i]);
    *s = (sql_profile_t){0};
}

uint32_t sql_profile_rows(const sql_profile_t *s, int rows) {
    const profile_t *p = s->profile;
    switch (rows) {
    case SQL_ROWS_SITES:
        return p->site_count;
    case SQL_ROWS_CELLS:
        return p->cell_count;
    case SQL_ROWS_STACKS:
        return p->stack_count;
    case SQL_ROWS_SAMPLES:
        return p->sample_count;
    case SQL_ROWS_POINTS:
        return p->point_count;
    case SQL_ROWS_EVENTS:
        return p->event_count;
    case SQL_ROWS_PROCESSES:
        return p->process_count;
    case SQL_ROWS_COURSES:
        return p->course_count;
    default:
        return lowtide_table_rows(s->raw[rows - SQL_ROWS_LEDGER]);
    }
}

/* ---- Values: NULL where nothing is put ---- */

static void put_number(sqlite3_context *ctx, uint64_t n) {
    sqlite3_result_int64(ctx, n > INT64_MAX ? INT64_MAX : (int64_t)n);
}

static void put_id(sqlite3_context *ctx, uint32_t id) {
    if (id != LOWTIDE_NONE) put_number(ctx, id);
}

static void put_text(sqlite3_context *ctx, const char *text) {
    sqlite3_result_text(ctx, text, -1, SQLITE_TRANSIENT);
}

static void put_seconds(sqlite3_context *ctx, uint64_t us) {
    sqlite3_result_double(ctx, (double)us / 1e6);
}

static void put_domain(sqlite3_context *ctx, uint32_t domain) {
    static const char *const names[] = {"", "raw", "mem", "object", "mmap", "libc"};
    if (domain && domain < sizeof names / sizeof names[0]) put_text(ctx, names[domain]);
}

static void put_figure(const profile_t *p, const profile_sums_t *sums, int column,
                       sqlite3_context *ctx) {
    int figure = figure_columns[column].figure, part = figure_columns[column].part;
    put_number(ctx, part == 0   ? sums->bytes[figure]
                    : part == 1 ? sums->blocks[figure]
                                : profile_error(p, sums, figure));
}

static void site_value(const profile_t *p, uint32_t row, int column, sqlite3_context *ctx) {
    const profile_site_t *site = &p->sites[row];
    bool of_caller = column >= SITE_FROM_FILE && column <= SITE_FROM_FUNCTION;
    const profile_frame_t *f = of_caller ? profile_from(p, site) : &site->frame;
    if (column >= SITE_FIGURES) {
        put_figure(p, &site->sums, column - SITE_FIGURES, ctx);
    } else if (column == SITE_ID) {
        put_id(ctx, row);
    } else if (f && (column == SITE_FILE || column == SITE_FROM_FILE)) {
        put_text(ctx, f->file);
    } else if (f && (column == SITE_LINE || column == SITE_FROM_LINE)) {
        put_number(ctx, f->line);
    } else if (f) {
        put_text(ctx, f->function);
    }
}

static void cell_value(const profile_t *p, uint32_t row, int column, sqlite3_context *ctx) {
    const profile_cell_t *c = &p->cells[row];
    if (column >= CELL_FIGURES) put_figure(p, &c->sums, column - CELL_FIGURES, ctx);
    if (column == CELL_PROCESS) put_id(ctx, c->process);
    if (column == CELL_STACK) put_id(ctx, c->stack);
    if (column == CELL_SITE) put_id(ctx, p->stacks[c->stack].site);
    if (column == CELL_DOMAIN) put_domain(ctx, c->domain);
}

static void stack_value(const profile_t *p, uint32_t row, int column, sqlite3_context *ctx) {
    static const char *const kinds[] = {"other", "python", "native", "other"};
    const profile_stack_t *s = &p->stacks[row];
    if (column == STACK_ID) put_id(ctx, row);
    if (column == STACK_PARENT) put_id(ctx, s->parent);
    if (column == STACK_SITE) put_id(ctx, s->site);
    if (s->frame == LOWTIDE_NONE) return;
    const profile_frame_t *f = &p->frames[s->frame];
    if (column == STACK_KIND) put_text(ctx, kinds[f->kind < 4 ? f->kind : 0]);
    if (column == STACK_FUNCTION) put_text(ctx, f->function);
    if (column == STACK_FILE) put_text(ctx, f->file);
    if (column == STACK_LINE && f->line) put_number(ctx, f->line);
    if (column == STACK_OFFSET && f->kind == PROFILE_NATIVE) put_number(ctx, f->offset);
    if (column == STACK_SOURCE && *f->source) put_text(ctx, f->source);
    if (column == STACK_BUILD && *f->build_id) put_text(ctx, f->build_id);
    if (column == STACK_FIRST && f->first_line) put_number(ctx, f->first_line);
    if (column == STACK_MODULE && f->kind == PROFILE_NATIVE) put_text(ctx, f->module);
}

static void sample_value(const profile_t *p, uint32_t row, int column, sqlite3_context *ctx) {
    const profile_sample_t *s = &p->samples[row];
    if (column == SAMPLE_PROCESS) put_id(ctx, s->process);
    if (column == SAMPLE_ADDRESS) put_number(ctx, s->address);
    if (column == SAMPLE_BYTES) put_number(ctx, s->bytes);
    if (column == SAMPLE_WEIGHT) put_number(ctx, s->weight);
    if (column == SAMPLE_STACK) put_id(ctx, s->stack);
    if (column == SAMPLE_SITE) put_id(ctx, p->stacks[s->stack].site);
    if (column == SAMPLE_DOMAIN) put_domain(ctx, s->domain);
    if (column == SAMPLE_OBJECT) put_id(ctx, s->object);
}

static void point_value(const profile_t *p, uint32_t row, int column, sqlite3_context *ctx) {
    const profile_point_t *point = &p->points[row];
    if (column == POINT_PROCESS) put_id(ctx, point->process);
    if (column == POINT_T) put_seconds(ctx, point->t_us);
    if (column == POINT_RSS) put_number(ctx, point->rss_bytes);
    if (column == POINT_HEAP) put_number(ctx, point->heap_bytes);
}

static void event_value(const profile_t *p, uint32_t row, int column, sqlite3_context *ctx) {
    static const char *const kinds[] = {"", "collection", "mark", "snapshot", "limit"};
    const profile_event_t *v = &p->events[row];
    if (column == EVENT_PROCESS) put_id(ctx, v->process);
    if (column == EVENT_T) put_seconds(ctx, v->t_us);
    if (column == EVENT_KIND && v->kind < 5) put_text(ctx, kinds[v->kind]);
    if (column == EVENT_DURATION) put_seconds(ctx, v->duration_us);
    if (column == EVENT_VALUE) put_number(ctx, v->value);
    if (column == EVENT_TEXT && v->kind != PROFILE_EVENT_GC) put_text(ctx, v->text);
}

static void put_command(sqlite3_context *ctx, const char *command) {
    char *words = sqlite3_mprintf("%s", command);
    for (char *c = words; c && *c; c++)
        if (*c == '\x1f') *c = ' ';
    if (words) sqlite3_result_text(ctx, words, -1, sqlite3_free);
}

static void process_value(const profile_t *p, uint32_t row, int column, sqlite3_context *ctx) {
    static const char *const hows[] = {"", "started", "forked", "spawned", "attached"};
    const profile_process_t *one = &p->processes[row];
    if (column == PROCESS_ID) put_id(ctx, row);
    if (column == PROCESS_PARENT) put_id(ctx, one->parent);
    if (column == PROCESS_PID) put_number(ctx, one->pid);
    if (column == PROCESS_HOW && one->how < 5) put_text(ctx, hows[one->how]);
    if (column == PROCESS_BEGIN) put_seconds(ctx, one->begin_us);
    if (column == PROCESS_END && one->ended) put_seconds(ctx, one->end_us);
    if (column == PROCESS_STATUS && one->has_exit) sqlite3_result_int(ctx, one->exit_status);
    if (column == PROCESS_MODE && one->mode)
        put_text(ctx, one->mode == PROFILE_SAMPLED ? "sampled" : "exact");
    if (column == PROCESS_INTERVAL && one->interval_bytes) put_number(ctx, one->interval_bytes);
    if (column == PROCESS_COMMAND) put_command(ctx, one->command);
    if (column == PROCESS_PYTHON) put_text(ctx, one->python);
    if (column == PROCESS_RSS_PEAK) put_number(ctx, one->rss_peak_bytes);
    if (column == PROCESS_HEAP_PEAK) put_number(ctx, one->heap_peak_bytes);
    if (column == PROCESS_LINES_UNTIL && one->lines_until_us) put_seconds(ctx, one->lines_until_us);
}

static void course_value(const profile_t *p, uint32_t row, int column, sqlite3_context *ctx) {
    const profile_course_t *c = &p->courses[row];
    const profile_frame_t *f = c->frame == LOWTIDE_NONE ? NULL : &p->frames[c->frame];
    if (column == COURSE_PROCESS) put_id(ctx, c->process);
    if (column == COURSE_T) put_seconds(ctx, c->t_us);
    if (f && column == COURSE_FILE) put_text(ctx, f->file);
    if (f && column == COURSE_LINE) put_number(ctx, f->line);
    if (f && column == COURSE_FUNCTION) put_text(ctx, f->function);
    if (column == COURSE_LIVE) put_number(ctx, c->live_bytes);
    if (column == COURSE_MADE) put_number(ctx, c->made_bytes);
    if (!f && column == COURSE_HIGH) put_number(ctx, c->high_bytes);
}

void sql_profile_value(const sql_profile_t *s, const sql_table_t *t, uint32_t row, int column,
                       sqlite3_context *ctx) {
    static void (*const values[])(const profile_t *, uint32_t, int, sqlite3_context *) = {
        [SQL_ROWS_SITES - SQL_ROWS_SITES] = site_value,
        [SQL_ROWS_CELLS - SQL_ROWS_SITES] = cell_value,
        [SQL_ROWS_STACKS - SQL_ROWS_SITES] = stack_value,
        [SQL_ROWS_SAMPLES - SQL_ROWS_SITES] = sample_value,
        [SQL_ROWS_POINTS - SQL_ROWS_SITES] = point_value,
        [SQL_ROWS_EVENTS - SQL_ROWS_SITES] = event_value,
        [SQL_ROWS_PROCESSES - SQL_ROWS_SITES] = process_value,
        [SQL_ROWS_COURSES - SQL_ROWS_SITES] = course_value,
    };
    if (t->rows < SQL_ROWS_LEDGER) {
        values[t->rows - SQL_ROWS_SITES](s->profile, row, column, ctx);
        return;
    }
    const lowtide_table *raw = s->raw[t->rows - SQL_ROWS_LEDGER];
    uint32_t at = lowtide_table_column(raw, t->columns[column].name);
    if (strcmp(t->columns[column].type, "TEXT") == 0)
        put_text(ctx, lowtide_table_text(raw, at, row));
    else
        put_number(ctx, lowtide_table_number(raw, at, row));
}
