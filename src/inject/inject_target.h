/* Who the target is: every reason to refuse that can be found without touching it, and the addresses that the work needs. */
#ifndef LOWTIDE_INJECT_INJECT_TARGET_H
#define LOWTIDE_INJECT_INJECT_TARGET_H

#include "base/err.h"
#include "inject/inject_elf.h"

/* Code, by what a thread that is found in it may be in the middle of. */
typedef enum target_code {
    TARGET_CODE_NONE, /* not executable memory */
    TARGET_CODE_OTHER, /* Python, extensions, generated code: holds nothing that a new thread needs */
    TARGET_CODE_LIBC,   /* malloc, fork, pthread_create … or just read() */
    TARGET_CODE_UNSAFE, /* the loader, another malloc, the vdso */
} target_code_t;

typedef struct target_file {
    uint64_t device, inode;
    target_code_t code;
} target_file_t;

VEC_DEFINE(target_file_vec, target_file_t);

/* Addresses in the target. */
typedef struct target_functions {
    uint64_t errno_location, attr_init, attr_setdetachstate, attr_setstacksize, thread_create;
    uint64_t dlopen, dlsym, dlclose, dlerror, munmap;
} target_functions_t;

typedef struct inject_target {
    pid_t pid;
    int mem_fd; /* /proc/PID/mem: dead as soon as the process calls exec */
    char name[64];
    proc_maps_t maps;
    target_file_vec_t files; /* those that are not TARGET_CODE_OTHER */
    target_functions_t at;
    uint64_t syscall_then_ret; /* "syscall; ret" in libc */
    uint64_t loader_debug;     /* struct r_debug of ld.so */
    uint64_t restorer;         /* "mov $15, %rax; syscall" in libc: back from a signal handler */
    uint64_t python_version;   /* Py_Version: 0x030d00f0 is 3.13.0 */
    bool has_proc;             /* /proc is there in its mount namespace */
} inject_target_t;

/* 0, or a refusal as inject_open documents it; -EAGAIN: it is just starting; -EALREADY: another lowtide is at it. After a failure nothing has to be closed. */
int target_open(pid_t pid, inject_target_t *out, err_t *e);
void target_close(inject_target_t *t);

/* Reads the memory map again, while a thread is held. 0; -EAGAIN: the process became another one by exec. */
int target_refresh(inject_target_t *t, err_t *e);

target_code_t target_code_at(const inject_target_t *t, uint64_t pc);

/* Whether ld.so has loaded all that it was asked to, and is not at it again. */
bool target_loader_rests(const inject_target_t *t);

/* What its status says against it, asked again. 0 or a refusal. */
int target_refuse_by_status(const inject_target_t *t, err_t *e);

/* Why ptrace or /proc said no, and what to do about it; returns -EPERM or -ESRCH. */
int target_not_permitted(pid_t pid, const char *name, err_t *e);
int target_gone(pid_t pid, err_t *e); /* -ESRCH: it ended; -EAGAIN: it called exec */

#endif
