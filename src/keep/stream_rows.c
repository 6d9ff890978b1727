/* Records of CSV as dicts and lists. */
#include <string.h>

#include "keep/stream_module.h"
#include "keep/stream_records.h"
#include "keep/stream_text.h"

struct rows {
    PyObject *list;
    PyObject *header;   /* a tuple of str, or NULL */
    PyObject *template; /* a dict of the header's names: copying it is quicker than growing one */
    Py_ssize_t strange;
};

static PyObject *as_list(const stream_row_t *row, bool ascii) {
    PyObject *list = PyList_New((Py_ssize_t)row->count);
    for (size_t i = 0; list && i < row->count; i++) {
        PyObject *text = stream_text(row->fields[i].text, row->fields[i].bytes, ascii);
        if (!text)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, text);
    }
    return list;
}

static PyObject *as_dict(const struct rows *rows, const stream_row_t *row, bool ascii) {
    PyObject *dict = PyDict_Copy(rows->template);
    for (size_t i = 0; dict && i < row->count; i++) {
        PyObject *text = stream_text(row->fields[i].text, row->fields[i].bytes, ascii);
        if (!text || PyDict_SetItem(dict, PyTuple_GET_ITEM(rows->header, (Py_ssize_t)i), text) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(text);
    }
    return dict;
}

static int add_row(struct rows *rows, const stream_row_t *row, const char *text, size_t n,
                   bool ascii) {
    bool fits = rows->header
                    ? (Py_ssize_t)row->count == PyTuple_GET_SIZE(rows->header) && row->count
                    : row->count != 0;
    PyObject *made = fits && rows->header ? as_dict(rows, row, ascii) : as_list(row, ascii);
    if (!made) {
        fits = false;
        made = stream_undecoded(text, n);
    }
    rows->strange += !fits;
    return stream_append(rows->list, made);
}

/* All rows that begin before `want` and are whole, at least one. Returns where the next begins; 0
 * with an exception. */
static size_t read_rows(struct rows *rows, const char *text, size_t n, size_t want,
                        char delimiter) {
    stream_row_t row = {.scratch_bytes = n};
    bool ascii = stream_is_ascii(text, n < want ? n : want);
    size_t at = 0;
    while (at < n && at < want) {
        size_t next = stream_row_read(&row, text, n, at, delimiter);
        if (!next) PyErr_NoMemory();
        bool plain = ascii && (next <= want || stream_is_ascii(text + at, next - at));
        if (!next || add_row(rows, &row, text + at, next - at, plain) < 0) {
            at = 0;
            break;
        }
        at = next;
    }
    stream_row_free(&row);
    return at;
}

static PyObject *template_of(PyObject *header) {
    PyObject *template = PyDict_New();
    for (Py_ssize_t i = 0; template && i < PyTuple_GET_SIZE(header); i++)
        if (PyDict_SetItem(template, PyTuple_GET_ITEM(header, i), Py_None) < 0) Py_CLEAR(template);
    return template;
}

static PyObject *rows_of(const char *text, size_t n, Py_ssize_t at, size_t want, char delimiter,
                         PyObject *header) {
    struct rows rows = {.header = header == Py_None ? NULL : header};
    PyObject *result = NULL;
    if (rows.header && !(rows.template = template_of(header))) return NULL;
    rows.list = PyList_New(0);
    size_t next = rows.list ? read_rows(&rows, text, n, want, delimiter) : 0;
    if (rows.list && (next || !n))
        result = Py_BuildValue("Onn", rows.list, at + (Py_ssize_t)next, rows.strange);
    Py_XDECREF(rows.list);
    Py_XDECREF(rows.template);
    return result;
}

PyObject *stream_module_rows(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer buffer;
    Py_ssize_t at, want, delimiter_bytes;
    const char *delimiter;
    PyObject *header, *result = NULL;
    if (!PyArg_ParseTuple(args, "y*nny#O", &buffer, &at, &want, &delimiter, &delimiter_bytes,
                          &header))
        return NULL;
    if (at < 0 || at > buffer.len || want < 1)
        PyErr_SetString(PyExc_ValueError, "no such place in the text");
    else if (delimiter_bytes != 1)
        PyErr_SetString(PyExc_ValueError, "the delimiter of CSV must be one byte");
    else if (header != Py_None && !PyTuple_CheckExact(header))
        PyErr_SetString(PyExc_TypeError, "the header must be a tuple");
    else
        result = rows_of((const char *)buffer.buf + at, (size_t)(buffer.len - at), at, (size_t)want,
                         *delimiter, header);
    PyBuffer_Release(&buffer);
    return result;
}
