/* inject_driver PID LIBRARY [COUNT [TIMEOUT_MS [STAY_MS]]]: brings the library in, exchanges a packet with it, takes it out,
 * COUNT times, each after STAY_MS or, where that is -1, at the end of standard input; where $SHARED_FILES is set, as before
 * Linux 6.9. Prints what went wrong as one line; status 0 only when all went well. */
#include "inject/inject.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int once(pid_t pid, const inject_options_t *options, int stay_ms, err_t *e) {
    inject_t *in = NULL;
    int sock = -1;
    int status = inject_open(pid, options, &in, &sock, e);
    if (status) return status;
    char answer[16] = "";
    if (send(sock, "ping", 5, MSG_NOSIGNAL) != 5 || recv(sock, answer, sizeof answer, 0) != 5 ||
        strcmp(answer, "ping") != 0)
        status = err_set(e, -1, "process %d ended while the agent was in it", (int)pid);
    if (stay_ms < 0)
        while (read(STDIN_FILENO, answer, sizeof answer) > 0) {
        }
    else
        nanosleep(&(struct timespec){stay_ms / 1000, stay_ms % 1000 * 1000000L}, NULL);
    close(sock);
    int closed = inject_close(in, status ? NULL : e);
    return status ? status : closed;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int count = argc > 3 ? atoi(argv[3]) : 1;
    inject_options_t options = {.library_path = argv[2],
                                .timeout_ms = argc > 4 ? atoi(argv[4]) : 0,
                                .shared_files = getenv("SHARED_FILES") != NULL};
    err_t e = {""};
    for (int i = 0; i < count; i++) {
        int status = once(atoi(argv[1]), &options, argc > 5 ? atoi(argv[5]) : 0, &e);
        if (status == 0) continue;
        fprintf(stderr, "%d: %s\n", status, e.text);
        return 1;
    }
    return 0;
}
