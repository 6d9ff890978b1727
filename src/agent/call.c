#define _GNU_SOURCE
#include "agent/call.h"

#include "agent/alloc/alloc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { SEND_WAIT_MS = 1000, WAITS = 7 };

static ctl_hello_t hello;
static struct sockaddr_un address;
static socklen_t address_bytes;

bool call_set(const char *key, size_t key_bytes, const char *name, size_t name_bytes) {
    if (key_bytes >= sizeof hello.key || name_bytes >= sizeof address.sun_path) return false;
    memset(&hello, 0, sizeof hello);
    memcpy(hello.key, key, key_bytes);
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path + 1, name, name_bytes);
    address_bytes =
        name_bytes ? (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + name_bytes) : 0;
    return true;
}

bool call_say(int sock, const ctl_msg_t *m) {
    err_t e;
    return ctl_send(sock, m, -1, SEND_WAIT_MS, &e) == 0;
}

/* What passes as soon as the recorder has heard those who called before: true up to seven times, each twice as long. */
static bool wait_for_room(int code, int *tries) {
    struct timespec t = {.tv_nsec = 1000000L << *tries};
    if ((code != EAGAIN && code != ETOOMANYREFS) || ++*tries > WAITS) return false;
    nanosleep(&t, NULL);
    return true;
}

int call_dial(uint32_t what) {
    ctl_msg_t m = {.type = CTL_HELLO, .hello = hello};
    m.hello.what = what;
    m.hello.pid = (uint32_t)getpid();
    errno = EDESTADDRREQ;
    if (!address_bytes) return -1;
    int tries = 0, status, sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sock < 0) return -1;
    do status = connect(sock, (struct sockaddr *)&address, address_bytes) ? errno : 0;
    while (wait_for_room(status, &tries));
    if (!status && call_say(sock, &m)) return sock;
    close(sock);
    errno = status ? status : EPIPE;
    return -1;
}

void call_status(int sock, int status, const err_t *e) {
    ctl_msg_t m = {.type = CTL_RESULT, .result = {.status = status}};
    if (status) memcpy(m.result.text, e->text, sizeof m.result.text);
    call_say(sock, &m);
}

int call_region(int sock, const rt_t *rt, int region, pid_t parent, err_t *e) {
    ctl_msg_t m = {.type = CTL_REGION, .region = {.parent = (uint32_t)parent}};
    int tries = 0, status;
    snprintf(m.region.python, sizeof m.region.python, "%u.%u.%u", rt->version >> 24 & 255,
             rt->version >> 16 & 255, rt->version >> 8 & 255);
    do status = ctl_send(sock, &m, region, SEND_WAIT_MS, e);
    while (wait_for_room(-status, &tries));
    close(region);
    return status;
}

static void count_as_lost(region_t *parents) {
    if (!address_bytes) return;
    atomic_store_explicit(&parents->lost_children_code, (uint32_t)errno, memory_order_relaxed);
    atomic_fetch_add_explicit(&parents->lost_children, 1, memory_order_relaxed);
}

/* Its parent's region is at hand until it has one of its own. */
bool call_forked(const rt_t *rt, bool follow) {
    int region = -1, code = errno, sock = -1;
    region_t *parents = follow ? alloc_region() : NULL;
    err_t e;
    if (parents && (sock = call_dial(CTL_PROGRAM_FORKED)) < 0) count_as_lost(parents);
    int status = alloc_fork_child(sock >= 0 ? &region : NULL, &e);
    if (sock >= 0 && !status) {
        status = call_region(sock, rt, region, getppid(), &e);
        if (status) alloc_fork_child(NULL, NULL);
    }
    if (sock >= 0 && status) call_status(sock, status, &e);
    if (sock >= 0) close(sock);
    errno = code;
    return sock >= 0 && !status;
}
