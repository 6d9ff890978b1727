/* The recording that a command is about, opened and explained, with progress for a person who
 * waits. */
#ifndef LOWTIDE_CLI_LOAD_H
#define LOWTIDE_CLI_LOAD_H

#include "explain/model.h"

typedef struct load {
    lowtide_recording *rec;
    model_t *model;
} load_t;

/* The recording at `path`, or NULL: the newest lowtide-*.tide of the working directory. */
int load_open(const char *path, load_t *out, err_t *e);
void load_close(load_t *l); /* harmless after a failed load_open */

/* The newest lowtide-*.tide of the working directory; -ENOENT where there is none. */
int load_newest(char *path, size_t room, err_t *e);

#endif
