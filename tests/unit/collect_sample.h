/* A recorder of one process, this one, whose region both sides have as memory. */
#ifndef TESTS_COLLECT_SAMPLE_H
#define TESTS_COLLECT_SAMPLE_H

#include "collect/collect.h"
#include "region_sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

/* The region as memory that both sides have: *r maps it. */
static inline int share(const region_sample_t *from, region_sample_t **r) {
    int fd = memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, sizeof *from), 0);
    *r = mmap(NULL, sizeof **r, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(*r != MAP_FAILED);
    memcpy((void *)*r, (const void *)from, sizeof *from);
    return fd;
}

/* This process, with that region. */
static inline collect_process_t *add(collect_t *c, int fd) {
    err_t e;
    int number = collect_add(c, getpid(), 0, COLLECT_STARTED, fd, "3.13.0", &e);
    close(fd);
    assert_true(number >= 0);
    return c->processes.at[number];
}

/* A recorder that has one process, whose region *r maps. */
static inline collect_process_t *begin(collect_t *c, region_sample_t **r) {
    region_sample_t sample;
    err_t e;
    region_sample(&sample);
    assert_int_equal(collect_begin(c, &e), 0);
    return add(c, share(&sample, r));
}

static inline void end(collect_t *c, region_sample_t *r) {
    collect_end(c);
    munmap(r, sizeof *r);
}

#endif
