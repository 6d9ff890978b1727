#define _GNU_SOURCE
#include "keep/transfer.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* What came, before Python sees it. */
struct arrival {
    struct transfer_head head;
    struct transfer_segment *segments;
    int files[TRANSFER_FILES];
    uint64_t file_bytes[TRANSFER_FILES];
    uint32_t users[TRANSFER_FILES];     /* segments that are views on that file */
    bool writable[TRANSFER_FILES];      /* one of them can be written to */
    PyObject *mappings[TRANSFER_FILES]; /* regions over whole files */
};

/* Reads all of it: 1, 0 when the stream ends before the first byte, -1 with an exception. */
static int receive_all(int socket, void *data, size_t bytes, struct msghdr *first) {
    char *at = data;
    while (bytes) {
        struct iovec part = {at, bytes};
        struct msghdr plain = {0}, *message = first && at == data ? first : &plain;
        message->msg_iov = &part, message->msg_iovlen = 1;
        ssize_t got;
        Py_BEGIN_ALLOW_THREADS;
        got = recvmsg(socket, message, MSG_CMSG_CLOEXEC);
        Py_END_ALLOW_THREADS;
        if (got < 0 && errno == EINTR) {
            if (PyErr_CheckSignals() < 0) return -1;
            continue;
        }
        if (got == 0 && at == data) return 0;
        if (got <= 0) {
            if (got == 0) errno = ECONNRESET;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        at += got, bytes -= (size_t)got;
    }
    return 1;
}

static int bad_message(void) {
    PyErr_SetString(PyExc_OSError, "what came over the socket is not a message of lowtide");
    return -1;
}

/* The head, and the descriptors that came with it. As receive_all. */
static int receive_head(struct arrival *arrival, int socket) {
    union {
        char bytes[CMSG_SPACE(sizeof(int) * TRANSFER_FILES)];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_control = &control, .msg_controllen = sizeof control};
    int status = receive_all(socket, &arrival->head, sizeof arrival->head, &message);
    size_t files = 0;
    if (status != 0) {
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
            files = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(arrival->files, CMSG_DATA(c), files * sizeof(int));
        }
    }
    if (status <= 0) return status;
    const struct transfer_head *head = &arrival->head;
    if (message.msg_flags & MSG_CTRUNC) {
        errno = EMFILE;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (head->magic != TRANSFER_MAGIC || head->segments > TRANSFER_SEGMENTS ||
        head->files != files || head->body_bytes > TRANSFER_INLINE_BYTES)
        return bad_message();
    return 1;
}

/* Validates each segment against the files, and counts who shares which. */
static int check_segments(struct arrival *arrival) {
    for (uint32_t i = 0; i < arrival->head.files; i++) {
        struct stat stat;
        if (fstat(arrival->files[i], &stat) < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        arrival->file_bytes[i] = (uint64_t)stat.st_size;
    }
    for (uint32_t i = 0; i < arrival->head.segments; i++) {
        const struct transfer_segment *s = &arrival->segments[i];
        if (s->form > TRANSFER_BODY || s->file >= arrival->head.files ||
            s->bytes > arrival->file_bytes[s->file] ||
            s->offset > arrival->file_bytes[s->file] - s->bytes)
            return bad_message();
        if (s->form == TRANSFER_BYTES || s->form == TRANSFER_BYTEARRAY) continue;
        arrival->users[s->file]++;
        arrival->writable[s->file] |= s->form == TRANSFER_WRITABLE;
    }
    return 0;
}

static int map_files(struct arrival *arrival) {
    for (uint32_t i = 0; i < arrival->head.files; i++) {
        if (!arrival->users[i] || !arrival->file_bytes[i]) continue;
        int rights = PROT_READ | (arrival->writable[i] ? PROT_WRITE : 0);
        void *data = mmap(NULL, arrival->file_bytes[i], rights, MAP_SHARED, arrival->files[i], 0);
        if (data == MAP_FAILED) {
            if (errno == ENOMEM)
                PyErr_NoMemory();
            else
                PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        arrival->mappings[i] =
            transfer_region_new(data, arrival->file_bytes[i], !arrival->writable[i]);
        if (!arrival->mappings[i]) return -1;
    }
    return 0;
}

static int read_file(int file, char *to, uint64_t bytes, uint64_t offset) {
    int status = 0;
    Py_BEGIN_ALLOW_THREADS;
    while (bytes && status == 0) {
        ssize_t got = pread(file, to, bytes, (off_t)offset);
        if (got > 0)
            to += got, bytes -= (uint64_t)got, offset += (uint64_t)got;
        else if (got == 0 || errno != EINTR)
            status = -1;
    }
    Py_END_ALLOW_THREADS;
    if (status < 0) PyErr_SetFromErrno(PyExc_OSError);
    return status;
}

/* The Python object of one segment. */
static PyObject *segment_object(struct arrival *arrival, const struct transfer_segment *s) {
    PyObject *object;
    char *to;
    switch (s->form) {
    case TRANSFER_BYTES:
        object = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)s->bytes);
        to = object ? PyBytes_AS_STRING(object) : NULL;
        break;
    case TRANSFER_BYTEARRAY:
        object = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)s->bytes);
        to = object ? PyByteArray_AS_STRING(object) : NULL;
        break;
    default:
        return transfer_region_part(arrival->mappings[s->file], s->offset, s->bytes,
                                    s->form != TRANSFER_WRITABLE);
    }
    if (object && read_file(arrival->files[s->file], to, s->bytes, s->offset) < 0) Py_CLEAR(object);
    return object;
}

/* (kind, body, buffers). Takes the reference to an inline body. */
static PyObject *arrival_objects(struct arrival *arrival, PyObject *body) {
    uint32_t count = arrival->head.segments;
    if (count && arrival->segments[count - 1].form == TRANSFER_BODY) {
        Py_XSETREF(body, segment_object(arrival, &arrival->segments[--count]));
    }
    PyObject *buffers = body ? PyTuple_New(count) : NULL;
    for (uint32_t i = 0; buffers && i < count; i++) {
        PyObject *object = segment_object(arrival, &arrival->segments[i]);
        if (object)
            PyTuple_SET_ITEM(buffers, i, object);
        else
            Py_CLEAR(buffers);
    }
    PyObject *all = buffers ? Py_BuildValue("(IOO)", arrival->head.kind, body, buffers) : NULL;
    Py_XDECREF(buffers);
    Py_XDECREF(body);
    return all;
}

static PyObject *arrival_read(struct arrival *arrival, int socket) {
    int status = receive_head(arrival, socket);
    if (status < 0) return NULL;
    if (status == 0) Py_RETURN_NONE;
    size_t table_bytes = arrival->head.segments * sizeof *arrival->segments;
    arrival->segments = PyMem_Malloc(table_bytes + 1);
    if (!arrival->segments) return PyErr_NoMemory();
    PyObject *body = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)arrival->head.body_bytes);
    if (!body) return NULL;
    if (receive_all(socket, arrival->segments, table_bytes, NULL) < (table_bytes ? 1 : 0) ||
        receive_all(socket, PyBytes_AS_STRING(body), arrival->head.body_bytes, NULL) <
            (arrival->head.body_bytes ? 1 : 0) ||
        check_segments(arrival) < 0 || map_files(arrival) < 0) {
        Py_DECREF(body);
        if (!PyErr_Occurred()) bad_message();
        return NULL;
    }
    return arrival_objects(arrival, body);
}

PyObject *transfer_receive(PyObject *Py_UNUSED(module), PyObject *given) {
    long socket = PyLong_AsLong(given);
    if (socket == -1 && PyErr_Occurred()) return NULL;
    struct arrival arrival = {0};
    for (int i = 0; i < TRANSFER_FILES; i++) arrival.files[i] = -1;
    PyObject *result = arrival_read(&arrival, (int)socket);
    for (int i = 0; i < TRANSFER_FILES; i++) {
        if (arrival.files[i] >= 0) close(arrival.files[i]);
        Py_XDECREF(arrival.mappings[i]);
    }
    PyMem_Free(arrival.segments);
    return result;
}
