/* The smallest agent: answers each packet with itself until nobody is there. Built as a shared object for the injector's tests. */
#include <sys/socket.h>

__attribute__((visibility("default"))) int agent_start(int fd) {
    char packet[256];
    for (;;) {
        ssize_t n = recv(fd, packet, sizeof packet, 0);
        if (n <= 0 || send(fd, packet, (size_t)n, MSG_NOSIGNAL) != n) return 0;
    }
}
