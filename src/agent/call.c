#define _GNU_SOURCE
#include "agent/call.h"

#include "agent/alloc/alloc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { SEND_WAIT_MS = 1000 };

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

int call_dial(uint32_t what) {
    ctl_msg_t m = {.type = CTL_HELLO, .hello = hello};
    m.hello.what = what;
    m.hello.pid = (uint32_t)getpid();
    if (!address_bytes) return -1;
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sock < 0) return -1;
    if (connect(sock, (struct sockaddr *)&address, address_bytes) == 0 && call_say(sock, &m))
        return sock;
    close(sock);
    return -1;
}

void call_status(int sock, int status, const err_t *e) {
    ctl_msg_t m = {.type = CTL_RESULT, .result = {.status = status}};
    if (status) memcpy(m.result.text, e->text, sizeof m.result.text);
    call_say(sock, &m);
}

void call_region(int sock, const rt_t *rt, int region, pid_t parent) {
    ctl_msg_t m = {.type = CTL_REGION, .region = {.parent = (uint32_t)parent}};
    err_t e;
    snprintf(m.region.python, sizeof m.region.python, "%u.%u.%u", rt->version >> 24 & 255,
             rt->version >> 16 & 255, rt->version >> 8 & 255);
    ctl_send(sock, &m, region, SEND_WAIT_MS, &e);
    close(region);
}

bool call_forked(const rt_t *rt, bool follow) {
    int region = -1, code = errno;
    err_t e;
    int status = alloc_fork_child(follow ? &region : NULL, &e);
    int sock = !status && follow ? call_dial(CTL_PROGRAM_FORKED) : -1;
    if (sock >= 0) {
        call_region(sock, rt, region, getppid());
        close(sock);
    } else if (region >= 0) {
        close(region);
        if (!status) alloc_fork_child(NULL, &e);
    }
    errno = code;
    return sock >= 0;
}
