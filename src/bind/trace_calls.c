#include "bind/trace_calls.h"

#include "agent/trace/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static rt_t runtime;

/* ── On, off and sums ── */

static int find_python(void) {
    err_t e;
    int status = runtime.layout ? 0 : rt_find(&runtime, &e);
    if (!status && !runtime.proven) status = rt_prove(&runtime, &e);
    if (status) PyErr_SetString(PyExc_RuntimeError, e.text);
    return status;
}

static trace_traceback_fn traceback;

/* No tuple of arguments: from the free list it would be the program's next. */
PyObject *core_trace_start(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    long frames = 1;
    err_t e;
    (void)module;
    if (count > 1)
        return PyErr_Format(PyExc_TypeError, "start expected at most 1 argument, got %zd", count);
    if (count && (frames = PyLong_AsLong(args[0])) == -1 && PyErr_Occurred()) return NULL;
    if (frames < 1 || frames > TRACE_FRAMES_MAX)
        return PyErr_Format(PyExc_ValueError, "the number of frames must be in range [1; %d]",
                            TRACE_FRAMES_MAX);
    if (find_python()) return NULL;
    int status = trace_start(&runtime, (uint32_t)frames, traceback, &e);
    if (!status) Py_RETURN_NONE;
    if (status == -ENOMEM) return PyErr_NoMemory();
    PyErr_SetString(PyExc_RuntimeError, e.text);
    return NULL;
}

PyObject *core_trace_stop(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    trace_stop();
    Py_RETURN_NONE;
}

PyObject *core_trace_is_on(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyBool_FromLong(trace_is_on());
}

PyObject *core_trace_limit(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLong(trace_limit());
}

PyObject *core_trace_memory(PyObject *module, PyObject *unused) {
    uint64_t bytes, peak_bytes;
    (void)module;
    (void)unused;
    trace_memory(&bytes, &peak_bytes);
    return Py_BuildValue("nn", (Py_ssize_t)bytes, (Py_ssize_t)peak_bytes);
}

PyObject *core_trace_reset_peak(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    trace_reset_peak();
    Py_RETURN_NONE;
}

PyObject *core_trace_clear(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    trace_clear();
    Py_RETURN_NONE;
}

PyObject *core_trace_own_bytes(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromSize_t(trace_own_bytes());
}

/* ── Sites as tuples ──
 *
 * Each file's name, each place's and each site's tuple is made once; all are known by their numbers. */

typedef struct made {
    PyObject **files, **places, **sites;
} made_t;

static PyObject *file_build(const trace_file_t *f) {
    int native = PY_BIG_ENDIAN ? 1 : -1;
    if (f->width == 1) return PyUnicode_DecodeLatin1((const char *)f->name, f->length, NULL);
    if (f->width == 4)
        return PyUnicode_DecodeUTF32((const char *)f->name, 4 * (Py_ssize_t)f->length,
                                     "surrogatepass", &native);
    uint32_t *wide = malloc(sizeof *wide * (f->length + 1ul)); /* UTF-16 would join surrogates */
    if (!wide) return PyErr_NoMemory();
    for (uint32_t i = 0; i < f->length; i++) {
        uint16_t point;
        memcpy(&point, f->name + 2ul * i, sizeof point);
        wide[i] = point;
    }
    PyObject *text = PyUnicode_DecodeUTF32((const char *)wide, 4 * (Py_ssize_t)f->length,
                                           "surrogatepass", &native);
    free(wide);
    return text;
}

/* made: NULL, or where what was made is kept. All return a new reference. */

static PyObject *file_text(made_t *made, const trace_file_t *f) {
    if (!made) return file_build(f);
    PyObject **at = &made->files[f->number];
    if (!*at) *at = file_build(f);
    return Py_XNewRef(*at);
}

static PyObject *place_tuple(made_t *made, const trace_place_t *p) {
    PyObject **at = made ? &made->places[p->number] : NULL;
    if (at && *at) return Py_NewRef(*at);
    PyObject *file = file_text(made, p->file);
    PyObject *tuple = file ? Py_BuildValue("NI", file, p->line) : NULL;
    if (at) *at = Py_XNewRef(tuple);
    return tuple;
}

static PyObject *site_tuple(made_t *made, const trace_site_t *s) {
    PyObject **at = made ? &made->sites[s->number] : NULL;
    if (at && *at) return Py_NewRef(*at);
    PyObject *tuple = PyTuple_New(s->count);
    for (uint32_t i = 0; tuple && i < s->count; i++) {
        PyObject *place = place_tuple(made, s->places[i]);
        if (!place || PyTuple_SetItem(tuple, i, place)) Py_CLEAR(tuple);
    }
    if (at) *at = Py_XNewRef(tuple);
    return tuple;
}

static PyObject *block_tuple(made_t *made, const trace_block_t *b) {
    PyObject *parts[] = {PyLong_FromUnsignedLong(b->domain), PyLong_FromUnsignedLongLong(b->bytes),
                         site_tuple(made, b->site), PyLong_FromUnsignedLong(b->site->total)};
    PyObject *tuple = PyTuple_New(4);
    for (int i = 0; i < 4; i++) {
        if (tuple && parts[i])
            PyTuple_SetItem(tuple, i, parts[i]);
        else
            Py_XDECREF(parts[i]);
        if (!parts[i]) Py_CLEAR(tuple);
    }
    return tuple;
}

static void drop(PyObject **made, uint32_t count) {
    for (uint32_t i = 0; made && i < count; i++) Py_XDECREF(made[i]);
    free(made);
}

static PyObject *blocks_list(const trace_copy_t *copy) {
    made_t made = {calloc(copy->files + 1ul, sizeof(PyObject *)),
                   calloc(copy->places + 1ul, sizeof(PyObject *)),
                   calloc(copy->sites + 1ul, sizeof(PyObject *))};
    PyObject *list = NULL;
    if (made.files && made.places && made.sites)
        list = PyList_New((Py_ssize_t)copy->count);
    else
        PyErr_NoMemory();
    for (size_t i = 0; list && i < copy->count; i++) {
        PyObject *block = block_tuple(&made, &copy->blocks[i]);
        if (!block || PyList_SetItem(list, (Py_ssize_t)i, block)) Py_CLEAR(list);
    }
    drop(made.files, copy->files);
    drop(made.places, copy->places);
    drop(made.sites, copy->sites);
    return list;
}

/* What is made here does not count, and the collector need not look at it while it grows. */
PyObject *core_trace_blocks(PyObject *module, PyObject *unused) {
    trace_copy_t copy;
    (void)module;
    (void)unused;
    bool before = trace_mute(true);
    int collected = PyGC_Disable();
    uint64_t missed = trace_missed();
    PyObject *list = trace_copy(&copy) ? PyErr_NoMemory() : blocks_list(&copy);
    trace_copy_free(&copy);
    PyObject *result = list ? Py_BuildValue("NK", list, (unsigned long long)missed) : NULL;
    if (collected) PyGC_Enable();
    trace_mute(before);
    return result;
}

static void *traceback(unsigned domain, uintptr_t at) {
    bool before = trace_mute(true);
    trace_hold();
    const trace_site_t *site = trace_find(domain, at);
    PyObject *tuple = site ? site_tuple(NULL, site) : Py_NewRef(Py_None);
    trace_release();
    trace_mute(before);
    return tuple;
}

PyObject *core_trace_of(PyObject *module, PyObject *object) {
    (void)module;
    if (!trace_is_on()) Py_RETURN_NONE;
    return traceback(0, trace_block_of(&runtime, object));
}
