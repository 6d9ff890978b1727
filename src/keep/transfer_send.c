#define _GNU_SOURCE
#include "keep/transfer.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAGE = 4096 };

/* What is to be sent, laid out. */
struct parcel {
    struct transfer_head head;
    struct transfer_segment *segments;
    const char **data; /* of each segment */
    const char *body;
    uint64_t file_bytes[TRANSFER_FILES];
    int files[TRANSFER_FILES];
    /* Another's file, which has all that it is to have; not ours to close. */
    bool whole[TRANSFER_FILES];
};

static uint32_t segment_form(const Py_buffer *view) {
    if (view->obj && PyBytes_CheckExact(view->obj)) return TRANSFER_BYTES;
    if (view->obj && PyByteArray_CheckExact(view->obj)) return TRANSFER_BYTEARRAY;
    return view->readonly ? TRANSFER_READONLY : TRANSFER_WRITABLE;
}

/* Puts one more segment into a file: its own when it is large, else the last one, which all share. */
static void parcel_add(struct parcel *parcel, const char *data, size_t bytes, uint32_t form,
                       int whole) {
    struct transfer_segment *segment = &parcel->segments[parcel->head.segments];
    bool own =
        (whole >= 0 || bytes >= TRANSFER_OWN_FILE_BYTES) && parcel->head.files < TRANSFER_FILES - 1;
    uint32_t file = own ? parcel->head.files++ : TRANSFER_FILES - 1;
    *segment = (struct transfer_segment){parcel->file_bytes[file], bytes, file, form};
    if (own && whole >= 0) parcel->files[file] = whole, parcel->whole[file] = true;
    parcel->file_bytes[file] += (bytes + PAGE - 1) / PAGE * PAGE;
    parcel->data[parcel->head.segments++] = data;
}

/* Gives the shared file, if anything lies in it, the number after the others. */
static void parcel_close(struct parcel *parcel) {
    const uint32_t shared = TRANSFER_FILES - 1;
    if (!parcel->file_bytes[shared]) return;
    uint32_t file = parcel->head.files++;
    parcel->file_bytes[file] = parcel->file_bytes[shared];
    for (uint32_t i = 0; i < parcel->head.segments; i++)
        if (parcel->segments[i].file == shared) parcel->segments[i].file = file;
}

static int write_all(int file, const char *data, size_t bytes, uint64_t offset) {
    while (bytes) {
        ssize_t done = pwrite(file, data, bytes, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return -1;
        data += done, bytes -= (size_t)done, offset += (size_t)done;
    }
    return 0;
}

/* Makes the memfds and writes them. 0, or -1 with errno. */
static int parcel_write(struct parcel *parcel) {
    for (uint32_t i = 0; i < parcel->head.files; i++) {
        if (parcel->whole[i]) continue;
        parcel->files[i] = memfd_create("lowtide", MFD_CLOEXEC);
        if (parcel->files[i] < 0 || ftruncate(parcel->files[i], (off_t)parcel->file_bytes[i]) < 0)
            return -1;
    }
    for (uint32_t i = 0; i < parcel->head.segments; i++) {
        struct transfer_segment *s = &parcel->segments[i];
        if (parcel->whole[s->file]) continue;
        if (write_all(parcel->files[s->file], parcel->data[i], s->bytes, s->offset) < 0) return -1;
    }
    return 0;
}

/* Sends the parts one after the other; the descriptors go with the first byte. A signal's handler in
 * Python may end it by an exception. */
static int send_parts(int socket, struct iovec *parts, size_t count, const int *files, size_t n) {
    union {
        char bytes[CMSG_SPACE(sizeof(int) * TRANSFER_FILES)];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    if (n) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * n);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n);
        memcpy(CMSG_DATA(c), files, sizeof(int) * n);
    }
    while (message.msg_iovlen) {
        ssize_t done;
        Py_BEGIN_ALLOW_THREADS;
        done = sendmsg(socket, &message, MSG_NOSIGNAL);
        Py_END_ALLOW_THREADS;
        if (done < 0) {
            if (errno != EINTR) {
                PyErr_SetFromErrno(PyExc_OSError);
                return -1;
            }
            if (PyErr_CheckSignals() < 0) return -1;
            continue;
        }
        message.msg_control = NULL, message.msg_controllen = 0;
        while (message.msg_iovlen && (size_t)done >= message.msg_iov->iov_len) {
            done -= (ssize_t)message.msg_iov->iov_len;
            message.msg_iov++, message.msg_iovlen--;
        }
        if (message.msg_iovlen) {
            message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + done;
            message.msg_iov->iov_len -= (size_t)done;
        }
    }
    return 0;
}

static int parcel_send(struct parcel *parcel, int socket) {
    int status = 0, why = 0;
    if (parcel->head.files) {
        Py_BEGIN_ALLOW_THREADS;
        status = parcel_write(parcel);
        why = errno;
        Py_END_ALLOW_THREADS;
    }
    if (status < 0) {
        errno = why;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    struct iovec parts[] = {
        {&parcel->head, sizeof parcel->head},
        {parcel->segments, parcel->head.segments * sizeof *parcel->segments},
        {(void *)(uintptr_t)parcel->body, parcel->head.body_bytes},
    };
    return send_parts(socket, parts, 3, parcel->files, parcel->head.files);
}

/* Lays the buffers and the body out; the list's PickleBuffers hold what `data` points to. */
static int parcel_fill(struct parcel *parcel, PyObject *buffers, const Py_buffer *body) {
    Py_ssize_t count = PyList_GET_SIZE(buffers);
    if (count >= TRANSFER_SEGMENTS) {
        PyErr_SetString(PyExc_ValueError, "more than 4 million large buffers in one message");
        return -1;
    }
    parcel->segments = PyMem_Calloc((size_t)count + 1, sizeof *parcel->segments);
    parcel->data = PyMem_Calloc((size_t)count + 1, sizeof *parcel->data);
    if (!parcel->segments || !parcel->data) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const Py_buffer *view = PyPickleBuffer_GetBuffer(PyList_GET_ITEM(buffers, i));
        if (!view) return -1;
        parcel_add(parcel, view->buf, (size_t)view->len, segment_form(view),
                   transfer_region_file(view->obj));
    }
    if (body->len > TRANSFER_INLINE_BYTES) {
        parcel_add(parcel, body->buf, (size_t)body->len, TRANSFER_BODY, -1);
    } else {
        parcel->body = body->buf;
        parcel->head.body_bytes = (size_t)body->len;
    }
    parcel_close(parcel);
    return 0;
}

PyObject *transfer_send(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 4 || !PyList_CheckExact(args[3])) {
        PyErr_SetString(PyExc_TypeError, "send(socket, kind, body, buffers) takes a list last");
        return NULL;
    }
    long socket = PyLong_AsLong(args[0]), kind = PyLong_AsLong(args[1]);
    if (PyErr_Occurred()) return NULL;
    Py_buffer body;
    if (PyObject_GetBuffer(args[2], &body, PyBUF_SIMPLE) < 0) return NULL;
    struct parcel parcel = {.head = {.magic = TRANSFER_MAGIC, .kind = (uint32_t)kind}};
    for (int i = 0; i < TRANSFER_FILES; i++) parcel.files[i] = -1;
    int status = parcel_fill(&parcel, args[3], &body);
    if (status == 0) status = parcel_send(&parcel, (int)socket);
    for (int i = 0; i < TRANSFER_FILES; i++)
        if (parcel.files[i] >= 0 && !parcel.whole[i]) close(parcel.files[i]);
    PyMem_Free(parcel.segments);
    PyMem_Free((void *)parcel.data);
    PyBuffer_Release(&body);
    if (status < 0) return NULL;
    Py_RETURN_NONE;
}
