/* Descriptors: what /proc/self/fd, the kernel's numbers and the sockets themselves say of each. */
#define _GNU_SOURCE
#include "agent/resources/resources.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { ENTRIES_BYTES = 32768, LINK_BYTES = 512, ADDRESS_BYTES = 128, BLOCK = 512 };

typedef union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un local;
    struct sockaddr_storage room;
} address_t;

/* ── Sockets ── */

static void say_address(const address_t *a, socklen_t bytes, char *to, size_t room) {
    char host[INET6_ADDRSTRLEN] = "";
    to[0] = '\0';
    if (a->any.sa_family == AF_INET && inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof host)) {
        snprintf(to, room, "%s:%u", host, ntohs(a->v4.sin_port));
    } else if (a->any.sa_family == AF_INET6 &&
               inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof host)) {
        snprintf(to, room, "[%s]:%u", host, ntohs(a->v6.sin6_port));
    } else if (a->any.sa_family == AF_UNIX && bytes > offsetof(struct sockaddr_un, sun_path)) {
        int n = (int)(bytes - offsetof(struct sockaddr_un, sun_path));
        const char *path = a->local.sun_path;
        if (path[0])
            snprintf(to, room, "%.*s", n, path);
        else
            snprintf(to, room, "@%.*s", n - 1, path + 1);
    }
}

static bool has_peer(const address_t *a) {
    if (a->any.sa_family == AF_INET) return a->v4.sin_port != 0;
    if (a->any.sa_family == AF_INET6) return a->v6.sin6_port != 0;
    return true;
}

static const char *protocol_of(int fd, int family) {
    int type = 0;
    socklen_t n = sizeof type;
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n);
    if (family == AF_UNIX) return "unix";
    if (family == AF_NETLINK) return "netlink";
    if (family != AF_INET && family != AF_INET6) return "other";
    return type == SOCK_STREAM ? "tcp" : type == SOCK_DGRAM ? "udp" : "ip";
}

/* What the kernel knows of a TCP connection that its own program may have overlooked. */
static const char *state_of(int fd, const char *protocol) {
    struct tcp_info info = {0};
    int listening = 0;
    socklen_t n = sizeof listening;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) == 0 && listening)
        return "listening";
    n = sizeof info;
    if (strcmp(protocol, "tcp") != 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n)) return "";
    if (info.tcpi_state == TCP_CLOSE_WAIT) return "closed by the peer";
    if (info.tcpi_state == TCP_CLOSE) return "not connected";
    return info.tcpi_state == TCP_ESTABLISHED ? "connected" : "";
}

static void read_socket(resources_t *r, resource_t *row, int fd) {
    address_t a = {0}, b = {0};
    socklen_t an = sizeof a, bn = sizeof b;
    char here[ADDRESS_BYTES] = "", there[ADDRESS_BYTES] = "", text[3 * ADDRESS_BYTES];
    if (getsockname(fd, &a.any, &an)) return;
    say_address(&a, an, here, sizeof here);
    const char *protocol = protocol_of(fd, a.any.sa_family), *to = "";
    if (getpeername(fd, &b.any, &bn) == 0 && has_peer(&b)) {
        say_address(&b, bn, there, sizeof there);
        if (there[0]) to = " to ";
    }
    snprintf(text, sizeof text, "%s%s%s%s%s", protocol, here[0] || there[0] ? " " : "", here, to,
             there);
    row->name = resources_text(r, text);
    row->note = resources_text(r, state_of(fd, protocol));
}

/* ── Files and the rest ── */

static const char *kind_of(const struct stat *s, const char *link) {
    if (strncmp(link, "anon_inode:", 11) == 0) {
        static const char *const kinds[] = {"eventpoll", "eventfd",  "timerfd",
                                            "signalfd",  "inotify",  "pidfd",
                                            "fanotify",  "io_uring", "userfaultfd"};
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            if (strstr(link, kinds[i])) return i ? kinds[i] : "epoll";
        return "anonymous";
    }
    if (strncmp(link, "/memfd:", 7) == 0) return "memfd";
    if (S_ISSOCK(s->st_mode)) return "socket";
    if (S_ISFIFO(s->st_mode)) return "pipe";
    if (S_ISDIR(s->st_mode)) return "directory";
    if (S_ISCHR(s->st_mode) || S_ISBLK(s->st_mode)) return "device";
    return S_ISREG(s->st_mode) ? "file" : "anonymous";
}

/* Without a name left its bytes are still there: on the disk, or in memory where that is a tmpfs. */
static void read_file(resources_t *r, resource_t *row, const struct stat *s, char *link) {
    static const char deleted[] = " (deleted)";
    size_t n = strlen(link), m = sizeof deleted - 1;
    bool gone = n > m && strcmp(link + n - m, deleted) == 0 && s->st_nlink == 0;
    if (gone) link[n - m] = '\0';
    if (gone || strcmp(row->kind, "memfd") == 0) row->bytes = (uint64_t)s->st_blocks * BLOCK;
    const char *base = strrchr(link, '/');
    bool unnamed = gone && base && base[1] == '#'; /* O_TMPFILE: never had a name */
    row->name = resources_text(r, link);
    if (strcmp(row->kind, "memfd") != 0 && gone)
        row->note = resources_text(r, unnamed ? "without a name" : "deleted");
}

/* One of another table: by the kernel's leave, which a restricted ptrace may refuse. */
static int borrow(uint32_t of, int fd) {
    int process = (int)syscall(SYS_pidfd_open, of, 0);
    int got = process < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, process, fd, 0);
    if (process >= 0) close(process);
    return got;
}

static void read_open_file(resources_t *r, uint32_t of, resource_t *row, int fd,
                           const struct stat *s, char *link) {
    int at = of ? borrow(of, fd) : fd;
    if (S_ISSOCK(s->st_mode)) {
        if (at >= 0) read_socket(r, row, at);
    } else {
        int flags = at >= 0 ? fcntl(at, F_GETFL) & O_ACCMODE : O_RDWR;
        row->name = resources_text(r, link);
        row->note = resources_text(r, flags == O_WRONLY   ? "write end"
                                      : flags == O_RDONLY ? "read end"
                                                          : "");
    }
    if (of && at >= 0) close(at);
}

static bool is_same(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* The files that are not told. */
typedef struct hidden {
    struct stat files[2];
    int count;
} hidden_t;

static void hide(hidden_t *h, int fd) {
    struct stat *s = &h->files[h->count];
    if (fd >= 0 && fstat(fd, s) == 0 && (S_ISREG(s->st_mode) || S_ISSOCK(s->st_mode))) h->count++;
}

static void read_descriptor(resources_t *r, uint32_t of, int fd, const hidden_t *hidden) {
    char path[48], link[LINK_BYTES];
    struct stat s;
    if (of)
        snprintf(path, sizeof path, "/proc/%u/fd/%d", of, fd);
    else
        snprintf(path, sizeof path, "/proc/thread-self/fd/%d", fd);
    if (stat(path, &s)) return;
    for (int i = 0; i < hidden->count; i++)
        if (is_same(&s, &hidden->files[i])) return;
    ssize_t n = readlink(path, link, sizeof link - 1);
    link[n > 0 ? n : 0] = '\0';
    resource_t *row = resources_add(r, kind_of(&s, link), fd);
    if (!row) return;
    if (S_ISSOCK(s.st_mode) || S_ISFIFO(s.st_mode))
        read_open_file(r, of, row, fd, &s, link);
    else
        read_file(r, row, &s, link);
}

static int by_number(const void *a, const void *b) {
    const resource_t *x = a, *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* The kernel tells them in rising order; should it not, they are put so. */
static void sort(resources_t *r) {
    for (size_t i = 1; i < r->rows.count; i++) {
        if (by_number(&r->rows.at[i - 1], &r->rows.at[i]) < 0) continue;
        for (size_t k = i; k > 0 && by_number(&r->rows.at[k - 1], &r->rows.at[k]) > 0; k--) {
            resource_t row = r->rows.at[k];
            r->rows.at[k] = r->rows.at[k - 1];
            r->rows.at[k - 1] = row;
        }
    }
}

void resources_read_descriptors(resources_t *r, uint32_t of, int ours, int peer) {
    static char entries[ENTRIES_BYTES] __attribute__((aligned(8)));
    char path[32] = "/proc/thread-self/fd";
    hidden_t hidden = {.count = 0};
    hide(&hidden, ours);
    hide(&hidden, peer);
    if (of) snprintf(path, sizeof path, "/proc/%u/fd", of);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    long n;
    while ((n = syscall(SYS_getdents64, fd, entries, sizeof entries)) > 0) {
        for (long at = 0; at < n;) {
            const struct dirent64 *e = (const void *)(entries + at);
            int number = e->d_name[0] >= '0' && e->d_name[0] <= '9' ? atoi(e->d_name) : -1;
            at += e->d_reclen;
            if (number >= 0 && (of || number != fd)) read_descriptor(r, of, number, &hidden);
        }
    }
    close(fd);
    sort(r);
    r->descriptors = (uint32_t)r->rows.count;
}
