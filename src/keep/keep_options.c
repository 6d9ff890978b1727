/* What a cache is told in Python, as numbers. */
#include "keep/keep_cache.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    double bytes;
} UNITS[] = {
    {"", 1},      {"B", 1},      {"kB", 1e3},      {"MB", 1e6},         {"GB", 1e9},
    {"TB", 1e12}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}, {"TiB", 1099511627776.0},
};

static int refuse_bytes(PyObject *error, PyObject *given, const char *name) {
    PyErr_Format(error, "%s must be bytes, or text like \"256MiB\" or \"1.5GB\", not %R", name,
                 given);
    return -1;
}

static int parse_text(PyObject *given, const char *name, size_t *bytes) {
    const char *text = PyUnicode_AsUTF8(given);
    if (!text) return -1;
    char *unit;
    double number =
        text[0] >= '0' && text[0] <= '9' ? PyOS_string_to_double(text, &unit, NULL) : -1;
    if (number < 0) {
        PyErr_Clear();
        return refuse_bytes(PyExc_ValueError, given, name);
    }
    while (*unit == ' ') unit++;
    for (size_t i = 0; i < sizeof UNITS / sizeof *UNITS; i++) {
        if (strcasecmp(unit, UNITS[i].name) != 0) continue;
        double total = number * UNITS[i].bytes;
        if (!(total < (double)PY_SSIZE_T_MAX)) return refuse_bytes(PyExc_ValueError, given, name);
        *bytes = (size_t)total;
        return 0;
    }
    return refuse_bytes(PyExc_ValueError, given, name);
}

int keep_parse_count(PyObject *given, const char *name, size_t *count) {
    *count = SIZE_MAX;
    if (given == Py_None) return 0;
    if (!PyIndex_Check(given)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int or None, not %R", name, given);
        return -1;
    }
    Py_ssize_t number =
        PyNumber_AsSsize_t(given, NULL); /* what is larger than all memory bounds nothing */
    if (number == -1 && PyErr_Occurred()) return -1;
    if (number < 0) {
        PyErr_Format(PyExc_ValueError, "%s must not be negative, but is %zd", name, number);
        return -1;
    }
    *count = (size_t)number;
    return 0;
}

int keep_parse_bytes(PyObject *given, const char *name, size_t *bytes) {
    if (PyUnicode_Check(given)) return parse_text(given, name, bytes);
    if (given != Py_None && !PyIndex_Check(given))
        return refuse_bytes(PyExc_TypeError, given, name);
    return keep_parse_count(given, name, bytes);
}

int keep_parse_ttl(PyObject *given, int64_t *ttl_ns) {
    *ttl_ns = 0;
    if (given == Py_None) return 0;
    double seconds = PyFloat_AsDouble(given);
    bool is_number = seconds != -1 || !PyErr_Occurred();
    if (!is_number && !PyErr_ExceptionMatches(PyExc_TypeError)) return -1;
    if (!(seconds > 0)) {
        PyErr_Format(is_number ? PyExc_ValueError : PyExc_TypeError,
                     "ttl must be a positive number of seconds, not %R", given);
        return -1;
    }
    *ttl_ns = seconds < 9e9 ? (int64_t)ceil(seconds * 1e9) : INT64_MAX;
    return 0;
}

PyObject *keep_bound_to_python(size_t bound) {
    return bound == SIZE_MAX ? Py_NewRef(Py_None) : PyLong_FromSize_t(bound);
}

PyObject *keep_ttl_to_python(int64_t ttl_ns) {
    return ttl_ns ? PyFloat_FromDouble((double)ttl_ns / 1e9) : Py_NewRef(Py_None);
}
