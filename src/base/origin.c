#include "base/origin.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

/* Behind "/lib/python3.11/"; "/lib/python3-tools/" is a project. NULL: no such directory. */
static const char *origin_behind_version(const char *file, const char *directory) {
    for (const char *at = file; (at = strstr(at, directory));) {
        at += strlen(directory);
        size_t digits = strspn(at, "0123456789");
        const char *end = at + digits + strspn(at + digits, "td"); /* free-threaded, debug */
        if (digits && *end == '/') return end + 1;
    }
    return NULL;
}

origin_t origin_of(const char *file, const char **below) {
    static const char *const packages[] = {"/site-packages/", "/dist-packages/"};
    static const char *const standard[] = {"/lib/python3.", "/lib64/python3."};
    const char *ignored, **out = below ? below : &ignored;
    for (size_t i = 0; i < 2; i++) {
        const char *at = strstr(file, packages[i]);
        if (!at) continue;
        *out = at + strlen(packages[i]);
        return ORIGIN_PACKAGE;
    }
    for (size_t i = 0; i < 2; i++)
        if ((*out = origin_behind_version(file, standard[i]))) return ORIGIN_STANDARD;
    *out = file;
    if (strncmp(file, "<frozen ", 8) == 0) return ORIGIN_STANDARD;
    return file[0] && (file[0] != '<' || strcmp(file, "<stdin>") == 0) ? ORIGIN_OWN
                                                                       : ORIGIN_NO_FILE;
}

bool origin_may_launch(const char *file, const char *function) {
    const char *slash = strrchr(file, '/');
    return strcmp(function, "<module>") == 0 && slash && slash[1] && !strchr(slash, '.') &&
           origin_of(file, NULL) == ORIGIN_OWN;
}

bool origin_is_launch(const char *file, const char *function, const char *source) {
    static const char leave[] = "sys.exit(";
    static_assert(sizeof leave <= ORIGIN_LAUNCH_BYTES, "it is told by so much of the text");
    return origin_may_launch(file, function) &&
           strncmp(source + strspn(source, " \t"), leave, sizeof leave - 1) == 0;
}
