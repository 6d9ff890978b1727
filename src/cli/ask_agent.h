/* One question to a process, answered in lines: what `lowtide rss` and `lowtide free` have in common. */
#ifndef LOWTIDE_CLI_ASK_AGENT_H
#define LOWTIDE_CLI_ASK_AGENT_H

#include "base/err.h"
#include "control/control.h"

#include <sys/types.h>

enum { ASK_LINES_MAX = 128, ASK_PINS_MAX = 16 };

typedef struct answer {
    ctl_line_t lines[ASK_LINES_MAX];
    unsigned count;
    ctl_pin_t pins[ASK_PINS_MAX];
    unsigned pin_count;
    ctl_result_t result;
} answer_t;

/* Brings the agent in, asks (FREE or RSS), and takes it out again. A signal gives up (-EINTR). Errors: what the injector and the
 * agent say, in one line. */
int ask_agent(pid_t pid, const ctl_msg_t *question, answer_t *answer, err_t *e);

#endif
