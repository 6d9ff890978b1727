/* The words between the command line and an agent.
 *
 *     command line                          agent (in the observed process)
 *                        ◀── HELLO ────────  "I live, and speak version 1"
 *     CAPTURE + out fd ────────────────────▶
 *                        ◀── PROGRESS ─────  now and then
 *                        ◀── RESULT ───────  figures, or one line on why not
 *     BYE ─────────────────────────────────▶ the agent's thread ends
 *
 *     PROFILE ─────────────────────────────▶ starts the hooks (attach; `run` says it in the environment)
 *                        ◀── REGION + fd ──  the memory that the profile is in (control/region.h)
 *     STOP ────────────────────────────────▶ takes the hooks out; where none were started, those that a forked child has from
 *                                            its parent
 *                        ◀── RESULT ───────
 *
 * CANCEL may come any time after CAPTURE: the agent gives up what it does and answers RESULT with
 * -ECANCELED. A socket that closes means CANCEL and BYE. Under `lowtide run` the agent connects
 * some times: it says HELLO with what = CTL_PROGRAM_BEGINS, a REGION where it is profiled, and closes; where the program has exit
 * functions (atexit), before them HELLO with CTL_PROGRAM_EXITS, and at its end HELLO with CTL_PROGRAM_ENDS: the first of the two
 * that comes to be answered by CAPTURE, the other by closing. A child that it forks says HELLO with
 * CTL_PROGRAM_FORKED and its own REGION; nothing there waits for an answer. At a peak that the recorder wants a snapshot of, it
 * says HELLO with CTL_PROGRAM_PEAKS, to be answered by CAPTURE or by closing; RESULT comes from its child.
 *
 * A message is one packet of a SOCK_SEQPACKET socket, little-endian, fixed in size by its type:
 *
 *     0  4  magic "LTCT"          8  4  body bytes
 *     4  2  version, 1           12  4  zero
 *     6  2  type                 16  …  body: the fields of the struct below, in that order
 *
 * Text fields are zero-terminated and filled up with zeros. A body larger than this version's is
 * read as far as it is known, a smaller one is refused; flags and types not known are refused.
 * Both sides check what they receive: the other may be of another version, or a stranger.
 *
 * Nothing here allocates, locks or raises SIGPIPE, so the agent may use it anywhere. Each call
 * belongs to one thread at a time a direction. Errors: -EPIPE the other side is gone, -ETIMEDOUT,
 * -EBADMSG not a message of this protocol, -EPROTONOSUPPORT another version, else what the system
 * said.
 */
#ifndef LOWTIDE_CONTROL_CONTROL_H
#define LOWTIDE_CONTROL_CONTROL_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* `lowtide run` tells the program in the environment where to call: "key:name:profile:agent" is the key to say, the name of an
 * abstract socket, ctl_profile_t as "mode.flags.interval" in decimal, and the agent's path as it stands first in LD_PRELOAD. */
#define CTL_RUN_VARIABLE "LOWTIDE_RUN"
/* Beside it, where a soft limit is wanted: "size:path", the path of a recording near the limit or nothing. Children
 * get it, too. */
#define CTL_LIMIT_VARIABLE "LOWTIDE_RUN_LIMIT"
#define CTL_LIMIT_CHILD    '+' /* before the path: a child's, which has its PID put into it */

enum { CTL_VERSION = 1 };

enum ctl_type {
    CTL_HELLO = 1, /* agent: I live */
    CTL_CAPTURE,   /* command line: write a recording to the descriptor that comes with this */
    CTL_PROGRESS,  /* agent: so far */
    CTL_RESULT,    /* agent: done, or why not */
    CTL_CANCEL,    /* command line: give up; no body */
    CTL_BYE,       /* command line: leave; no body */
    CTL_PROFILE,   /* command line: start the allocation profile */
    CTL_REGION,    /* agent: the profile's memory comes with this */
    CTL_STOP,      /* command line: end the allocation profile; no body */
    CTL_FREE,      /* command line: give memory back */
    CTL_RSS, /* command line: tell where the resident memory is; answered by LINEs and RESULT, as FREE is */
    CTL_LINE, /* agent: one line of the ledger, or what one step of FREE gave back */
    CTL_PIN   /* agent: behind the lines of RSS, what keeps arenas that are nearly empty */
};

enum ctl_free_flag {
    CTL_DRY_RUN = 1, /* only tell what would be given back */
    CTL_COLLECT = 2  /* a full collection first, in the program's main thread */
};

enum ctl_what {
    CTL_ATTACHED,
    CTL_PROGRAM_BEGINS,
    CTL_PROGRAM_ENDS,
    CTL_PROGRAM_FORKED,
    CTL_PROGRAM_PEAKS,
    CTL_PROGRAM_EXITS
};

enum ctl_capture_flag {
    CTL_NO_VALUES = 1,   /* leave all values out */
    CTL_NO_IN_PLACE = 2, /* where fork is refused, give up instead of walking in place */
    CTL_IN_PLACE = 4     /* do not fork: walk in place */
};

enum ctl_profile_flag {
    CTL_PROFILE_NATIVE = 1,  /* native frames too */
    CTL_PROFILE_CHILDREN = 2 /* what the program forks and starts is profiled, too */
};

enum ctl_mode { CTL_MODE_NONE, CTL_MODE_FORK, CTL_MODE_IN_PLACE };

enum ctl_phase { CTL_PHASE_GIL = 1, CTL_PHASE_WALK };

typedef struct ctl_hello {
    uint32_t pid;  /* in the agent's own PID namespace */
    uint32_t what; /* ctl_what */
    char key[64];  /* `lowtide run`: the key from the environment */
} ctl_hello_t;

typedef struct ctl_capture {
    uint32_t flags;      /* ctl_capture_flag */
    uint32_t timeout_ms; /* how long to wait for the GIL, at most; also for a walk in place */
    uint32_t pid;        /* of the process, as the command line knows it; 0: as it knows itself */
} ctl_capture_t;

typedef struct ctl_profile {
    uint32_t mode;  /* region_mode; 0: none */
    uint32_t flags; /* ctl_profile_flag */
    uint64_t interval_bytes;
    /* Attached: where forked children call, and the process itself at a peak, as the program of `lowtide run` does. Empty: nowhere. */
    char key[64], name[64];
} ctl_profile_t;

typedef struct ctl_region {
    uint32_t parent; /* PID of the process that forked this one, in its own PID namespace; or 0 */
    char python[16]; /* "3.13.0" */
} ctl_region_t;

/* FREE and RSS. */
typedef struct ctl_free {
    uint32_t flags;      /* ctl_free_flag; 0 with RSS */
    uint32_t timeout_ms; /* how long to wait for the GIL, at most */
    /* The step that holds the GIL ends after this, done or not; 0: no matter how long. */
    uint32_t pause_ms_max;
} ctl_free_t;

typedef struct ctl_line {
    uint64_t bytes;            /* resident; of a step of FREE: given back */
    uint64_t returnable_bytes; /* 0 with FREE */
    char name[128], note[320];
} ctl_line_t;

typedef struct ctl_pin {
    uint64_t objects, bytes, returnable_bytes; /* bytes: resident, of the arenas that they keep */
    uint32_t arenas;
    char type[64];
} ctl_pin_t;

typedef struct ctl_progress {
    uint32_t phase; /* ctl_phase; how much is written the command line sees by its own descriptor */
} ctl_progress_t;

typedef struct ctl_result {
    int32_t status;  /* 0 or a negative errno */
    uint32_t mode;   /* ctl_mode */
    uint64_t gil_us; /* waited for the GIL */
    uint64_t pause_us;
    uint64_t walk_us;
    uint64_t objects, references, skipped, bytes;
    char text[480]; /* status < 0: the error's line; else "", or a line worth telling */
} ctl_result_t;

typedef struct ctl_msg {
    uint16_t type; /* ctl_type */
    union {
        ctl_hello_t hello;
        ctl_capture_t capture;
        ctl_progress_t progress;
        ctl_result_t result;
        ctl_profile_t profile;
        ctl_region_t region;
        ctl_free_t free;
        ctl_line_t line;
        ctl_pin_t pin;
    };
} ctl_msg_t;

/* fd: a descriptor to send along, or -1; it stays the caller's. Waits up to timeout_ms while the
 * other side does not read (-1: for ever). */
int ctl_send(int sock, const ctl_msg_t *m, int fd, int timeout_ms, err_t *e);

/* *fd: the descriptor that came along (the caller's now, close-on-exec), or -1. CAPTURE and REGION bring
 * one, and must; no other message does. timeout_ms: -1 for ever, 0 not at all; -EINTR when a signal came first. */
int ctl_recv(int sock, ctl_msg_t *m, int *fd, int timeout_ms, err_t *e);

/* Looks at the next message without taking it: a descriptor that comes with it stays outside of this process. */
int ctl_peek(int sock, ctl_msg_t *m, int timeout_ms, err_t *e);
/* Takes the next message away, if there is one, and lets its descriptor go unseen. */
void ctl_drop(int sock);
/* Has the other side said more than the next message, or gone? Does not wait. */
bool ctl_more(int sock, const ctl_msg_t *next);

/* One packet's bytes from and to a message: what send and recv do between the socket and you.
 * `packet` has room for CTL_PACKET_MAX bytes; ctl_encode returns the bytes used. */
enum { CTL_HEADER_BYTES = 16, CTL_PACKET_MAX = 1024 };
int ctl_encode(const ctl_msg_t *m, unsigned char *packet, err_t *e);
int ctl_decode(const unsigned char *packet, unsigned long n, ctl_msg_t *m, err_t *e);

#endif
