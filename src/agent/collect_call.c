#define _GNU_SOURCE
#include "agent/collect_call.h"

#include "base/clock.h"
#include "base/mem.h"

#include <dlfcn.h>
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { WAIT_MS = 5 };

/* No exception may leave a pending call. Nothing is left in __main__. */
static const char CODE[] = "try: __import__('gc').collect()\nexcept BaseException: pass\n";

typedef struct page {
    sem_t begin, end;
    char code[sizeof CODE];
} page_t;

typedef int (*call_fn)(void *);
typedef int (*add_fn)(call_fn, void *);

static int add_calls(page_t *page, err_t *e) {
    void *symbols[] = {dlsym(RTLD_DEFAULT, "Py_AddPendingCall"),
                       dlsym(RTLD_DEFAULT, "PyRun_SimpleString"), dlsym(RTLD_DEFAULT, "sem_post")};
    add_fn add;
    call_fn run, post;
    if (!symbols[0] || !symbols[1] || !symbols[2])
        return err_set(e, -ENOSYS, "this Python does not let others ask for a call");
    memcpy(&add, &symbols[0], sizeof add);
    memcpy(&run, &symbols[1], sizeof run);
    memcpy(&post, &symbols[2], sizeof post);
    if (add(post, &page->begin) || add(run, page->code) || add(post, &page->end))
        return err_set(e, -EBUSY,
                       "too many calls wait for the main thread already; try again later");
    return 0;
}

int collect_call(uint32_t timeout_ms, bool (*stop)(void *arg), void *arg, uint64_t *pause_us,
                 err_t *e) {
    page_t *page = mem_map(sizeof *page);
    int64_t deadline_us = now_us() + timeout_ms * 1000ll, began_us = 0;
    *pause_us = 0;
    if (!page) return err_set(e, -ENOMEM, "out of memory");
    sem_init(&page->begin, 0, 0);
    sem_init(&page->end, 0, 0);
    memcpy(page->code, CODE, sizeof CODE);
    int status = add_calls(page, e);
    while (!status && sem_trywait(&page->end)) {
        if (!began_us && sem_trywait(&page->begin) == 0) began_us = now_us();
        nanosleep(&(struct timespec){0, WAIT_MS * 1000000}, NULL);
        if (stop && stop(arg)) return err_set(e, -ECANCELED, "canceled");
        if (now_us() > deadline_us)
            return err_set(e, -ETIMEDOUT,
                           "the main thread, in whose hands it is, is in a system call or in C "
                           "code: it will collect when it returns");
    }
    if (status) return status; /* the page stays: the first call may be on its way */
    *pause_us = began_us ? (uint64_t)(now_us() - began_us) : 0;
    mem_unmap(page, sizeof *page);
    return 0;
}
