#define _GNU_SOURCE
#include "control/control.h"

#include "control/region.h"

#include <endian.h>
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static const char magic[4] = {'L', 'T', 'C', 'T'};

/* A message's body as a table: each field of the struct by offset and kind. */
enum { FIELD_END, FIELD_32, FIELD_64, FIELD_TEXT };
typedef struct field {
    uint8_t kind;
    uint16_t offset, bytes;
} field_t;
#define F(kind, type, member)                                                                      \
    { kind, offsetof(type, member), sizeof(((type *)0)->member) }

static const field_t hello_fields[] = {F(FIELD_32, ctl_hello_t, pid),
                                       F(FIELD_32, ctl_hello_t, what),
                                       F(FIELD_TEXT, ctl_hello_t, key),
                                       {0}};
static const field_t capture_fields[] = {F(FIELD_32, ctl_capture_t, flags),
                                         F(FIELD_32, ctl_capture_t, timeout_ms),
                                         F(FIELD_32, ctl_capture_t, pid),
                                         {0}};
static const field_t progress_fields[] = {F(FIELD_32, ctl_progress_t, phase), {0}};
static const field_t result_fields[] = {F(FIELD_32, ctl_result_t, status),
                                        F(FIELD_32, ctl_result_t, mode),
                                        F(FIELD_64, ctl_result_t, gil_us),
                                        F(FIELD_64, ctl_result_t, pause_us),
                                        F(FIELD_64, ctl_result_t, walk_us),
                                        F(FIELD_64, ctl_result_t, objects),
                                        F(FIELD_64, ctl_result_t, references),
                                        F(FIELD_64, ctl_result_t, skipped),
                                        F(FIELD_64, ctl_result_t, bytes),
                                        F(FIELD_TEXT, ctl_result_t, text),
                                        {0}};
static const field_t profile_fields[] = {
    F(FIELD_32, ctl_profile_t, mode),           F(FIELD_32, ctl_profile_t, flags),
    F(FIELD_64, ctl_profile_t, interval_bytes), F(FIELD_TEXT, ctl_profile_t, key),
    F(FIELD_TEXT, ctl_profile_t, name),         {0}};
static const field_t region_fields[] = {
    F(FIELD_32, ctl_region_t, parent), F(FIELD_TEXT, ctl_region_t, python), {0}};
static const field_t free_fields[] = {F(FIELD_32, ctl_free_t, flags),
                                      F(FIELD_32, ctl_free_t, timeout_ms),
                                      F(FIELD_32, ctl_free_t, pause_ms_max),
                                      {0}};
static const field_t line_fields[] = {F(FIELD_64, ctl_line_t, bytes),
                                      F(FIELD_64, ctl_line_t, returnable_bytes),
                                      F(FIELD_TEXT, ctl_line_t, name),
                                      F(FIELD_TEXT, ctl_line_t, note),
                                      {0}};
static const field_t pin_fields[] = {
    F(FIELD_64, ctl_pin_t, objects),          F(FIELD_64, ctl_pin_t, bytes),
    F(FIELD_64, ctl_pin_t, returnable_bytes), F(FIELD_32, ctl_pin_t, arenas),
    F(FIELD_TEXT, ctl_pin_t, type),           {0}};
static const field_t no_fields[] = {{0}};

static const field_t *const bodies[] = {
    [CTL_HELLO] = hello_fields,       [CTL_CAPTURE] = capture_fields,
    [CTL_PROGRESS] = progress_fields, [CTL_RESULT] = result_fields,
    [CTL_CANCEL] = no_fields,         [CTL_BYE] = no_fields,
    [CTL_PROFILE] = profile_fields,   [CTL_REGION] = region_fields,
    [CTL_STOP] = no_fields,           [CTL_FREE] = free_fields,
    [CTL_RSS] = free_fields,          [CTL_LINE] = line_fields,
    [CTL_PIN] = pin_fields,
};
enum { TYPES = sizeof bodies / sizeof bodies[0] };
_Static_assert(sizeof(ctl_result_t) + CTL_HEADER_BYTES <= CTL_PACKET_MAX, "a packet fits");

static void put16(unsigned char *p, uint16_t v) {
    v = htole16(v);
    memcpy(p, &v, sizeof v);
}

static void put32(unsigned char *p, uint32_t v) {
    v = htole32(v);
    memcpy(p, &v, sizeof v);
}

static uint16_t get16(const unsigned char *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return le16toh(v);
}

static uint32_t get32(const unsigned char *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

/* Copies a field between its place in the struct and its bytes in the packet. On the machines that
 * lowtide runs on both are little-endian, so that is a copy; the conversion says so. */
static void field_put(const field_t *f, const void *body, unsigned char *p) {
    const unsigned char *from = (const unsigned char *)body + f->offset;
    if (f->kind == FIELD_32) {
        uint32_t v;
        memcpy(&v, from, sizeof v);
        put32(p, v);
    } else if (f->kind == FIELD_64) {
        uint64_t v;
        memcpy(&v, from, sizeof v);
        v = htole64(v);
        memcpy(p, &v, sizeof v);
    } else {
        size_t n = strnlen((const char *)from, f->bytes - 1u);
        memset(p, 0, f->bytes);
        memcpy(p, from, n);
    }
}

static void field_get(const field_t *f, void *body, const unsigned char *p) {
    unsigned char *to = (unsigned char *)body + f->offset;
    if (f->kind == FIELD_32) {
        uint32_t v = get32(p);
        memcpy(to, &v, sizeof v);
    } else if (f->kind == FIELD_64) {
        uint64_t v;
        memcpy(&v, p, sizeof v);
        v = le64toh(v);
        memcpy(to, &v, sizeof v);
    } else {
        memcpy(to, p, f->bytes);
        to[f->bytes - 1] = '\0';
    }
}

int ctl_encode(const ctl_msg_t *m, unsigned char *packet, err_t *e) {
    if (m->type >= TYPES || !bodies[m->type])
        return err_set(e, -EINVAL, "no message of type %u", m->type);
    unsigned char *p = packet + CTL_HEADER_BYTES;
    for (const field_t *f = bodies[m->type]; f->kind != FIELD_END; f++) {
        field_put(f, &m->hello, p);
        p += f->bytes;
    }
    memcpy(packet, magic, sizeof magic);
    put16(packet + 4, CTL_VERSION);
    put16(packet + 6, m->type);
    put32(packet + 8, (uint32_t)(p - packet - CTL_HEADER_BYTES));
    put32(packet + 12, 0);
    return (int)(p - packet);
}

static bool brings_fd(const ctl_msg_t *m) {
    return m->type == CTL_CAPTURE || m->type == CTL_REGION;
}

/* Values that a later version may give a meaning are refused, not guessed at. */
static int check_values(const ctl_msg_t *m, err_t *e) {
    const uint32_t flags = CTL_NO_VALUES | CTL_NO_IN_PLACE | CTL_IN_PLACE;
    if (m->type == CTL_HELLO && m->hello.what > CTL_PROGRAM_EXITS)
        return err_set(e, -EBADMSG, "a HELLO of unknown kind %u came", m->hello.what);
    if (m->type == CTL_CAPTURE && (m->capture.flags & ~flags))
        return err_set(e, -EBADMSG, "a CAPTURE with unknown flags %#x came", m->capture.flags);
    if (m->type == CTL_PROFILE &&
        (m->profile.mode > REGION_EXACT ||
         (m->profile.flags & ~(uint32_t)(CTL_PROFILE_NATIVE | CTL_PROFILE_CHILDREN))))
        return err_set(e, -EBADMSG, "a PROFILE of mode %u with flags %#x came", m->profile.mode,
                       m->profile.flags);
    if (m->type == CTL_FREE && (m->free.flags & ~(uint32_t)(CTL_DRY_RUN | CTL_COLLECT)))
        return err_set(e, -EBADMSG, "a FREE with unknown flags %#x came", m->free.flags);
    if (m->type == CTL_RSS && m->free.flags)
        return err_set(e, -EBADMSG, "an RSS with unknown flags %#x came", m->free.flags);
    if (m->type == CTL_PROGRESS && (m->progress.phase - 1u) >= CTL_PHASE_WALK)
        return err_set(e, -EBADMSG, "a PROGRESS of unknown phase %u came", m->progress.phase);
    if (m->type == CTL_RESULT && (m->result.status > 0 || m->result.mode > CTL_MODE_IN_PLACE))
        return err_set(e, -EBADMSG, "a RESULT with status %d and mode %u came", m->result.status,
                       m->result.mode);
    return 0;
}

int ctl_decode(const unsigned char *packet, unsigned long n, ctl_msg_t *m, err_t *e) {
    memset(m, 0, sizeof *m);
    if (n < CTL_HEADER_BYTES || memcmp(packet, magic, sizeof magic) != 0)
        return err_set(e, -EBADMSG, "what came is not one of lowtide's messages");
    if (get16(packet + 4) != CTL_VERSION)
        return err_set(
            e, -EPROTONOSUPPORT,
            "the other side speaks version %u of lowtide's control protocol, this one %u; "
            "use the agent and the command line of one installation",
            get16(packet + 4), CTL_VERSION);
    m->type = get16(packet + 6);
    if (m->type >= TYPES || !bodies[m->type])
        return err_set(e, -EBADMSG, "a message of unknown type %u came", m->type);
    if (get32(packet + 8) != n - CTL_HEADER_BYTES || get32(packet + 12) != 0)
        return err_set(e, -EBADMSG, "a message of type %u came cut", m->type);
    const unsigned char *p = packet + CTL_HEADER_BYTES, *end = packet + n;
    for (const field_t *f = bodies[m->type]; f->kind != FIELD_END; f++) {
        if (end - p < f->bytes)
            return err_set(e, -EBADMSG, "a message of type %u came too short", m->type);
        field_get(f, &m->hello, p);
        p += f->bytes;
    }
    return check_values(m, e);
}

/* Waits for the socket; 0 when it is ready. A peer that closed counts as ready: the call that
 * follows says so. */
static int wait_ready(int sock, short events, int timeout_ms, err_t *e) {
    struct pollfd p = {.fd = sock, .events = events};
    int n = poll(&p, 1, timeout_ms);
    if (n > 0) return 0;
    if (n == 0) return err_set(e, -ETIMEDOUT, "the other side said nothing in %d ms", timeout_ms);
    return err_sys(e, -errno, "cannot wait for the other side");
}

int ctl_send(int sock, const ctl_msg_t *m, int fd, int timeout_ms, err_t *e) {
    unsigned char packet[CTL_PACKET_MAX];
    int n = ctl_encode(m, packet, e);
    if (n < 0) return n;
    if (brings_fd(m) != (fd >= 0))
        return err_set(e, -EINVAL, "CAPTURE and REGION, and no other message, bring a descriptor");

    struct iovec iov = {packet, (size_t)n};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        h.msg_control = control.bytes;
        h.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    for (;;) {
        if (sendmsg(sock, &h, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return 0;
        if (errno == EINTR) continue;
        if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
            return err_set(e, -EPIPE, "the other side is gone");
        if (errno != EAGAIN) return err_sys(e, -errno, "cannot send to the other side");
        int status = wait_ready(sock, POLLOUT, timeout_ms, e);
        if (status) return status;
    }
}

/* Takes the first descriptor of a packet and closes any more, so that none is left in the target.
 */
static int take_fds(struct msghdr *h) {
    int first = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (first < 0)
                first = fd;
            else
                close(fd);
        }
    }
    return first;
}

static int recv_failed(ssize_t n, err_t *e) {
    if (n == 0 || errno == ECONNRESET || errno == ENOTCONN)
        return err_set(e, -EPIPE, "the other side is gone");
    return err_sys(e, -errno, "cannot hear the other side");
}

int ctl_peek(int sock, ctl_msg_t *m, int timeout_ms, err_t *e) {
    unsigned char packet[CTL_PACKET_MAX];
    int status = wait_ready(sock, POLLIN, timeout_ms, e);
    if (status) return status;
    ssize_t n = recv(sock, packet, sizeof packet, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);
    if (n <= 0) return recv_failed(n, e);
    if ((size_t)n > sizeof packet) return err_set(e, -EBADMSG, "a message came that is too large");
    return ctl_decode(packet, (unsigned long)n, m, e);
}

void ctl_drop(int sock) {
    char byte;
    ssize_t ignored = recv(sock, &byte, sizeof byte, MSG_DONTWAIT);
    (void)ignored;
}

bool ctl_more(int sock, const ctl_msg_t *next) {
    unsigned char packet[CTL_PACKET_MAX];
    struct pollfd p = {.fd = sock, .events = POLLRDHUP};
    int queued = 0, n = ctl_encode(next, packet, NULL);
    if (poll(&p, 1, 0) > 0) return true;
    return ioctl(sock, SIOCINQ, &queued) || queued > n;
}

int ctl_recv(int sock, ctl_msg_t *m, int *fd, int timeout_ms, err_t *e) {
    unsigned char packet[CTL_PACKET_MAX];
    struct iovec iov = {packet, sizeof packet};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct msghdr h = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    *fd = -1;
    int status = wait_ready(sock, POLLIN, timeout_ms, e);
    if (status) return status;
    ssize_t n = recvmsg(sock, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n <= 0) return recv_failed(n, e);
    int came = take_fds(&h);
    bool no_room = h.msg_flags & MSG_CTRUNC && came < 0;
    if (no_room) return err_set(e, -EMFILE, "no file descriptor is free (ulimit -n)");
    status = h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)
                 ? err_set(e, -EBADMSG, "a message came that is too large")
                 : ctl_decode(packet, (unsigned long)n, m, e);
    if (!status && brings_fd(m) != (came >= 0))
        status = err_set(e, -EBADMSG, "a message of type %u came %s a descriptor", m->type,
                         came >= 0 ? "with" : "without");
    if (status && came >= 0) close(came);
    if (!status) *fd = came;
    return status;
}
