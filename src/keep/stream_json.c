/* json's own scanner and encoder, without the Python functions around them. */
#include "keep/stream_module.h"

static bool is_blank(PyObject *line, Py_ssize_t from) {
    for (; from < PyUnicode_GET_LENGTH(line); from++) {
        Py_UCS4 c = PyUnicode_READ_CHAR(line, from);
        if (c != ' ' && c != '\t' && c != '\r' && c != '\n') return false;
    }
    return true;
}

/* pair: (scan_once, loads, 0). What the scanner does not take as it is goes to loads, for its errors
 * and its leniency. */
static PyObject *loads_line(PyObject *pair, PyObject *line) {
    PyObject *scan = PyTuple_GET_ITEM(pair, 0), *loads = PyTuple_GET_ITEM(pair, 1);
    if (!PyUnicode_CheckExact(line)) return PyObject_CallOneArg(loads, line);
    PyObject *args[] = {line, PyTuple_GET_ITEM(pair, 2)};
    PyObject *found = PyObject_Vectorcall(scan, args, 2, NULL), *value = NULL;
    if (!found) {
        if (!PyErr_ExceptionMatches(PyExc_StopIteration) &&
            !PyErr_ExceptionMatches(PyExc_ValueError))
            return NULL;
        PyErr_Clear();
        return PyObject_CallOneArg(loads, line);
    }
    if (PyTuple_CheckExact(found) && PyTuple_GET_SIZE(found) == 2) {
        Py_ssize_t end = PyLong_AsSsize_t(PyTuple_GET_ITEM(found, 1));
        if (end >= 0 && is_blank(line, end)) value = Py_NewRef(PyTuple_GET_ITEM(found, 0));
    }
    Py_DECREF(found);
    if (value || PyErr_Occurred()) return value;
    return PyObject_CallOneArg(loads, line);
}

static PyMethodDef loads_def = {"loads", loads_line, METH_O, NULL};

PyObject *stream_module_loads(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *scan, *loads;
    if (!PyArg_ParseTuple(args, "OO", &scan, &loads)) return NULL;
    PyObject *pair = Py_BuildValue("OOi", scan, loads, 0);
    PyObject *function = pair ? PyCFunction_New(&loads_def, pair) : NULL;
    Py_XDECREF(pair);
    return function;
}

/* pair: (encoder, 0, ""). */
static PyObject *dumps_value(PyObject *pair, PyObject *value) {
    PyObject *args[] = {value, PyTuple_GET_ITEM(pair, 1)};
    PyObject *parts = PyObject_Vectorcall(PyTuple_GET_ITEM(pair, 0), args, 2, NULL);
    if (!parts) return NULL;
    PyObject *text;
    if (PyTuple_CheckExact(parts) && PyTuple_GET_SIZE(parts) == 1)
        text = Py_NewRef(PyTuple_GET_ITEM(parts, 0));
    else
        text = PyUnicode_Join(PyTuple_GET_ITEM(pair, 2), parts);
    Py_DECREF(parts);
    return text;
}

static PyMethodDef dumps_def = {"dumps", dumps_value, METH_O, NULL};

PyObject *stream_module_dumps(PyObject *Py_UNUSED(module), PyObject *encoder) {
    PyObject *pair = Py_BuildValue("Ois", encoder, 0, "");
    PyObject *function = pair ? PyCFunction_New(&dumps_def, pair) : NULL;
    Py_XDECREF(pair);
    return function;
}
