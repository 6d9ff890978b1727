#define _GNU_SOURCE
#include "cli/agent_file.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Below the executable's directory: the build tree, `pip install`, `pip install --target`, and Debian's way. */
static const char *const places[] = {
    "lowtide-agent.so",
    "../lib/python3*/site-packages/lowtide/lowtide-agent.so",
    "../lowtide/lowtide-agent.so",
    "../l*/python3*/dist-packages/lowtide/lowtide-agent.so",
};

int agent_file_find(char *out, size_t room, err_t *e) {
    const char *named = getenv("LOWTIDE_AGENT");
    if (named && *named) {
        snprintf(out, room, "%s", named);
        if (access(out, R_OK) == 0) return 0;
        return err_sys(e, -errno, "cannot read the agent %s that $LOWTIDE_AGENT names", named);
    }
    char exe[4096], pattern[4096 + 64];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n < 0) return err_sys(e, -errno, "cannot find out where lowtide is: /proc/self/exe");
    exe[n] = '\0';
    char *slash = strrchr(exe, '/');
    if (slash) *slash = '\0';
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        glob_t found;
        snprintf(pattern, sizeof pattern, "%s/%s", exe, places[i]);
        if (glob(pattern, 0, NULL, &found)) continue;
        snprintf(out, room, "%s", found.gl_pathv[0]);
        globfree(&found);
        return 0;
    }
    return err_set(
        e, -ENOENT,
        "lowtide-agent.so is neither in %s nor in a Python package near it; install lowtide "
        "again, or name it in $LOWTIDE_AGENT",
        exe);
}
