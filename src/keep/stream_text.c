#include "keep/stream_text.h"

#include <string.h>

#include "keep/stream_module.h"
#include "keep/stream_records.h"

bool stream_is_ascii(const char *text, size_t n) {
    unsigned long long word, high = 0;
    for (; n >= sizeof word; text += sizeof word, n -= sizeof word) {
        memcpy(&word, text, sizeof word);
        high |= word;
    }
    for (; n; text++, n--) high |= (unsigned char)*text;
    return !(high & 0x8080808080808080ULL);
}

PyObject *stream_text(const char *text, size_t n, bool ascii) {
    if (!ascii) return PyUnicode_DecodeUTF8(text, (Py_ssize_t)n, NULL);
    if (n < 2) return PyUnicode_FromStringAndSize(text, (Py_ssize_t)n); /* one for all */
    PyObject *made = PyUnicode_New((Py_ssize_t)n, 127);
    if (made) memcpy(PyUnicode_1BYTE_DATA(made), text, n);
    return made;
}

int stream_append(PyObject *list, PyObject *taken) {
    if (!taken) return -1;
    int status = PyList_Append(list, taken);
    Py_DECREF(taken);
    return status;
}

PyObject *stream_undecoded(const char *text, size_t n) {
    if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) return NULL;
    PyErr_Clear();
    return PyBytes_FromStringAndSize(text, (Py_ssize_t)n);
}

struct counts {
    Py_ssize_t strange, blank;
};

static PyObject *one_line(const char *line, size_t n, bool as_bytes, bool ascii,
                          struct counts *counts) {
    if (as_bytes) return PyBytes_FromStringAndSize(line, (Py_ssize_t)n);
    if (!n || line[0] == ' ' || line[0] == '\t') counts->blank++;
    PyObject *text = stream_text(line, n, ascii);
    if (text) return text;
    counts->strange++;
    return stream_undecoded(line, n);
}

/* The lines of text[0..end), in a new list. */
static PyObject *lines_of(const char *text, size_t end, size_t count, bool as_bytes,
                          struct counts *counts) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    if (!list) return NULL;
    bool ascii = !as_bytes && stream_is_ascii(text, end);
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        const char *newline = memchr(text + at, '\n', end - at);
        size_t stop = newline ? (size_t)(newline - text) : end, next = newline ? stop + 1 : end;
        if (stop > at && text[stop - 1] == '\r') stop--;
        PyObject *record = one_line(text + at, stop - at, as_bytes, ascii, counts);
        if (!record) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, record);
        at = next;
    }
    return list;
}

PyObject *stream_module_lines(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer buffer;
    Py_ssize_t at, want;
    int as_bytes;
    if (!PyArg_ParseTuple(args, "y*nnp", &buffer, &at, &want, &as_bytes)) return NULL;
    PyObject *result = NULL;
    if (at < 0 || at > buffer.len || want < 1) {
        PyErr_SetString(PyExc_ValueError, "no such place in the text");
    } else {
        const char *text = (const char *)buffer.buf + at;
        size_t n = (size_t)(buffer.len - at);
        stream_cut_t cut = stream_cut_lines(text, n, (size_t)want);
        if (!cut.end && n) cut = (stream_cut_t){n, 1};
        struct counts counts = {0, 0};
        PyObject *list = lines_of(text, cut.end, cut.records, as_bytes, &counts);
        if (list)
            result =
                Py_BuildValue("Nnnn", list, at + (Py_ssize_t)cut.end, counts.strange, counts.blank);
    }
    PyBuffer_Release(&buffer);
    return result;
}

/* The UTF-8 of a str, which lives as long as it does; NULL with an exception. */
static const char *utf8_of(PyObject *text, Py_ssize_t *bytes) {
    if (PyUnicode_Check(text) && PyUnicode_IS_COMPACT_ASCII(text)) {
        *bytes = PyUnicode_GET_LENGTH(text);
        return (const char *)PyUnicode_1BYTE_DATA(text);
    }
    return PyUnicode_AsUTF8AndSize(text, bytes);
}

PyObject *stream_module_join(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *records, *out;
    if (!PyArg_ParseTuple(args, "O!O!", &PyList_Type, &records, &PyByteArray_Type, &out))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(records), total = 0, bytes;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!utf8_of(PyList_GET_ITEM(records, i), &bytes)) return NULL;
        total += bytes + 1;
    }
    Py_ssize_t before = PyByteArray_GET_SIZE(out);
    if (PyByteArray_Resize(out, before + total) < 0) return NULL;
    char *at = PyByteArray_AS_STRING(out) + before;
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *text =
            utf8_of(PyList_GET_ITEM(records, i), &bytes); /* had before: no failure */
        memcpy(at, text, (size_t)bytes);
        at += bytes;
        *at++ = '\n';
    }
    Py_RETURN_NONE;
}
