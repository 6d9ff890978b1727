#define _GNU_SOURCE
#include "collect/collect_source.h"

#include "base/mem.h"
#include "control/region.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MOST_BYTES = 16 << 20, LINE_MOST_BYTES = 200 };

/* A script with a name of its own: `#!/usr/bin/env python3`. */
static bool source_is_script(FILE *f) {
    char first[256] = "";
    bool is =
        fgets(first, sizeof first, f) && strncmp(first, "#!", 2) == 0 && strstr(first, "python");
    rewind(f);
    return is;
}

/* The observed process said the name: no device, no pipe, nothing but Python. */
static FILE *source_open(const char *path) {
    size_t n = strlen(path);
    struct stat st;
    /* Some devices do something when they are opened. */
    if (path[0] != '/' || stat(path, &st) || !S_ISREG(st.st_mode)) return NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return NULL;
    bool plain = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= FILE_MOST_BYTES;
    FILE *f = plain ? fdopen(fd, "r") : NULL;
    if (!f) {
        close(fd);
    } else if ((n < 4 || strcmp(path + n - 3, ".py") != 0) && !source_is_script(f)) {
        fclose(f);
        f = NULL;
    }
    return f;
}

typedef struct wanted {
    uint32_t file, line, frame;
} wanted_t;

static int wanted_compare(const void *a, const void *b) {
    const wanted_t *x = a, *y = b;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    return x->line < y->line ? -1 : x->line > y->line;
}

/* The line without what it is indented by and what ends it, never half a character. */
static uint32_t source_keep(collect_sources_t *out, char *text, size_t n) {
    char *begin = text + strspn(text, " \t\f");
    n -= (size_t)(begin - text);
    while (n && strchr(" \t\r\n", begin[n - 1])) n--;
    if (n > LINE_MOST_BYTES)
        for (n = LINE_MOST_BYTES; n && ((unsigned char)begin[n] & 0xc0) == 0x80;) n--;
    uint32_t at = (uint32_t)out->texts.count;
    if (!n || memchr(begin, 0, n) || collect_texts_reserve(&out->texts, n + 1)) return 0;
    memcpy(out->texts.at + at, begin, n);
    out->texts.at[at + n] = 0;
    out->texts.count += n + 1;
    return at;
}

static void source_of_file(FILE *f, const wanted_t *wanted, size_t count, collect_sources_t *out) {
    char *text = NULL;
    size_t room = 0;
    ssize_t n = 0;
    uint32_t line = 0, at = 0;
    for (size_t i = 0; i < count; i++) {
        if (line != wanted[i].line) {
            while (line < wanted[i].line && (n = getline(&text, &room, f)) >= 0) line++;
            if (n < 0) break;
            at = source_keep(out, text, (size_t)n);
        }
        out->of_frame.at[wanted[i].frame] = at;
    }
    free(text);
}

void sources_read(const collect_sites_t *sites, collect_sources_t *out) {
    size_t frames = sites->frames.count, count = 0;
    *out = (collect_sources_t){0};
    if (!frames || collect_texts_push(&out->texts, 0) ||
        collect_numbers_reserve(&out->of_frame, frames))
        return;
    out->of_frame.count = frames; /* which read as 0 */
    wanted_t *wanted = mem_alloc(frames * sizeof *wanted);
    if (!wanted) return;
    for (size_t i = 0; i < frames; i++) {
        const collect_frame_t *f = &sites->frames.at[i];
        if (f->kind != REGION_FRAME_PYTHON || !f->line) continue;
        wanted[count++] = (wanted_t){f->file, f->line, (uint32_t)i};
    }
    qsort(wanted, count, sizeof *wanted, wanted_compare);
    for (size_t i = 0, next; i < count; i = next) {
        for (next = i; next < count && wanted[next].file == wanted[i].file;) next++;
        FILE *f = source_open(sites_text_at(sites, wanted[i].file));
        if (!f) continue;
        source_of_file(f, wanted + i, next - i, out);
        fclose(f);
    }
    mem_free(wanted);
}

void source_line(const char *path, uint32_t line, char *text, size_t room) {
    char *at = NULL;
    size_t of = 0;
    ssize_t n = 0;
    text[0] = 0;
    FILE *f = line ? source_open(path) : NULL;
    if (!f) return;
    for (uint32_t i = 0; i < line && n >= 0; i++) n = getline(&at, &of, f);
    if (n >= 0) snprintf(text, room, "%s", at + strspn(at, " \t\f"));
    free(at);
    fclose(f);
}

const char *sources_at(const collect_sources_t *s, size_t frame) {
    return frame < s->of_frame.count ? s->texts.at + s->of_frame.at[frame] : "";
}

void sources_free(collect_sources_t *s) {
    collect_texts_free(&s->texts);
    collect_numbers_free(&s->of_frame);
}
