#define _GNU_SOURCE
#include "collect/collect_live.h"

#include "collect/collect_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    EVERY_US = 1000000,
    AGAIN_US = 10000000, /* after a failure */
    SHARE = 20,          /* one in so many microseconds may go into what changed */
    BYTES_LEAST = 256 << 10,
    TAKES_MOST = 100,
    OLD_MOST = 99
};

/* Whether the file that has the name is this one. */
static bool has_name(int fd, const char *path) {
    struct stat here, there;
    return fd >= 0 && fstat(fd, &here) == 0 && lstat(path, &there) == 0 &&
           here.st_ino == there.st_ino && here.st_dev == there.st_dev;
}

static bool is_empty(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_size == 0;
}

/* Ours as long as it is open; the kernel lets go of what a killed process had. Where a file system has no locks it is nobody's. */
static int hold(int fd, pid_t *by) {
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    *by = 0;
    if (fcntl(fd, F_SETLK, &all) == 0 || (errno != EAGAIN && errno != EACCES)) return 0;
    if (fcntl(fd, F_GETLK, &all) == 0 && all.l_type != F_UNLCK) *by = all.l_pid;
    return -EBUSY;
}

static int is_held(const char *path, pid_t by, err_t *e) {
    char who[48] = "another lowtide";
    if (by > 0) snprintf(who, sizeof who, "another lowtide (process %d)", (int)by);
    return err_set(e, -EBUSY,
                   "%.300s is being written by %s; wait until it has ended, or name another file "
                   "with -o",
                   path, who);
}

/* Under a name that nothing has yet. */
static bool set_aside(collect_live_t *l) {
    for (int i = 1; i <= OLD_MOST; i++) {
        if (i == 1)
            snprintf(l->old_path, sizeof l->old_path, "%s.old", l->path);
        else
            snprintf(l->old_path, sizeof l->old_path, "%s.old.%d", l->path, i);
        if (renameat2(AT_FDCWD, l->path, AT_FDCWD, l->old_path, RENAME_NOREPLACE) == 0) return true;
        if (errno == EINVAL && access(l->old_path, F_OK) && rename(l->path, l->old_path) == 0)
            return true; /* a file system that cannot be asked for it */
        if (errno != EEXIST && errno != EINVAL) return false;
    }
    return false;
}

/* Between two of these steps another one may take the file, give it another name or remove it: then all begins anew. */
static int take(collect_live_t *l, err_t *e) {
    enum { FLAGS = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY };
    for (int i = 0; i < TAKES_MOST; i++) {
        struct stat st;
        pid_t by;
        int fd = open(l->path, FLAGS, 0666);
        bool regular = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
        int status = regular ? hold(fd, &by) : 0;
        if (status) {
            close(fd);
            return is_held(l->path, by, e);
        }
        bool ours = regular && has_name(fd, l->path);
        if (ours && is_empty(fd)) {
            l->fd = fd;
            return 0;
        }
        bool aside = ours && set_aside(l);
        l->saved |= aside;
        if (fd >= 0) close(fd);
        if (!regular || (ours && !aside))
            return 0; /* its writing fails, or puts a file in its place */
    }
    return 0;
}

int collect_live(collect_t *c, const char *path, err_t *e) {
    collect_live_t *l = &c->live;
    if (strlen(path) >= sizeof l->path) return 0;
    snprintf(l->path, sizeof l->path, "%s", path);
    snprintf(l->fresh_path, sizeof l->fresh_path, "%s.new", path);
    int status = take(l, e);
    if (status) l->path[0] = '\0';
    return status;
}

static void close_writer(collect_live_t *l) {
    if (l->to) rec_close(l->to, 0, 0, NULL);
    l->to = NULL;
}

void live_close(collect_t *c) {
    close_writer(&c->live);
    if (c->live.fd >= 0) close(c->live.fd);
    c->live.fd = -1;
}

void collect_live_remove(collect_t *c) {
    collect_live_t *l = &c->live;
    close_writer(l);
    if (has_name(l->fd, l->path) && (l->made || is_empty(l->fd))) unlink(l->path);
    live_close(c);
    l->path[0] = '\0';
    l->made = false;
}

bool collect_live_keep(collect_t *c) {
    bool made;
    if (c->live.path[0]) live_write(c, collect_now_us(c));
    made = c->live.made && has_name(c->live.fd, c->live.path); /* nobody has removed it */
    if (!made) collect_live_remove(c);
    live_close(c);
    return made;
}

/* All that stands in c by now is in the file that has the name. */
static void note_written(collect_t *c) {
    collect_live_t *l = &c->live;
    l->rows = (collect_rows_t){.changed = true,
                               .frames = c->sites.frames.count,
                               .stacks = c->sites.stacks.count,
                               .points = c->timeline.count,
                               .series = c->series.count,
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
    pid_t by;
    unlink(l->fresh_path); /* of one that was killed */
    int fd = open(l->fresh_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool done = fd >= 0 && hold(fd, &by) == 0 && rec_open(&w, fd, 0, c->began_ns, NULL) == 0 &&
                write_rows(c, w, &(collect_rows_t){0}) && rename(l->fresh_path, l->path) == 0;
    if (!done) {
        if (w) rec_close(w, 0, 0, NULL);
        if (fd >= 0) close(fd);
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
    if (!fresh && l->to && !append(c)) close_writer(l); /* open: it stays ours */
    if (l->to) l->bytes = lseek(l->fd, 0, SEEK_CUR);
    if (fresh || large) l->fresh_bytes = l->bytes;
    /* What is done once for each stack (naming it, writing afresh) comes to an end by itself. */
    uint64_t end_us = collect_now_us(c), wait_us = (end_us - begin_us) * SHARE;
    uint64_t least_us = l->to ? EVERY_US : AGAIN_US;
    l->due_us = end_us + (grew || fresh || wait_us < least_us ? least_us : wait_us);
}
