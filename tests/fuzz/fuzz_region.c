/* The recorder over any region: the input is the region, and then bytes that a process might write into it between two looks.
 * Magic, version and size are made right, since no fuzzer would find them.
 */
#define _GNU_SOURCE
#include "collect/collect.h"
#include "control/region.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { REGION_BYTES = 2048, LOOKS = 3 };

static void fuzz_need(int condition) {
    if (!condition) abort();
}

static void fuzz_sites(const collect_t *c) {
    const collect_process_t *p = c->processes.at[0];
    for (size_t i = 0; i < p->seen.cells.count; i++)
        fuzz_need(!p->seen.cells.at[i].figures.domain ||
                  p->seen.cells.at[i].figures.stack < c->sites.stacks.count);
    for (size_t i = 0; i < c->sites.stacks.count; i++) {
        fuzz_need(c->sites.stacks.at[i].parent <= i);
        fuzz_need(c->sites.stacks.at[i].frame < c->sites.frames.count);
    }
}

static void fuzz_recorder(int region, uint8_t *shared, const uint8_t *more, size_t n) {
    static int out = -1;
    collect_t c;
    rec_writer_t *w;
    err_t e;
    if (out < 0) out = memfd_create("t.tide", 0);
    fuzz_need(collect_begin(&c, &e) == 0);
    c.peaks = true;
    if (collect_add(&c, getpid(), 0, COLLECT_STARTED, region, "", &e) >= 0) {
        for (int look = 0; look < LOOKS; look++) {
            collect_drain(&c);
            collect_tick(&c);
            for (; n >= 3; more += 3, n -= 3) /* a place and a byte */
                shared[(more[0] | more[1] << 8) % REGION_BYTES] ^= more[2];
        }
        collect_samples(&c, getpid());
        fuzz_sites(&c);
        fuzz_need(ftruncate(out, 0) == 0 && lseek(out, 0, SEEK_SET) == 0);
        fuzz_need(rec_open(&w, out, 0, 0, &e) == 0);
        collect_write(&c, w, false);
        fuzz_need(rec_close(w, 0, 0, &e) == 0);
    } else {
        fuzz_need(e.text[0] && !strchr(e.text, '\n'));
    }
    collect_end(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    int fd = memfd_create("region", MFD_ALLOW_SEALING);
    fuzz_need(fd >= 0 && ftruncate(fd, REGION_BYTES) == 0);
    uint8_t *shared = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    fuzz_need(shared != MAP_FAILED);
    size_t first = n < REGION_BYTES ? n : REGION_BYTES;
    memcpy(shared, data, first);
    region_t *r = (region_t *)shared;
    r->magic = REGION_MAGIC;
    r->version = REGION_VERSION;
    fuzz_recorder(fd, shared, data + first, n - first);
    munmap(shared, REGION_BYTES);
    close(fd);
    return 0;
}
