#define _GNU_SOURCE
#include "view/sql_tables.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The columns of each kind of row, in the order of the tables below. */
enum {
    OBJECT_ID,
    OBJECT_ADDRESS,
    OBJECT_TYPE,
    OBJECT_SIZE,
    OBJECT_BUFFERS,
    OBJECT_REFCOUNT,
    OBJECT_RETAINED,
    OBJECT_RETAINED_OBJECTS,
    OBJECT_IDOM,
    OBJECT_TRACKED,
    OBJECT_FROZEN,
    OBJECT_FINALIZED,
    OBJECT_SKIPPED,
    OBJECT_IMMORTAL,
    OBJECT_GARBAGE,
    OBJECT_HELD_BY_C,
    OBJECT_LENGTH,
    OBJECT_VALUE,
    OBJECT_UNTOUCHED
};
enum { REF_SOURCE, REF_TARGET, REF_KIND, REF_NAME, REF_POSITION };
enum { TYPE_NAME, TYPE_MODULE, TYPE_ID, TYPE_COUNT, TYPE_SHALLOW, TYPE_RETAINED };
enum { NODE_ID, NODE_IDOM, NODE_TYPE, NODE_SHALLOW, NODE_RETAINED, NODE_OBJECTS, NODE_PREORDER };
enum { PATH_ID, PATH_PATH, PATH_EXPRESSION, PATH_LENGTH };
enum { HOLDER_ID, HOLDER_NAME, HOLDER_RETAINED, HOLDER_OBJECTS };
enum { FRAME_ID, FRAME_FUNCTION, FRAME_FILE, FRAME_LINE, FRAME_RETAINED, FRAME_OBJECTS };
enum { META_KEY, META_VALUE };

#define ID(meaning)                                                                                \
    { "id", "INTEGER", meaning, SQL_KEY_ID, 0 }
#define RETAINED                                                                                   \
    { "retained", "INTEGER", "bytes that would go if it went", 0, 0 }
#define RETAINED_OBJECTS                                                                           \
    { "retained_objects", "INTEGER", "objects that would go, itself counted", 0, 0 }

const sql_table_t sql_tables[] = {
    {"objects",
     "every Python object",
     SQL_ROWS_OBJECTS,
     {
         ID("the object's place in the recording, from 0"),
         {"address", "INTEGER", "where it was; write 0x7f… to look it up", SQL_KEY_ADDRESS,
          LOWTIDE_COL_ADDRESS},
         {"type", "TEXT", "its type, with the module unless builtins", SQL_KEY_TYPE, 0},
         {"size", "INTEGER", "bytes of its own blocks", 0, LOWTIDE_COL_SIZE},
         {"buffers", "INTEGER", "bytes that it owns beyond them: array data, tables", 0,
          LOWTIDE_COL_BUFFERS},
         {"refcount", "INTEGER", "references to it; NULL when immortal", 0, LOWTIDE_COL_REFCOUNT},
         RETAINED,
         RETAINED_OBJECTS,
         {"idom", "INTEGER", "its dominator (table dominators): when that goes, it goes",
          SQL_KEY_PARENT, 0},
         {"tracked", "INTEGER", "1: known to the garbage collector", 0, LOWTIDE_COL_FLAGS},
         {"frozen", "INTEGER", "1: put aside by gc.freeze()", 0, LOWTIDE_COL_FLAGS},
         {"finalized", "INTEGER", "1: its finalizer has run", 0, LOWTIDE_COL_FLAGS},
         {"skipped", "INTEGER", "1: its references could not be read", 0, LOWTIDE_COL_FLAGS},
         {"immortal", "INTEGER", "1: never freed", 0, 0},
         {"garbage", "INTEGER", "1: nothing holds it; gc.collect() would free it", 0, 0},
         {"held_by_c", "INTEGER", "1: C code holds references that no object accounts for", 0, 0},
         {"length", "INTEGER", "of text in characters, of bytes, of a big int in bits", 0,
          LOWTIDE_COL_VALUES},
         {"value", "", "number, text or bytes (of long ones the beginning), or name", 0,
          LOWTIDE_COL_VALUES},
         {"untouched", "INTEGER",
          "of size and buffers, what was set aside and never touched: no memory, and not in "
          "retained",
          0, 0},
     }},
    {"refs",
     "every reference that keeps its target alive",
     SQL_ROWS_REFERENCES,
     {
         {"source", "INTEGER", "id of the object that holds it", SQL_KEY_ID, 0},
         {"target", "INTEGER", "id of the object that it holds", SQL_KEY_TARGET, 0},
         {"kind", "TEXT", "attribute, index, key, value, element, local, cell, class, ...", 0, 0},
         {"name", "TEXT", "of an attribute, local, cell, field or root", 0, 0},
         {"position", "INTEGER", "in a sequence, or of the pair in a mapping", 0, 0},
     }},
    {"types",
     "the types of the objects",
     SQL_ROWS_TYPES,
     {
         {"type", "TEXT", "its name, with the module unless builtins", 0, 0},
         {"module", "TEXT", "its module", 0, 0},
         {"id", "INTEGER", "of the type object", 0, 0},
         {"count", "INTEGER", "instances", 0, 0},
         {"shallow", "INTEGER", "bytes of the instances and the buffers they own, less untouched",
          0, 0},
         {"retained", "INTEGER", "bytes that would go if all instances went", 0, 0},
     }},
    {"dominators",
     "the tree of what goes when something goes: objects, frames, threads, roots",
     SQL_ROWS_NODES,
     {
         ID("the object; pseudo-objects and roots have ids too"),
         {"idom", "INTEGER", "the node above it; NULL for the root", SQL_KEY_PARENT, 0},
         {"type", "TEXT", "its type; in angle brackets what is no Python object", SQL_KEY_TYPE, 0},
         {"shallow", "INTEGER", "bytes of its own blocks and the buffers it owns, less untouched",
          0, 0},
         RETAINED,
         RETAINED_OBJECTS,
         {"preorder", "INTEGER",
          "what it dominates has the retained_objects - 1 numbers that follow", 0, 0},
     }},
    {"paths",
     "how to get to an object; ask for few of them",
     SQL_ROWS_PATHS,
     {
         ID("the object"),
         {"path", "TEXT", "the shortest named path from a root", 0, 0},
         {"expression", "INTEGER", "1: Python that evaluates to the object in the program", 0, 0},
         {"length", "INTEGER", "objects on the path", 0, 0},
     }},
    {"modules",
     "the modules",
     SQL_ROWS_MODULES,
     {
         ID("the module object"),
         {"name", "TEXT", "its name", 0, LOWTIDE_COL_VALUES},
         RETAINED,
         RETAINED_OBJECTS,
     }},
    {"threads",
     "the threads that ran Python",
     SQL_ROWS_THREADS,
     {
         ID("the thread's pseudo-object"),
         {"name", "TEXT", "its name", 0, LOWTIDE_COL_VALUES},
         RETAINED,
         RETAINED_OBJECTS,
     }},
    {"frames",
     "the calls that were running, and suspended generators and coroutines",
     SQL_ROWS_FRAMES,
     {
         ID("the frame's pseudo-object"),
         {"function", "TEXT", "its qualified name", 0, LOWTIDE_COL_VALUES},
         {"file", "TEXT", "where it is defined", 0, LOWTIDE_COL_VALUES},
         {"line", "INTEGER", "where it stood", 0, LOWTIDE_COL_VALUES},
         RETAINED,
         RETAINED_OBJECTS,
     }},
    {"meta",
     "what the recording says of itself",
     SQL_ROWS_META,
     {
         {"key", "TEXT", "docs/format.md lists them", 0, 0},
         {"value", "TEXT", "as text", 0, 0},
     }},
};
const int sql_tables_count = sizeof sql_tables / sizeof sql_tables[0];

/* SQLite wants UTF-8; the text's owner may move on, so it is copied. */
static void put_text(sqlite3_context *ctx, const char *text, size_t n) {
    sqlite3_result_text64(ctx, text, n, SQLITE_TRANSIENT, SQLITE_UTF8);
}

static void put_id(sqlite3_context *ctx, uint32_t id) {
    if (id == LOWTIDE_NONE)
        sqlite3_result_null(ctx);
    else
        sqlite3_result_int64(ctx, id);
}

static void put_bytes(sqlite3_context *ctx, uint64_t n) {
    sqlite3_result_int64(ctx, n > INT64_MAX ? INT64_MAX : (int64_t)n);
}

/* The object of the row: from the chunk that the cursor has decoded, else looked up. */
static int read_object(const sql_row_t *row, lowtide_object *o, char **message) {
    const lowtide_chunk *c = row->chunk;
    if (c) {
        uint32_t i = row->id - c->first;
        *o = (lowtide_object){.id = row->id};
        if (c->address) o->address = c->address[i];
        if (c->size) o->size = c->size[i];
        if (c->refcount) o->refcount = c->refcount[i];
        if (c->flags) o->flags = c->flags[i];
        if (c->buffers) o->buffers = c->buffers[i];
        if (c->values) o->value = c->values[i];
        return SQLITE_OK;
    }
    lowtide_error e;
    if (lowtide_object_at(model_recording(row->model), row->id, o, &e) == 0) return SQLITE_OK;
    *message = sqlite3_mprintf("%s", e.text);
    return SQLITE_CORRUPT_VTAB;
}

static void put_value(sqlite3_context *ctx, const lowtide_value *v) {
    const char *text = v->text ? v->text : "";
    const char *end;
    switch (v->kind) {
    case LOWTIDE_VALUE_STR:
        put_text(ctx, text, v->text_bytes);
        break;
    case LOWTIDE_VALUE_BYTES:
        sqlite3_result_blob64(ctx, text, v->text_bytes, SQLITE_TRANSIENT);
        break;
    case LOWTIDE_VALUE_NAME:
        end = memchr(text, '\x1f', v->text_bytes);
        put_text(ctx, text, end ? (size_t)(end - text) : v->text_bytes);
        break;
    case LOWTIDE_VALUE_INT:
    case LOWTIDE_VALUE_BOOL:
        sqlite3_result_int64(ctx, v->integer);
        break;
    case LOWTIDE_VALUE_FLOAT:
        sqlite3_result_double(ctx, v->real);
        break;
    default:
        sqlite3_result_null(ctx);
    }
}

static void put_length(sqlite3_context *ctx, const lowtide_value *v) {
    if (v->kind == LOWTIDE_VALUE_STR || v->kind == LOWTIDE_VALUE_BYTES ||
        v->kind == LOWTIDE_VALUE_BIG_INT)
        put_bytes(ctx, v->length);
    else
        sqlite3_result_null(ctx);
}

static int object_value(const sql_table_t *t, const sql_row_t *row, int column,
                        sqlite3_context *ctx, char **message) {
    const model_t *m = row->model;
    uint32_t id = row->id;
    lowtide_object o = {0};
    if (t->columns[column].decodes) {
        int status = read_object(row, &o, message);
        if (status) return status;
    }
    switch (column) {
    case OBJECT_ID:
        put_id(ctx, id);
        break;
    case OBJECT_ADDRESS:
        put_bytes(ctx, o.address);
        break;
    case OBJECT_TYPE:
        sqlite3_result_text(ctx, model_type_name(m, id), -1, SQLITE_TRANSIENT);
        break;
    case OBJECT_SIZE:
        put_bytes(ctx, o.size);
        break;
    case OBJECT_BUFFERS:
        put_bytes(ctx, o.buffers);
        break;
    case OBJECT_REFCOUNT:
        if (o.refcount) put_bytes(ctx, o.refcount);
        break;
    case OBJECT_RETAINED:
        put_bytes(ctx, model_retained(m, id));
        break;
    case OBJECT_RETAINED_OBJECTS:
        put_bytes(ctx, model_retained_objects(m, id));
        break;
    case OBJECT_IDOM:
        put_id(ctx, model_idom(m, id));
        break;
    case OBJECT_TRACKED:
        sqlite3_result_int(ctx, !!(o.flags & LOWTIDE_TRACKED));
        break;
    case OBJECT_FROZEN:
        sqlite3_result_int(ctx, !!(o.flags & LOWTIDE_FROZEN));
        break;
    case OBJECT_FINALIZED:
        sqlite3_result_int(ctx, !!(o.flags & LOWTIDE_FINALIZED));
        break;
    case OBJECT_SKIPPED:
        sqlite3_result_int(ctx, !!(o.flags & LOWTIDE_SKIPPED));
        break;
    case OBJECT_IMMORTAL:
        sqlite3_result_int(ctx, model_is_immortal(m, id));
        break;
    case OBJECT_GARBAGE:
        sqlite3_result_int(ctx, model_is_garbage(m, id));
        break;
    case OBJECT_HELD_BY_C:
        sqlite3_result_int(ctx, model_has_surplus(m, id));
        break;
    case OBJECT_LENGTH:
        put_length(ctx, &o.value);
        break;
    case OBJECT_VALUE:
        put_value(ctx, &o.value);
        break;
    case OBJECT_UNTOUCHED:
        put_bytes(ctx, model_untouched(m, id));
        break;
    default:
        break;
    }
    return SQLITE_OK;
}

static void reference_value(const sql_row_t *row, int column, sqlite3_context *ctx) {
    static const char *const kinds[] = {"",      "class",     "attribute", "index", "key",
                                        "value", "element",   "local",     "stack", "cell",
                                        "field", "reference", "root"};
    lowtide_recording *rec = model_recording(row->model);
    uint32_t position;
    lowtide_label l = lowtide_label_at(lowtide_shape_at(rec, model_shape(row->model, row->id)),
                                       row->label, &position);
    bool placed = l.kind == LOWTIDE_INDEX || l.kind == LOWTIDE_KEY || l.kind == LOWTIDE_VALUE;
    switch (column) {
    case REF_SOURCE:
        put_id(ctx, row->id);
        break;
    case REF_TARGET:
        put_id(ctx, row->target);
        break;
    case REF_KIND:
        sqlite3_result_text(ctx, l.kind <= LOWTIDE_ROOT ? kinds[l.kind] : "reference", -1,
                            SQLITE_STATIC);
        break;
    case REF_NAME:
        if (l.name != LOWTIDE_NONE)
            sqlite3_result_text(ctx, lowtide_string(rec, l.name), -1, SQLITE_TRANSIENT);
        break;
    case REF_POSITION:
        if (placed) put_id(ctx, position);
        break;
    default:
        break;
    }
}

static void type_value(const sql_row_t *row, int column, sqlite3_context *ctx) {
    uint32_t count;
    const model_type_t *t = &model_types(row->model, &count)[row->id];
    switch (column) {
    case TYPE_NAME:
        sqlite3_result_text(ctx, t->name, -1, SQLITE_TRANSIENT);
        break;
    case TYPE_MODULE:
        if (t->module && *t->module) sqlite3_result_text(ctx, t->module, -1, SQLITE_TRANSIENT);
        break;
    case TYPE_ID:
        put_id(ctx, t->type_id);
        break;
    case TYPE_COUNT:
        put_bytes(ctx, t->count);
        break;
    case TYPE_SHALLOW:
        put_bytes(ctx, t->shallow_bytes);
        break;
    case TYPE_RETAINED:
        put_bytes(ctx, t->retained_bytes);
        break;
    default:
        break;
    }
}

static void node_value(const sql_row_t *row, int column, sqlite3_context *ctx) {
    const model_t *m = row->model;
    uint32_t id = row->id;
    switch (column) {
    case NODE_ID:
        put_id(ctx, id);
        break;
    case NODE_IDOM:
        put_id(ctx, model_idom(m, id));
        break;
    case NODE_TYPE:
        sqlite3_result_text(ctx, model_type_name(m, id), -1, SQLITE_TRANSIENT);
        break;
    case NODE_SHALLOW:
        put_bytes(ctx, id < model_objects(m) ? model_shallow(m, id) : 0);
        break;
    case NODE_RETAINED:
        put_bytes(ctx, model_retained(m, id));
        break;
    case NODE_OBJECTS:
        put_bytes(ctx, model_retained_objects(m, id));
        break;
    case NODE_PREORDER:
        put_id(ctx, model_order(m, id));
        break;
    default:
        break;
    }
}

static int path_value(const sql_row_t *row, int column, sqlite3_context *ctx, char **message) {
    if (column == PATH_ID) {
        put_id(ctx, row->id);
        return SQLITE_OK;
    }
    model_path_t p;
    err_t e;
    if (model_path_to(row->model, row->id, &p, &e)) {
        *message = sqlite3_mprintf("%s", e.text);
        return SQLITE_ERROR;
    }
    if (column == PATH_PATH) sqlite3_result_text(ctx, p.text, -1, SQLITE_TRANSIENT);
    if (column == PATH_EXPRESSION) sqlite3_result_int(ctx, p.expression);
    if (column == PATH_LENGTH) sqlite3_result_int64(ctx, p.length);
    model_path_free(&p);
    return SQLITE_OK;
}

/* Modules and threads; frames, whose name is "function US file US line". */
static int holder_value(const sql_table_t *t, const sql_row_t *row, int column,
                        sqlite3_context *ctx, char **message) {
    const char *name = t->columns[column].name;
    if (strcmp(name, "id") == 0) put_id(ctx, row->id);
    if (strcmp(name, "retained") == 0) put_bytes(ctx, model_retained(row->model, row->id));
    if (strcmp(name, "retained_objects") == 0)
        put_bytes(ctx, model_retained_objects(row->model, row->id));
    if (!t->columns[column].decodes) return SQLITE_OK;
    lowtide_object o;
    int status = read_object(row, &o, message);
    if (status) return status;
    if (o.value.kind != LOWTIDE_VALUE_NAME) return SQLITE_OK;
    const char *at = o.value.text, *end = at + o.value.text_bytes;
    int part = t->rows == SQL_ROWS_FRAMES ? column - FRAME_FUNCTION : 0;
    const char *stop = memchr(at, '\x1f', (size_t)(end - at));
    for (; part && stop; part--) {
        at = stop + 1;
        stop = memchr(at, '\x1f', (size_t)(end - at));
    }
    if (part) return SQLITE_OK;
    if (t->rows == SQL_ROWS_FRAMES && column == FRAME_LINE) {
        char digits[16];
        snprintf(digits, sizeof digits, "%.*s", (int)(end - at), at);
        sqlite3_result_int64(ctx, strtoll(digits, NULL, 10));
    } else {
        put_text(ctx, at, (size_t)((stop ? stop : end) - at));
    }
    return SQLITE_OK;
}

static void meta_value(const sql_row_t *row, int column, sqlite3_context *ctx) {
    const char *key, *value;
    if (!lowtide_meta_at(model_recording(row->model), row->id, &key, &value)) return;
    sqlite3_result_text(ctx, column == META_KEY ? key : value, -1, SQLITE_TRANSIENT);
}

int sql_column_value(const sql_table_t *t, const sql_row_t *row, int column, sqlite3_context *ctx,
                     char **message) {
    switch (t->rows) {
    case SQL_ROWS_OBJECTS:
        return object_value(t, row, column, ctx, message);
    case SQL_ROWS_PATHS:
        return path_value(row, column, ctx, message);
    case SQL_ROWS_REFERENCES:
        reference_value(row, column, ctx);
        return SQLITE_OK;
    case SQL_ROWS_TYPES:
        type_value(row, column, ctx);
        return SQLITE_OK;
    case SQL_ROWS_NODES:
        node_value(row, column, ctx);
        return SQLITE_OK;
    case SQL_ROWS_META:
        meta_value(row, column, ctx);
        return SQLITE_OK;
    default:
        return holder_value(t, row, column, ctx, message);
    }
}
