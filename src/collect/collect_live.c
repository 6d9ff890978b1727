#define _GNU_SOURCE
#include "collect/collect_live.h"

#include "collect/collect_write.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    EVERY_US = 1000000,
    AGAIN_US = 10000000, /* after a failure */
    SHARE = 20,          /* one in so many microseconds may go into what changed */
    BYTES_LEAST = 256 << 10
};

void collect_live(collect_t *c, const char *path) {
    collect_live_t *l = &c->live;
    if (strlen(path) >= sizeof l->path) return;
    snprintf(l->path, sizeof l->path, "%s", path);
    snprintf(l->fresh_path, sizeof l->fresh_path, "%s.new", path);
}

static void close_writer(rec_writer_t *w, int fd) {
    if (w) rec_close(w, 0, 0, NULL);
    if (fd >= 0) close(fd);
}

void live_close(collect_t *c) {
    close_writer(c->live.to, c->live.fd);
    c->live.to = NULL;
    c->live.fd = -1;
}

void collect_live_remove(collect_t *c) {
    collect_live_t *l = &c->live;
    live_close(c);
    if (l->made) unlink(l->path);
    l->path[0] = '\0';
    l->made = false;
}

bool collect_live_keep(collect_t *c) {
    if (c->live.path[0]) live_write(c, collect_now_us(c));
    live_close(c);
    return c->live.made;
}

/* All that stands in c by now is in the file that has the name. */
static void note_written(collect_t *c) {
    collect_live_t *l = &c->live;
    l->rows = (collect_rows_t){.changed = true,
                               .frames = c->sites.frames.count,
                               .stacks = c->sites.stacks.count,
                               .points = c->timeline.count,
                               .events = c->events.count};
    for (size_t i = 0; i < c->processes.count; i++) {
        collect_process_t *p = c->processes.at[i];
        p->changed = false;
        for (size_t k = 0; k < p->seen.cells.count; k++) p->seen.cells.at[k].changed = false;
    }
}

static bool write_rows(collect_t *c, rec_writer_t *w, const collect_rows_t *rows) {
    write_meta(c, w, false);
    write_tables(c, w, rows);
    return !rec_status(w);
}

static bool write_afresh(collect_t *c) {
    collect_live_t *l = &c->live;
    rec_writer_t *w = NULL;
    unlink(l->fresh_path); /* of one that was killed */
    int fd = open(l->fresh_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool done = fd >= 0 && rec_open(&w, fd, 0, c->began_ns, NULL) == 0 &&
                write_rows(c, w, &(collect_rows_t){0}) && rename(l->fresh_path, l->path) == 0;
    if (!done) {
        close_writer(w, fd);
        if (fd >= 0) unlink(l->fresh_path);
        return false;
    }
    live_close(c);
    l->to = w;
    l->fd = fd;
    l->made = true;
    note_written(c);
    return true;
}

static bool append(collect_t *c) {
    bool done = write_rows(c, c->live.to, &c->live.rows);
    if (done) note_written(c);
    return done;
}

void live_write(collect_t *c, uint64_t begin_us) {
    collect_live_t *l = &c->live;
    bool large = l->to && l->bytes > BYTES_LEAST && l->bytes > 2 * l->fresh_bytes;
    bool grew = c->sites.stacks.count > l->rows.stacks;
    bool fresh = (!l->to || large) && write_afresh(c);
    if (!fresh && l->to && !append(c)) live_close(c);
    if (l->to) l->bytes = lseek(l->fd, 0, SEEK_CUR);
    if (fresh || large) l->fresh_bytes = l->bytes;
    /* What is done once for each stack (naming it, writing afresh) comes to an end by itself. */
    uint64_t end_us = collect_now_us(c), wait_us = (end_us - begin_us) * SHARE;
    uint64_t least_us = l->to ? EVERY_US : AGAIN_US;
    l->due_us = end_us + (grew || fresh || wait_us < least_us ? least_us : wait_us);
}
