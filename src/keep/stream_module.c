#define _GNU_SOURCE
#include "keep/stream_module.h"
#include "keep/stream_records.h"

#include <fcntl.h>

PyObject *stream_module_cut(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer text;
    Py_ssize_t want;
    const char *delimiter;
    Py_ssize_t delimiter_bytes;
    if (!PyArg_ParseTuple(args, "y*nz#", &text, &want, &delimiter, &delimiter_bytes)) return NULL;
    if (want < 0 || (delimiter && delimiter_bytes != 1)) {
        PyBuffer_Release(&text);
        PyErr_SetString(PyExc_ValueError, want < 0 ? "want must not be negative"
                                                   : "the delimiter of CSV must be one byte");
        return NULL;
    }
    stream_cut_t cut;
    size_t n = (size_t)text.len;
    Py_BEGIN_ALLOW_THREADS;
    cut = delimiter ? stream_cut_csv(text.buf, n, (size_t)want, *delimiter)
                    : stream_cut_lines(text.buf, n, (size_t)want);
    Py_END_ALLOW_THREADS;
    PyBuffer_Release(&text);
    return Py_BuildValue("nn", (Py_ssize_t)cut.end, (Py_ssize_t)cut.records);
}

PyObject *stream_module_write_back(PyObject *Py_UNUSED(module), PyObject *args) {
    int descriptor;
    long long start, bytes;
    if (!PyArg_ParseTuple(args, "iLL", &descriptor, &start, &bytes)) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    /* A wish: an error of the disk is told by the fsync at the end. */
    sync_file_range(descriptor, start, bytes, SYNC_FILE_RANGE_WRITE);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}
