/* The processes below one that is attached to, followed into its recording.
 *
 *     forked while attached    its hooks are its parent's: the copy of the agent in it calls at once (agent/call.h), so nothing of it
 *                              is missed, and at the end another agent comes in and takes that copy out (agent/inherited.h). It is
 *                              given time to call, of which what it waits for a processor is no part
 *     there before, or         found by looking at /proc every LOOK_US, twice before anything is done about it; the agent is brought in
 *     started by exec          as into the first. One that is no Python, or refuses, is a line in the recording
 *
 * A process that has its parent's memory (vfork) is left alone until it has called exec. One that calls exec is another from there on.
 * The wish to start a profile is answered when the process lets go of the GIL: nobody here waits for it.
 */
#ifndef LOWTIDE_CLI_ATTACH_TREE_H
#define LOWTIDE_CLI_ATTACH_TREE_H

#include "cli/agent_talk.h"
#include "cli/record.h"
#include "cli/run_listen.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct attach_member {
    pid_t pid, parent;
    uint64_t image;     /* tree_process_t */
    uint64_t cpu_ticks; /* at the last look */
    unsigned looks, tries;
    uint64_t since_us, due_us; /* when it was seen first as what it is; not to be tried before */
    bool before;               /* it was there when we came: no hooks that it has are ours */
    bool settled;              /* followed, or not to be: nothing to do until it calls exec */
    bool left;                 /* the copy that it had has been taken out */
    agent_talk_t talk;
} attach_member_t;

VEC_DEFINE(attach_members, attach_member_t);

typedef struct attach_tree {
    const char *agent;
    record_t *record;
    run_listen_t listen;
    pid_t root;
    bool follow; /* false: only calls at peaks are heard */
    uint64_t look_us;
    attach_members_t members;
} attach_tree_t;

/* Before the root has hooks. agent: its file. profile->key and name are set: for the root's PROFILE, and all others. */
int attach_tree_open(attach_tree_t *t, pid_t root, record_t *record, const char *agent,
                     ctl_profile_t *profile, err_t *e);
/* Waits for callers and for `also`, and looks for processes where that is due. */
void attach_tree_wait(attach_tree_t *t, int also, int timeout_ms);
/* Leaves all of them as they were; the root has been left, so nothing is forked with hooks any more. */
void attach_tree_leave(attach_tree_t *t);
void attach_tree_close(attach_tree_t *t);

#endif
