/* What `lowtide rss` has found out, and how it says so.
 *
 *     live             lines, and pins by type                  from the agent
 *     with owners      and who owns what, pins by holder        from a recording, of a moment ago or of another day
 */
#ifndef LOWTIDE_CLI_RSS_PRINT_H
#define LOWTIDE_CLI_RSS_PRINT_H

#include "cli/agent_talk.h"
#include "cli/load.h"
#include "collect/gpu.h"
#include "explain/model_owners.h"
#include "explain/model_pins.h"
#include "explain/profile.h"

typedef struct rss_found {
    pid_t pid; /* 0: not known */
    bool live; /* the process is there, and can give back */
    answer_t
        answer; /* result: bytes is the sum, objects what is swapped out, references what is in huge pages */
    load_t load; /* what owners and pins point into; closed: there are none */
    model_owners_t owners;
    model_pins_t pins;
    profile_t *profile; /* which lines made what pins arenas; NULL where the recording has none */
    gpu_device_t gpus[GPU_DEVICES]; /* of a live process */
    unsigned gpu_count;
} rss_found_t;

void rss_print_json(const rss_found_t *f);
void rss_print_text(const rss_found_t *f);

#endif
