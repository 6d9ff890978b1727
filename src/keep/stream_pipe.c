/* The contract of lowtide pipe, record by record: a value for a record, none for None, many for a
 * generator. An error ends one record, not the iteration. */
#include "keep/stream_module.h"

typedef struct {
    PyObject_HEAD PyObject *function, *source;
    PyObject *many; /* the list of what a generator gave, of which `next` comes next; or NULL */
    Py_ssize_t next;
} pipe_t;

static int pipe_clear(pipe_t *self) {
    Py_CLEAR(self->function);
    Py_CLEAR(self->source);
    Py_CLEAR(self->many);
    return 0;
}

static void pipe_dealloc(pipe_t *self) {
    PyObject_GC_UnTrack(self);
    pipe_clear(self);
    Py_TYPE(self)->tp_free(self);
}

static int pipe_traverse(pipe_t *self, visitproc visit, void *arg) {
    Py_VISIT(self->function);
    Py_VISIT(self->source);
    Py_VISIT(self->many);
    return 0;
}

/* What the next record gives: NULL at the end, or with an exception. */
static PyObject *pipe_call(pipe_t *self) {
    PyObject *record = Py_TYPE(self->source)->tp_iternext(self->source);
    if (!record) return NULL;
    PyObject *result = PyObject_CallOneArg(self->function, record);
    Py_DECREF(record);
    return result;
}

static PyObject *pipe_next(pipe_t *self) {
    while (true) {
        if (self->many) {
            if (self->next < PyList_GET_SIZE(self->many))
                return Py_NewRef(PyList_GET_ITEM(self->many, self->next++));
            Py_CLEAR(self->many);
        }
        PyObject *result = pipe_call(self);
        if (!result) return NULL;
        if (PyGen_CheckExact(result)) {
            /* All of it at once: a record that fails half way gives nothing. */
            PyObject *many = PySequence_List(result);
            Py_DECREF(result);
            if (!many) return NULL;
            self->many = many, self->next = 0;
        } else if (result == Py_None) {
            Py_DECREF(result);
        } else {
            return result;
        }
    }
}

PyTypeObject stream_pipe_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "lowtide._keep.stream_pipe",
    .tp_basicsize = sizeof(pipe_t),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_dealloc = (destructor)pipe_dealloc,
    .tp_traverse = (traverseproc)pipe_traverse,
    .tp_clear = (inquiry)pipe_clear,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)pipe_next,
};

PyObject *stream_module_pipe(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *function, *source;
    if (!PyArg_ParseTuple(args, "OO", &function, &source)) return NULL;
    if (!PyIter_Check(source)) {
        PyErr_SetString(PyExc_TypeError, "stream_pipe(function, iterator)");
        return NULL;
    }
    pipe_t *self = PyObject_GC_New(pipe_t, &stream_pipe_type);
    if (!self) return NULL;
    self->function = Py_NewRef(function), self->source = Py_NewRef(source);
    self->many = NULL, self->next = 0;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}
