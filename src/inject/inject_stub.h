/* The code that runs in the target: copied there byte by byte, so it knows no address but those in its context.
 *
 *   region, made by mmap in the target
 *   ┌───────────────┬────────────────────┬──────────────────┬──────────────────────────────┐
 *   │ code (r-x)    │ context (rw-)      │ closer's stack   │ stack of the borrowed thread │
 *   └───────────────┴────────────────────┴──────────────────┴──────────────────────────────┘
 *
 * The borrowed thread enters at inject_stub_enter with rbx = context and rsp = end of the region. It makes the guest
 * thread, then leaves by a system call instruction of libc whose kernel half writes `left`
 * and whose return goes to the signal frame on its own stack: once `left` is set, nothing of it is in the region.
 * The guest enters at inject_stub_guest, does the rest, waits for `left`, and unmaps the region by a tail jump.
 *
 * The guest has a table of file descriptors of its own, empty but for its socket: whatever it or the agent opens, no
 * number of the program's is taken between a close and an open that counts on it, nothing that the program closes
 * is ours, and what it forks inherits nothing. Since Linux 6.9 lowtide fetches the other end of the socket out of that
 * table (PIDFD_THREAD). Before, the borrowed thread makes the socketpair among the program's descriptors, with high
 * numbers, and when both ends have been taken out of there, a bare thread (the closer) that was split off before the
 * guest got its own table closes them. */
#ifndef LOWTIDE_INJECT_STUB_H
#define LOWTIDE_INJECT_STUB_H

#include <stddef.h>
#include <stdint.h>

#define INJECT_CODE_BYTES    8192
#define INJECT_CONTEXT_BYTES 4096
#define INJECT_CLOSER_BYTES  (8 * 1024)
#define INJECT_STACK_BYTES   (INJECT_CLOSER_BYTES + 56 * 1024)
#define INJECT_REGION_BYTES  (INJECT_CODE_BYTES + INJECT_CONTEXT_BYTES + INJECT_STACK_BYTES)
#define INJECT_GUEST_STACK   (1024 * 1024)

typedef struct inject_context {
    /* Written before the start: functions of the target's own libc, by their addresses there. */
    int *(*errno_location)(void);
    int (*attr_init)(void *);
    int (*attr_setdetachstate)(void *, int);
    int (*attr_setstacksize)(void *, size_t);
    int (*thread_create)(unsigned long *, const void *, void *(*)(void *), void *);
    void *(*dlopen)(const char *, int);
    void *(*dlsym)(void *, const char *);
    int (*dlclose)(void *);
    char *(*dlerror)(void);
    void *(*guest)(void *);    /* inject_stub_guest, as it lies in the target */
    uint64_t munmap;           /* libc's, for the last jump */
    uint64_t syscall_then_ret; /* these two instructions in libc */
    uint64_t return_sp;        /* the signal frame on the borrowed thread's own stack */
    uint64_t region, region_bytes;
    int32_t fd_floor;    /* our file descriptors get numbers from here on */
    int32_t patience_ms; /* how long the guest waits for the library */
    uint32_t mxcsr;      /* the floating point state that a new thread expects */
    char thread_name[16];
    char entry_name[16]; /* "agent_start" */
    char path
        [128]; /* up to where the memfd's number goes; from / or, with a directory, from /proc */

    /* Written in the target. */
    int32_t failed_step; /* one of inject_step, 0 = the guest runs */
    int32_t failed_errno;
    int32_t guest_fd, our_fd; /* the two ends of the socketpair */
    int64_t left[2]; /* a timespec: not zero once the borrowed thread has left the region */
    uint64_t thread_attr[16];
    int32_t
        own_socket; /* written before the start: the guest makes the socketpair, in its own table */
    int32_t ready;  /* its thread id once it has; or a negative errno */
    int32_t closer,
        let_go; /* the closer's thread id while it is there, and the word that it waits for */
    uint64_t socket_inodes
        [2]; /* of guest_fd and our_fd: the program may close any number and open another file by it */
} inject_context_t;

_Static_assert(sizeof(inject_context_t) <= INJECT_CONTEXT_BYTES, "the context fits its page");

enum inject_step { INJECT_STEP_NONE, INJECT_STEP_SOCKETPAIR, INJECT_STEP_THREAD };

/* What the guest says before the socket belongs to the agent: one packet as soon as it runs, one when the
 * library is in. After a code other than 0, text follows and the guest goes. */
#define INJECT_HELLO_MAGIC  0x6d65646974776f6cULL
#define INJECT_LOADED_MAGIC 0x6d65646974776f6dULL
typedef struct inject_word {
    uint64_t magic;
    int64_t tid;  /* of the guest, as the target counts */
    int32_t code; /* one of inject_outcome */
    int32_t zero;
} inject_word_t;

enum inject_outcome {
    INJECT_LOADED,
    INJECT_NO_LIBRARY, /* dlopen failed: its words follow */
    INJECT_NO_ENTRY,   /* the library has no agent_start */
    INJECT_NO_PROC     /* the target's root has no /proc, and it may not look into another */
};

/* The code as it lies in this program. */
extern const char inject_stub_begin[] __asm__("__start_lowtide_stub")
    __attribute__((visibility("hidden")));
extern const char inject_stub_end[] __asm__("__stop_lowtide_stub")
    __attribute__((visibility("hidden")));
void inject_stub_enter(void) __attribute__((visibility("hidden")));
void *inject_stub_guest(void *context) __attribute__((visibility("hidden")));

#endif
