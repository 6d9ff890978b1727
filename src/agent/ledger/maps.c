#define _GNU_SOURCE
#include "agent/ledger/maps.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_BYTES = 1 << 18 };

static int read_file(maps_t *m, const char *path, size_t *count, err_t *e) {
    int status = 0, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_sys(e, -errno, "cannot open %s", path);
    *count = 0;
    m->text_bytes = FIRST_BYTES;
    m->text = mem_map(m->text_bytes);
    while (m->text) {
        if (m->text_bytes - *count < FIRST_BYTES / 2) {
            char *more = mem_remap(m->text, m->text_bytes, m->text_bytes * 2);
            if (!more) break;
            m->text = more;
            m->text_bytes *= 2;
        }
        ssize_t n = read(fd, m->text + *count, m->text_bytes - *count - 1);
        if (n > 0) *count += (size_t)n;
        if (n == 0) break;
        if (n < 0 && errno != EINTR) {
            status = err_sys(e, -errno, "cannot read %s", path);
            break;
        }
    }
    close(fd);
    return m->text ? status : err_set(e, -ENOMEM, "out of memory");
}

static uint64_t hex(const char **p) {
    uint64_t v = 0;
    for (;; ++*p) {
        char c = **p;
        if (c >= '0' && c <= '9')
            v = v << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            v = v << 4 | (uint64_t)(c - 'a' + 10);
        else
            return v;
    }
}

static uint64_t decimal(const char *p) {
    uint64_t v = 0;
    while (*p == ' ') p++;
    for (; *p >= '0' && *p <= '9'; p++) v = v * 10 + (uint64_t)(*p - '0');
    return v;
}

/* "7f00-7f10 rw-p 00000000 fd:01 1234     /a file", with its end of line made a zero. */
static void read_head(const char *p, map_entry_t *v) {
    memset(v, 0, sizeof *v);
    v->begin = hex(&p);
    p += *p == '-';
    v->end = hex(&p);
    if (strlen(p) < 6) return;
    v->readable = p[1] == 'r';
    v->writable = p[2] == 'w';
    v->executable = p[3] == 'x';
    v->shared = p[4] == 's';
    for (int words = 0; words < 3 && *p; words++) { /* permissions, offset, device */
        while (*p == ' ') p++;
        while (*p && *p != ' ') p++;
    }
    v->inode = decimal(p);
    while (*p == ' ') p++;
    while (*p >= '0' && *p <= '9') p++;
    while (*p == ' ') p++;
    v->name = p;
}

static bool field(const char *line, const char *name, uint64_t *bytes) {
    size_t n = strlen(name);
    if (strncmp(line, name, n) != 0) return false;
    *bytes = decimal(line + n) * 1024;
    return true;
}

int maps_parse(maps_t *m, size_t bytes, err_t *e) {
    int status = 0;
    char *end = m->text + bytes;
    *end = '\0';
    for (char *line = m->text; !status && line < end;) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        if (stop)
            *stop = '\0';
        else
            stop = end;
        map_entry_t v, *last = m->entries.count ? &m->entries.at[m->entries.count - 1] : NULL;
        /* A mapping's own line begins with its address, its fields with capital letters. */
        if (*line < 'A' || *line > 'Z') {
            read_head(line, &v);
            if (map_entries_push(&m->entries, v)) status = err_set(e, -ENOMEM, "out of memory");
        } else if (last && !field(line, "Rss:", &last->rss_bytes) &&
                   !field(line, "Swap:", &last->swap_bytes)) {
            field(line, "AnonHugePages:", &last->huge_bytes);
        }
        line = stop + 1;
    }
    for (size_t i = 0; i < m->entries.count; i++) {
        m->rss_bytes += m->entries.at[i].rss_bytes;
        m->swap_bytes += m->entries.at[i].swap_bytes;
        m->huge_bytes += m->entries.at[i].huge_bytes;
    }
    return status;
}

int maps_read(maps_t *m, uint32_t of, err_t *e) {
    char path[40] = "/proc/self/smaps";
    size_t count = 0;
    if (of) snprintf(path, sizeof path, "/proc/%" PRIu32 "/smaps", of);
    memset(m, 0, sizeof *m);
    int status = read_file(m, path, &count, e);
    if (!status) status = maps_parse(m, count, e);
    if (status) maps_free(m);
    return status;
}

void maps_free(maps_t *m) {
    mem_unmap(m->text, m->text_bytes);
    map_entries_free(&m->entries);
    memset(m, 0, sizeof *m);
}
