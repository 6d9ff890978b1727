#define _GNU_SOURCE
#include "agent/inherited.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

enum { COPIES_MOST = 8, NAME_BYTES = 160 };

typedef struct copies {
    char names[COPIES_MOST][NAME_BYTES];
    size_t count;
} copies_t;

/* By what the injector calls them (inject.c, spell_path): descriptors of a thread of its own, that no program would load from. */
static int note_copy(struct dl_phdr_info *info, size_t size, void *arg) {
    copies_t *copies = arg;
    (void)size;
    const char *name = info->dlpi_name;
    if (!strstr(name, "thread-self/fd/") || strlen(name) >= NAME_BYTES) return 0;
    if (copies->count < COPIES_MOST) strcpy(copies->names[copies->count++], name);
    return 0;
}

static inherited_leave_fn *leave_of(void *handle) {
    Dl_info there, here;
    void *found = dlsym(handle, INHERITED_LEAVE);
    inherited_leave_fn *leave;
    *(void **)&leave = found;
    return found && dladdr(found, &there) && dladdr((void *)(uintptr_t)inherited_leave, &here) &&
                   there.dli_fbase != here.dli_fbase
               ? leave
               : NULL;
}

int inherited_leave(err_t *e) {
    copies_t copies = {.count = 0};
    char text[256] = "";
    int status = 0;
    dl_iterate_phdr(note_copy, &copies);
    for (size_t i = 0; i < copies.count; i++) {
        void *handle = dlopen(copies.names[i], RTLD_LAZY | RTLD_NOLOAD);
        inherited_leave_fn *leave = handle ? leave_of(handle) : NULL;
        int left = leave ? leave(text, sizeof text) : -ENOENT;
        /* Another's that is there for a while says more than why one stays. */
        if (leave && left < 0 && status != -EALREADY && status != -EINPROGRESS)
            status = err_set(e, left, "%s", text);
        if (handle) dlclose(handle);
        if (leave && !left)
            dlclose(handle); /* the reference that its own thread would have given back */
    }
    return status;
}
