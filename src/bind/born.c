#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "bind/born.h"

#include "base/map.h"
#include "explain/untouched.h"
#include "lowtide/recording.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = LOWTIDE_COL_ADDRESS | LOWTIDE_COL_SIZE | LOWTIDE_COL_BUFFERS };

typedef struct born_group {
    uint64_t count, bytes, largest_bytes, largest;
} born_group_t;

typedef struct born {
    lowtide_recording *rec;
    uint64_t *address;    /* of each object */
    born_group_t *groups; /* of each shape */
    lowtide_chunk *chunk;
    untouched_vec_t untouched;
} born_t;

static void drop(born_t *b) {
    lowtide_chunk_free(b->chunk);
    if (b->rec) lowtide_close(b->rec);
    free(b->address);
    free(b->groups);
    untouched_vec_free(&b->untouched);
    memset(b, 0, sizeof *b);
}

/* Opens a recording and reads where its objects are: a type may come behind its first instance. */
static int take_in(born_t *b, const char *path, lowtide_error *e) {
    int status = lowtide_open(path, &b->rec, e);
    if (status) return status;
    b->address = calloc(lowtide_objects(b->rec) + 1ul, sizeof *b->address);
    b->groups = calloc(lowtide_shapes(b->rec) + 1ul, sizeof *b->groups);
    if (!b->address || !b->groups) return -ENOMEM;
    for (uint32_t i = 0; !status && i < lowtide_chunks(b->rec); i++) {
        status = lowtide_chunk_load(b->rec, i, LOWTIDE_COL_ADDRESS, &b->chunk, e);
        if (!status)
            memcpy(b->address + b->chunk->first, b->chunk->address,
                   b->chunk->count * sizeof *b->address);
    }
    return status;
}

static bool is_object(const born_t *b, uint32_t shape) {
    return lowtide_shape_at(b->rec, shape)->kind == LOWTIDE_SHAPE_OBJECT;
}

/* Enough of the type's address to tell types apart: 64 GiB of them, 16 bytes each. */
static uint32_t type_of(const born_t *b, uint32_t shape) {
    uint32_t type = lowtide_shape_at(b->rec, shape)->type;
    return type == LOWTIDE_NONE ? 0 : (uint32_t)(b->address[type] >> 4);
}

static int remember(born_t *before, map_t *places, lowtide_error *e) {
    if (map_reserve(places, lowtide_objects(before->rec))) return -ENOMEM;
    for (uint32_t i = 0; i < lowtide_chunks(before->rec); i++) {
        int status = lowtide_chunk_load(before->rec, i, LOWTIDE_COL_ADDRESS, &before->chunk, e);
        if (status) return status;
        const lowtide_chunk *c = before->chunk;
        for (uint32_t k = 0; k < c->count; k++) {
            int fresh;
            if (!is_object(before, c->shape[k])) continue;
            uint32_t *type = map_put(places, c->address[k], &fresh);
            if (!type) return -ENOMEM;
            *type = type_of(before, c->shape[k]);
        }
    }
    return 0;
}

static int count_new(born_t *after, const map_t *places, lowtide_error *e) {
    size_t next = 0;
    if (untouched_load(after->rec, &after->untouched)) return -ENOMEM;
    for (uint32_t i = 0; i < lowtide_chunks(after->rec); i++) {
        int status = lowtide_chunk_load(after->rec, i, COLUMNS, &after->chunk, e);
        if (status) return status;
        const lowtide_chunk *c = after->chunk;
        for (uint32_t k = 0; k < c->count; k++) {
            const uint32_t *old = map_get(places, c->address[k]);
            uint32_t shape = c->shape[k];
            if (!is_object(after, shape) || (old && *old == type_of(after, shape))) continue;
            uint64_t bytes =
                untouched_less(&after->untouched, &next, c->first + k, c->size[k] + c->buffers[k]);
            born_group_t *g = &after->groups[shape];
            g->count++;
            g->bytes += bytes;
            if (bytes < g->largest_bytes) continue;
            g->largest_bytes = bytes;
            g->largest = c->address[k];
        }
    }
    return 0;
}

static PyObject *list_of(const born_t *after) {
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list && i < lowtide_shapes(after->rec); i++) {
        const born_group_t *g = &after->groups[i];
        if (!g->count) continue;
        const lowtide_shape *shape = lowtide_shape_at(after->rec, i);
        const char *module = lowtide_string(after->rec, shape->module);
        const char *name = lowtide_string(after->rec, shape->name);
        bool bare = !*module || strcmp(module, "builtins") == 0;
        PyObject *text =
            bare ? PyUnicode_FromString(name) : PyUnicode_FromFormat("%s.%s", module, name);
        PyObject *row = text ? Py_BuildValue("NKKK", text, g->count, g->bytes, g->largest) : NULL;
        if (!row || PyList_Append(list, row)) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

PyObject *core_born(PyObject *module, PyObject *args) {
    const char *before_path, *after_path;
    born_t before = {0}, after = {0};
    map_t places = {0};
    lowtide_error e = {{0}};
    PyObject *list = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "ss:born", &before_path, &after_path)) return NULL;
    PyThreadState *saved = PyEval_SaveThread();
    int status = take_in(&before, before_path, &e);
    if (!status) status = remember(&before, &places, &e);
    drop(&before);
    if (!status) status = take_in(&after, after_path, &e);
    if (!status) status = count_new(&after, &places, &e);
    map_free(&places);
    PyEval_RestoreThread(saved);
    if (status == -ENOMEM)
        PyErr_NoMemory();
    else if (status)
        PyErr_SetString(PyExc_RuntimeError, e.text);
    else
        list = list_of(&after);
    drop(&after);
    return list;
}
