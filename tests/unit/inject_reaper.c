/* inject_reaper N COMMAND...: runs the command and kills it with SIGKILL at its N-th system call after its first PTRACE_SEIZE.
 * Status 0: killed there; 3: it had ended before. So a test can let lowtide die at every single step of its work. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    long left = argc > 2 ? atol(argv[1]) : 0;
    if (left <= 0) return 2;
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    int status, begun = 0;
    waitpid(child, &status, 0);
    ptrace(PTRACE_SETOPTIONS, child, NULL,
           PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
    ptrace(PTRACE_SYSCALL, child, NULL, NULL);
    for (;;) {
        pid_t tid = waitpid(-1, &status, __WALL);
        if (tid < 0) return 3;
        if (!WIFSTOPPED(status)) {
            if (tid == child) return 3;
            continue;
        }
        int sig = WSTOPSIG(status);
        if (sig == (SIGTRAP | 0x80)) {
            struct user_regs_struct r;
            ptrace(PTRACE_GETREGS, tid, NULL, &r);
            if (r.orig_rax == SYS_ptrace && r.rdi == PTRACE_SEIZE) begun = 1;
            if (begun && --left == 0) {
                kill(child, SIGKILL);
                while (waitpid(-1, &status, __WALL) > 0) {
                }
                return 0;
            }
            sig = 0;
        } else if (sig == SIGTRAP || sig == SIGSTOP) {
            sig = 0;
        }
        ptrace(PTRACE_SYSCALL, tid, NULL, (long)sig);
    }
}
