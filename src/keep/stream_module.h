/* What lowtide._keep offers to python/lowtide/_stream*.py: rows of its table of methods. All of it is
 * done once for each record, or for each byte, of files of any size; so it is not in Python. */
#ifndef STREAM_MODULE_H
#define STREAM_MODULE_H

#include "keep/keep_compat.h"

/* stream_cut(text, want, delimiter): (end, records); delimiter None for lines, a byte for CSV. */
PyObject *stream_module_cut(PyObject *module, PyObject *args);

/* (descriptor, start, bytes): has the kernel begin to write that part of a file to the disk (sync_file_range). */
PyObject *stream_module_write_back(PyObject *module, PyObject *args);

/* stream_lines(text, at, want, as_bytes): (records, next, strange, blank): the whole lines of the
 * `want` bytes from `at` on, at least one, as str or bytes; the last need not have a newline. Lines
 * that are not UTF-8 are left as bytes: `strange` of them. `blank` are empty or begin with a blank. */
PyObject *stream_module_lines(PyObject *module, PyObject *args);

/* stream_rows(text, at, want, delimiter, header): (records, next, strange): the same for CSV. A
 * record is a dict, or a list where header is None. `strange` are not: an empty list for an empty
 * line, a list of fields where they are not as many as the header's, bytes where it is not UTF-8. */
PyObject *stream_module_rows(PyObject *module, PyObject *args);

/* stream_join(records, out): appends the str to the bytearray, each with a newline. TypeError or
 * UnicodeEncodeError, and `out` as it was, where one is no str or is not to be had as UTF-8. */
PyObject *stream_module_join(PyObject *module, PyObject *args);

/* stream_pipe(function, iterator): an iterator over function(record), without None, and with all that
 * a generator gives. It goes on behind a record that raised. */
PyObject *stream_module_pipe(PyObject *module, PyObject *args);
extern PyTypeObject stream_pipe_type;

/* stream_loads(scan_once, loads): a function as loads(line); json's own scanner does what it can. */
PyObject *stream_module_loads(PyObject *module, PyObject *args);

/* stream_dumps(encoder): a function that gives the text of a value by json's own encoder. */
PyObject *stream_module_dumps(PyObject *module, PyObject *encoder);

#endif
