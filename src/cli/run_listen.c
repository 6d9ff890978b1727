#define _GNU_SOURCE
#include "cli/run_listen.h"

#include "cli/progress.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HELLO_MS = 2000, SEND_MS = 2000, BACKLOG = 16, NAME_BYTES = 16, KEY_BYTES = 24 };

static int random_hex(char *out, size_t bytes, err_t *e) {
    unsigned char raw[32];
    if (getrandom(raw, bytes, 0) != (ssize_t)bytes)
        return err_sys(e, -errno, "cannot get random bytes");
    for (size_t i = 0; i < bytes; i++) snprintf(out + 2 * i, 3, "%02x", raw[i]);
    return 0;
}

/* An abstract name is gone when we are, however we end. Anyone may call it: the key tells our program. */
int run_listen_open(run_listen_t *l, int out, uint32_t flags, err_t *e) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char hex[2 * NAME_BYTES + 1];
    *l = (run_listen_t){.sock = -1, .out = out, .flags = flags};
    int status = random_hex(l->key, KEY_BYTES, e);
    if (!status) status = random_hex(hex, NAME_BYTES, e);
    if (status) return status;
    snprintf(l->name, sizeof l->name, "lowtide-%s", hex);
    size_t n = strlen(l->name);
    memcpy(address.sun_path + 1, l->name, n);
    l->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->sock >= 0 &&
        bind(l->sock, (struct sockaddr *)&address,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)) == 0 &&
        listen(l->sock, BACKLOG) == 0)
        return 0;
    status = err_sys(e, -errno, "cannot make a socket for the program to report to");
    run_listen_close(l);
    return status;
}

void run_listen_close(run_listen_t *l) {
    if (l->sock >= 0) close(l->sock);
    l->sock = -1;
}

void run_listen_environment(const run_listen_t *l, const char *agent, char *variable, size_t room) {
    snprintf(variable, room, "%s:%s:%s", l->key, l->name, agent);
}

static void program_begins(run_listen_t *l, int sock, const ctl_hello_t *hello) {
    ctl_msg_t m;
    err_t e;
    int fd;
    if (l->began) return; /* another Python beside or after the first one */
    l->began = true;
    l->program = hello->pid;
    /* It hangs up when all is well. */
    if (ctl_recv(sock, &m, &fd, HELLO_MS, &e) == 0 && m.type == CTL_RESULT)
        snprintf(l->refused, sizeof l->refused, "%s", m.result.text);
}

static void program_ends(run_listen_t *l, int sock, const ctl_hello_t *hello) {
    ctl_msg_t m = {.type = CTL_CAPTURE, .capture = {.flags = l->flags}};
    err_t e;
    int fd;
    if (!l->began || l->ended || hello->pid != l->program) return;
    l->ended = true;
    progress_begin("the program has ended; reading its heap");
    int status = ctl_send(sock, &m, l->out, SEND_MS, &e);
    /* The program holds on until its heap is written, so there is no need to hurry it. */
    while (!status) {
        status = ctl_recv(sock, &m, &fd, -1, &e);
        if (status == -EINTR)
            status = 0;
        else if (!status && m.type == CTL_RESULT)
            break;
    }
    progress_end();
    l->captured = !status && !m.result.status;
    if (!status) l->result = m.result;
    if (!l->captured)
        snprintf(l->refused, sizeof l->refused, "%s", status ? e.text : m.result.text);
}

void run_listen_answer(run_listen_t *l) {
    ctl_msg_t m;
    err_t e;
    int fd, sock = accept4(l->sock, NULL, NULL, SOCK_CLOEXEC);
    if (sock < 0) return;
    if (ctl_recv(sock, &m, &fd, HELLO_MS, &e) == 0 && m.type == CTL_HELLO &&
        strcmp(m.hello.key, l->key) == 0) {
        if (m.hello.what == CTL_PROGRAM_BEGINS) program_begins(l, sock, &m.hello);
        if (m.hello.what == CTL_PROGRAM_ENDS) program_ends(l, sock, &m.hello);
    }
    close(sock);
}
