#define _GNU_SOURCE
#include "cli/record.h"

#include "cli/command.h"
#include "collect/collect_peak.h"
#include "explain/garbage.h"
#include "format/rec_table.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static const __rlimit_resource_t kinds[] = {RLIMIT_NOFILE, RLIMIT_FSIZE};
enum { KINDS = sizeof kinds / sizeof kinds[0] };
static struct {
    struct rlimit before;
    bool raised;
} limits[KINDS];

static void limits_raise(void) {
    for (int i = 0; i < KINDS; i++) {
        struct rlimit *l = &limits[i].before;
        limits[i].raised = getrlimit(kinds[i], l) == 0 &&
                           setrlimit(kinds[i], &(struct rlimit){l->rlim_max, l->rlim_max}) == 0;
    }
}

void record_limits_restore(void) {
    for (int i = 0; i < KINDS; i++)
        if (limits[i].raised) setrlimit(kinds[i], &limits[i].before);
}

/* A name that would be too long with what is put behind it is cut, and marked so that it is no other one's. false: no room. */
static bool live_name(const char *to, char *path, size_t room) {
    enum { BEHIND = sizeof ".partial.old.99" - 1, MARK = sizeof "~01234567" - 1 };
    const char *slash = strrchr(to, '/'), *own = slash ? slash + 1 : to;
    int n, place = (int)(own - to);
    snprintf(path, room, "%.*s.", place, to);
    long most = pathconf(path, _PC_NAME_MAX);
    size_t keep = (most > 0 ? (size_t)most : NAME_MAX) - BEHIND;
    if (strlen(own) <= keep) {
        n = snprintf(path, room, "%s.partial", to);
    } else {
        keep = keep > MARK ? keep - MARK : 0;
        while (keep && ((unsigned char)own[keep] & 0xc0) == 0x80) keep--; /* within a character */
        n = snprintf(path, room, "%.*s%.*s~%08x.partial", place, to, (int)keep, own,
                     XXH32(own, strlen(own), 0));
    }
    return n > 0 && (size_t)n < room;
}

int record_open(record_t *r, const char *to, bool live, err_t *e) {
    char path[sizeof r->output.path];
    r->fd = -1;
    r->heap = false;
    r->gpu_count = 0;
    r->ledger.count = 0;
    r->to_file = to != NULL;
    limits_raise();
    int status = collect_begin(&r->collect, e);
    if (!status && to) status = output_open(&r->output, to, e);
    if (status) return status;
    r->fd =
        to && r->output.beside ? output_again(&r->output) : memfd_create("lowtide", MFD_CLOEXEC);
    if (r->fd < 0) {
        status = err_sys(e, -errno, "cannot make a recording");
        record_abandon(r);
        return status;
    }
    if (live && to && r->output.beside && live_name(to, path, sizeof path))
        status = collect_live(&r->collect, path, e);
    if (status) record_abandon(r);
    if (!status && r->collect.live.saved)
        command_fail("%s was left by a lowtide that was killed; it is %s now", path,
                     r->collect.live.old_path);
    return status;
}

int record_scratch(const record_t *r) {
    char directory[sizeof r->output.path];
    int fd = -1;
    if (r->to_file && r->output.beside) {
        snprintf(directory, sizeof directory, "%s", r->output.path);
        char *slash = strrchr(directory, '/');
        if (slash) slash[slash == directory] = '\0';
        fd = open(slash ? directory : ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    }
    return fd >= 0 ? fd : memfd_create("lowtide-peak", MFD_CLOEXEC);
}

bool record_has_profile(const record_t *r) {
    for (size_t i = 0; i < r->collect.processes.count; i++)
        if (r->collect.processes.at[i]->mode) return true;
    return false;
}

static void meta_number(rec_writer_t *w, const char *key, uint64_t v) {
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, v);
    rec_meta(w, key, text);
}

/* As the agent writes it beside a heap. */
static void write_ledger(const answer_t *a, rec_writer_t *w) {
    static const rec_table_column_t columns[] = {{"name", REC_TEXT},
                                                 {"bytes", REC_VARINT},
                                                 {"returnable_bytes", REC_VARINT},
                                                 {"note", REC_TEXT}};
    if (!a->count) return;
    rec_table_begin(w, "ledger", columns, sizeof columns / sizeof columns[0]);
    for (unsigned i = 0; i < a->count; i++) {
        const ctl_line_t *line = &a->lines[i];
        rec_table_text(w, line->name, strlen(line->name));
        rec_table_number(w, line->bytes);
        rec_table_number(w, line->returnable_bytes);
        rec_table_text(w, line->note, strlen(line->note));
    }
    rec_table_end(w);
    if (a->result.objects) meta_number(w, "swap_bytes", a->result.objects);
    if (a->result.references) meta_number(w, "huge_page_bytes", a->result.references);
}

/* Of the heap in a file, where that is soon known; else 0. */
static uint64_t garbage_in(int fd) {
    enum { OBJECTS_MOST = 8 << 20 };
    struct stat s;
    lowtide_recording *rec;
    lowtide_error unread;
    err_t e;
    uint64_t bytes = 0;
    if (fstat(fd, &s) || s.st_size <= 0) return 0;
    void *at = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (at == MAP_FAILED) return 0;
    if (lowtide_open_memory(at, (size_t)s.st_size, &rec, &unread) == 0) {
        if (lowtide_objects(rec) <= OBJECTS_MOST && garbage_bytes(rec, &bytes, &e)) bytes = 0;
        lowtide_close(rec);
    }
    munmap(at, (size_t)s.st_size);
    return bytes;
}

/* The heap at the end is as large as at the peak: who held it then is told by the peak alone where it is garbage by now. */
static void weigh_garbage(record_t *r) {
    collect_peak_t *peak = r->heap ? peak_in_doubt(&r->collect) : NULL;
    if (!peak) return;
    r->collect.heap_garbage_bytes = garbage_in(r->fd);
    if (!peak_in_doubt(&r->collect)) peak->garbage_bytes = garbage_in(peak->fd);
}

static int write_tables(record_t *r, err_t *e) {
    rec_writer_t *w;
    int status;
    collect_drain(&r->collect);
    weigh_garbage(r);
    if (r->heap) {
        status = rec_append(&w, r->fd, e);
    } else {
        status = ftruncate(r->fd, 0) != 0 || lseek(r->fd, 0, SEEK_SET) != 0
                     ? err_sys(e, -errno, "cannot write the recording")
                     : rec_open(&w, r->fd, 0, r->collect.began_ns, e);
    }
    if (status) return status;
    collect_write(&r->collect, w, r->heap);
    if (!r->heap) write_ledger(&r->ledger, w);
    if (!r->heap && r->no_heap[0]) rec_meta(w, "no_heap", r->no_heap);
    gpu_write(w, r->gpus, r->gpu_count);
    return rec_close(w, 0, 0, e);
}

/* Out of memory into what is no regular file. */
static int copy_out(record_t *r, err_t *e) {
    char bytes[65536];
    FILE *f = output_file(&r->output, e);
    ssize_t n;
    if (!f) return -ENOMEM;
    for (off_t at = 0; (n = pread(r->fd, bytes, sizeof bytes, at)) > 0; at += n)
        if (fwrite(bytes, 1, (size_t)n, f) != (size_t)n) break;
    return 0;
}

/* Where there is no room for the recording there may be for its tables, now that it is gone. */
static int say_what_stays(record_t *r, const err_t *e) {
    char name[sizeof r->output.path];
    snprintf(name, sizeof name, "%s", r->output.path);
    if (r->to_file) output_abandon(&r->output);
    bool stays = collect_live_keep(&r->collect);
    const char *before = name[0] && !strstr(e->text, name) ? name : "";
    return command_fail("%s%s%s%s%s", before, *before ? ": " : "", e->text,
                        stays ? "; what was known without the heap is in " : "",
                        stays ? r->collect.live.path : "");
}

int record_finish(record_t *r) {
    err_t e;
    int status = write_tables(r, &e);
    if (!status && r->to_file && !r->output.beside) status = copy_out(r, &e);
    if (!status && r->to_file) status = output_commit(&r->output, &e);
    if (status == -EPIPE) status = 0; /* a reader that went away */
    if (status) return say_what_stays(r, &e);
    collect_live_remove(&r->collect);
    return EXIT_DONE;
}

void record_abandon(record_t *r) {
    if (r->to_file) output_abandon(&r->output);
    collect_live_remove(&r->collect);
}

void record_close(record_t *r) {
    if (r->fd >= 0) close(r->fd);
    r->fd = -1;
    collect_end(&r->collect);
}
