/* Records as Python's objects: from text, and back. Every function needs the GIL. */
#ifndef STREAM_TEXT_H
#define STREAM_TEXT_H

#include <stddef.h>

#include "keep/keep_compat.h"

/* Whether all bytes are ASCII: then their text needs no decoding. */
bool stream_is_ascii(const char *text, size_t n);

/* A new str, or NULL: UnicodeDecodeError, MemoryError. `ascii`: it is known to be that. */
PyObject *stream_text(const char *text, size_t n, bool ascii);

/* Appends an object to a list whose reference it takes; NULL: there was an exception before. */
int stream_append(PyObject *list, PyObject *taken);

/* For what could not be decoded: its bytes, in place of the pending UnicodeDecodeError. NULL, with
 * the exception, where that is another. */
PyObject *stream_undecoded(const char *text, size_t n);

#endif
