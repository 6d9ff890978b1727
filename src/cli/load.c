#define _GNU_SOURCE
#include "cli/load.h"

#include "base/machine.h"
#include "base/mem.h"
#include "cli/native_names.h"
#include "cli/progress.h"
#include "view/units.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool newer(const struct timespec *a, const struct timespec *b) {
    return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

int load_newest(char *path, size_t room, err_t *e) {
    glob_t found;
    int status = -ENOENT;
    struct timespec best = {0};
    if (glob("lowtide-*.tide", 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++) {
            struct stat st;
            if (stat(found.gl_pathv[i], &st) != 0 || !S_ISREG(st.st_mode)) continue;
            if (strlen(found.gl_pathv[i]) >= room) continue;
            if (status == 0 && !newer(&st.st_mtim, &best)) continue;
            strcpy(path, found.gl_pathv[i]);
            best = st.st_mtim;
            status = 0;
        }
        globfree(&found);
    }
    if (!status) return 0;
    return err_set(e, status,
                   "no lowtide-*.tide in this directory; name a recording, or make one "
                   "with `lowtide dump PID`");
}

int load_open(const char *path, load_t *out, err_t *e) {
    char newest[4096], what[96];
    *out = (load_t){0};
    if (!path) {
        int status = load_newest(newest, sizeof newest, e);
        if (status) return status;
        path = newest;
    }
    uint64_t free_bytes = machine_free_bytes();
    mem_limit(free_bytes < SIZE_MAX ? (size_t)free_bytes : 0);
    snprintf(what, sizeof what, "reading %.80s", path);
    progress_begin(what);
    lowtide_error error;
    int status = lowtide_open(path, &out->rec, &error);
    if (status) {
        err_set(e, status, "%s", error.text);
    } else {
        char count[UNITS_BYTES];
        snprintf(what, sizeof what, "explaining %s objects",
                 units_count(count, lowtide_objects(out->rec)));
        progress_say(what);
        status = model_build(out->rec, &out->model, e);
    }
    progress_end();
    if (!status) model_name_by(out->model, native_names());
    if (status == -ENOMEM) {
        char size[UNITS_BYTES];
        err_set(e, status,
                "%s needs more memory to be explained than the %s that are free here; use a "
                "machine with more",
                path, units_size(size, free_bytes));
    }
    if (status) load_close(out);
    return status;
}

void load_close(load_t *l) {
    model_free(l->model);
    lowtide_close(l->rec);
    *l = (load_t){0};
}
