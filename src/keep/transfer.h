/* Big values between two processes of one machine, over a Unix stream socket.
 *
 * A message is a kind, a body (a pickle) and the buffers which that pickle left out of itself
 * (protocol 5). What is small goes through the socket. The rest is written into memfds, once, and
 * the receiver maps them: its buffers are views on the mapping, and the memory goes back when the
 * last view goes.
 *
 *     socket: [ head | segment, segment, … | body, unless it is large ]  + the memfds' descriptors
 *     memfd:  [ buffer of 1 MiB or more ]            one each, so that each goes by itself
 *     memfd:  [ buffer | buffer | … | large body ]   the rest together, each on a page of its own
 *
 * Writing beats mapping and copying two to one (103 ms against 200 for 256 MiB), since pages need
 * not be zeroed first. The mapping is shared: a private one costs 190 ms instead of 16 once all of it
 * is written to, and keeps every page twice from then on.
 *
 * bytes and bytearray own their memory, so theirs is read from the memfd straight into a new object.
 * All calls are made with the GIL, which is let go while bytes move; a thread to each socket. */
#ifndef TRANSFER_H
#define TRANSFER_H

#include "keep/keep_compat.h"

#include <stdint.h>

#define TRANSFER_MAGIC 0x5644494cu /* "LIDV", little-endian */

enum {
    TRANSFER_INLINE_BYTES =
        64 << 10, /* a larger body goes by memfd: a message never fills a socket */
    TRANSFER_OWN_FILE_BYTES = 1 << 20,
    TRANSFER_FILES = 33, /* 32 buffers with one of their own, and one for all others */
    TRANSFER_SEGMENTS = 1 << 22,
};

/* How the receiver gives a segment to Python. */
enum transfer_form {
    TRANSFER_WRITABLE = 0, /* a view that can be written to */
    TRANSFER_READONLY = 1,
    TRANSFER_BYTES = 2,
    TRANSFER_BYTEARRAY = 3,
    TRANSFER_BODY = 4, /* the body itself, always the last segment */
};

struct transfer_head {
    uint32_t magic, kind;
    uint64_t body_bytes; /* of a body that follows in the socket */
    uint32_t segments, files;
};

struct transfer_segment {
    uint64_t offset, bytes;
    uint32_t file, form;
};

/* A mapping, or a part of one: what a view keeps alive. Has the buffer protocol. */
extern PyTypeObject transfer_region_type;

/* A region over a whole mapping, which it unmaps at its end; NULL with an exception. */
PyObject *transfer_region_new(void *data, size_t bytes, bool readonly);
/* region(descriptor): a read-only region over a whole memfd, which travels as the file it is: nothing of it
 * is read, nor touched in its mapping. */
PyObject *transfer_region(PyObject *module, PyObject *descriptor);
/* The file of such a region; -1 for any other object, or none. */
int transfer_region_file(PyObject *object);
/* A region over a part of another one. */
PyObject *transfer_region_part(PyObject *whole, size_t offset, size_t bytes, bool readonly);

/* send(socket, kind, body, buffers): OSError when the other side is gone or memory is short. */
PyObject *transfer_send(PyObject *module, PyObject *const *args, Py_ssize_t count);
/* receive(socket) -> (kind, body, buffers), None at the end of the stream. */
PyObject *transfer_receive(PyObject *module, PyObject *socket);
/* has_blob(object, bytes): whether bytes or bytearrays that large are to be met within it. */
PyObject *transfer_has_blob(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
