/* pprof's profile.proto, written by hand: a dozen fields, for which a library would be ten times
 * the code. The gzip around it stores without compressing: pprof reads any gzip, and the file is
 * small. */
#define _GNU_SOURCE
#include "base/map.h"
#include "base/strbuf.h"
#include "base/varint.h"
#include "format/rec_bytes.h"
#include "view/export_view.h"

#include <errno.h>
#include <string.h>

enum { PPROF_DEPTH_MOST = 4096, GZIP_BLOCK_MOST = 65535 };

typedef struct pprof {
    strbuf_t out, part;
    map_t texts;    /* text by its hash, to its number */
    map_t mappings; /* build id by its hash, to its number */
    strbuf_t table;
    uint32_t text_count;
    bool failed;
} pprof_t;

/* ---- Protocol buffers ---- */

static void put_varint(strbuf_t *s, uint64_t v) {
    uint8_t bytes[VARINT_MOST_BYTES];
    strbuf_put(s, (const char *)bytes, (size_t)(varint_put(bytes, v) - bytes));
}

static void put_number(strbuf_t *s, unsigned field, uint64_t v) {
    put_varint(s, field << 3);
    put_varint(s, v);
}

static void put_bytes(strbuf_t *s, unsigned field, const char *bytes, size_t n) {
    put_varint(s, field << 3 | 2);
    put_varint(s, n);
    strbuf_put(s, bytes, n);
}

/* Puts the message gathered in `part`, and begins the next one. */
static void put_part(pprof_t *w, unsigned field) {
    put_bytes(&w->out, field, strbuf_text(&w->part), w->part.count);
    w->failed |= w->part.failed;
    strbuf_clear(&w->part);
}

static uint64_t text_number(pprof_t *w, const char *text) {
    int fresh;
    uint64_t hash = rec_checksum(text, strlen(text));
    uint32_t *number = map_put(&w->texts, hash - (hash == MAP_NO_KEY), &fresh);
    if (!number) {
        w->failed = true;
        return 0;
    }
    if (fresh) {
        *number = w->text_count++;
        put_bytes(&w->table, 6, text, strlen(text));
    }
    return *number;
}

static void put_value_type(pprof_t *w, unsigned field, const char *type, const char *unit) {
    put_number(&w->part, 1, text_number(w, type));
    put_number(&w->part, 2, text_number(w, unit));
    put_part(w, field);
}

/* ---- The profile ---- */

/* A library that native frames lie in: known by its build id, 0 where it has none. Addresses are
 * offsets in its file, so it begins at 0. Number 1 is the program, as readers take the first for it. */
static uint32_t mapping_number(pprof_t *w, const profile_frame_t *f) {
    if (f->kind != PROFILE_NATIVE || !*f->build_id) return 0;
    int fresh;
    uint64_t hash = rec_checksum(f->build_id, strlen(f->build_id));
    uint32_t *number = map_put(&w->mappings, hash - (hash == MAP_NO_KEY), &fresh);
    if (!number) {
        w->failed = true;
        return 0;
    }
    if (fresh) *number = (uint32_t)w->mappings.count + 1;
    return *number;
}

static void put_program(pprof_t *w, const profile_t *p) {
    char name[256];
    const char *command = p->process_count ? p->processes[p->main_process].command : "";
    snprintf(name, sizeof name, "%.200s", command);
    for (char *c = name; *c; c++)
        if (*c == '\x1f') *c = ' ';
    put_number(&w->part, 1, 1);
    put_number(&w->part, 5, text_number(w, *name ? name : "python"));
    for (unsigned has = 7; has <= 9; has++) put_number(&w->part, has, 1);
    put_part(w, 3);
}

/* Each once, by its first frame; the names that frames have are all that there is to know. */
static void put_mappings(pprof_t *w, const profile_t *p) {
    uint32_t put = 1;
    put_program(w, p);
    for (uint32_t i = 0; i < p->frame_count; i++) {
        const profile_frame_t *f = &p->frames[i];
        uint32_t number = mapping_number(w, f);
        if (number <= put) continue;
        put = number;
        put_number(&w->part, 1, number);
        put_number(&w->part, 3, INT64_MAX); /* where it ends is not recorded */
        put_number(&w->part, 5, text_number(w, f->module));
        put_number(&w->part, 6, text_number(w, f->build_id));
        for (unsigned has = 7; has <= 9; has++) put_number(&w->part, has, 1);
        put_part(w, 3);
    }
}

/* Without a system_name, or pprof takes "<module>" for a template to cut off. */
static void put_frames(pprof_t *w, const profile_t *p) {
    for (uint32_t i = 0; i < p->frame_count; i++) {
        const profile_frame_t *f = &p->frames[i];
        put_number(&w->part, 1, i + 1);
        put_number(&w->part, 2, text_number(w, f->function));
        put_number(&w->part, 4, text_number(w, f->file));
        put_number(&w->part, 5, f->first_line);
        put_part(w, 5);
    }
    for (uint32_t i = 0; i < p->frame_count; i++) {
        uint8_t line[2 * (1 + VARINT_MOST_BYTES)], *at = line;
        *at++ = 1 << 3;
        at = varint_put(at, i + 1);
        *at++ = 2 << 3;
        at = varint_put(at, p->frames[i].line);
        put_number(&w->part, 1, i + 1);
        uint32_t mapping = mapping_number(w, &p->frames[i]);
        if (mapping) put_number(&w->part, 2, mapping);
        if (mapping) put_number(&w->part, 3, p->frames[i].offset);
        put_bytes(&w->part, 4, (const char *)line, (size_t)(at - line));
        put_part(w, 4);
    }
}

static void put_sample(pprof_t *w, const export_what_t *what, const profile_cell_t *c) {
    const profile_t *p = what->profile;
    uint32_t depth = 0;
    for (uint32_t s = c->stack; s != LOWTIDE_NONE && depth++ < PPROF_DEPTH_MOST;) {
        if (p->stacks[s].frame != LOWTIDE_NONE) put_number(&w->part, 1, p->stacks[s].frame + 1);
        s = p->stacks[s].parent;
    }
    put_number(&w->part, 2, c->sums.blocks[PROFILE_TOTAL]);
    put_number(&w->part, 2, c->sums.bytes[PROFILE_TOTAL]);
    put_number(&w->part, 2, c->sums.blocks[what->figure]);
    put_number(&w->part, 2, c->sums.bytes[what->figure]);
    if (p->process_count > 1) {
        uint8_t label[2 * (1 + VARINT_MOST_BYTES)], *at = label;
        *at++ = 1 << 3;
        at = varint_put(at, text_number(w, "pid"));
        *at++ = 3 << 3;
        at = varint_put(at, p->processes[c->process].pid);
        put_bytes(&w->part, 3, (const char *)label, (size_t)(at - label));
    }
    put_part(w, 2);
}

/* ---- gzip ---- */

static uint32_t crc32_of(const uint8_t *bytes, size_t n) {
    uint32_t table[256], crc = UINT32_MAX;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
        table[i] = c;
    }
    for (size_t i = 0; i < n; i++) crc = crc >> 8 ^ table[(crc ^ bytes[i]) & 0xff];
    return ~crc;
}

static void gzip_write(const char *bytes, size_t n, FILE *file) {
    static const uint8_t head[10] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255};
    uint32_t tail[2] = {crc32_of((const uint8_t *)bytes, n), (uint32_t)n};
    size_t at = 0;
    fwrite(head, 1, sizeof head, file);
    do {
        uint16_t part = (uint16_t)(n - at < GZIP_BLOCK_MOST ? n - at : GZIP_BLOCK_MOST);
        uint16_t sizes[2] = {part, (uint16_t)~part};
        fputc(at + part == n, file); /* the last block; stored */
        fwrite(sizes, 1, sizeof sizes, file);
        fwrite(bytes + at, 1, part, file);
        at += part;
    } while (at < n);
    fwrite(tail, 1, sizeof tail, file);
}

int export_pprof(const export_what_t *what, FILE *file, err_t *e) {
    const profile_t *p = what->profile;
    pprof_t w = {0};
    text_number(&w, ""); /* the format's string 0 */
    put_value_type(&w, 1, "alloc_objects", "count");
    put_value_type(&w, 1, "alloc_space", "bytes");
    put_value_type(&w, 1, "inuse_objects", "count");
    put_value_type(&w, 1, "inuse_space", "bytes");
    for (uint32_t i = 0; i < p->cell_count; i++) put_sample(&w, what, &p->cells[i]);
    put_mappings(&w, p);
    put_frames(&w, p);
    put_number(&w.out, 9, lowtide_captured_ns(what->rec));
    if (p->process_count && p->processes[0].end_us > p->processes[0].begin_us)
        put_number(&w.out, 10, (p->processes[0].end_us - p->processes[0].begin_us) * 1000);
    put_value_type(&w, 11, "space", "bytes");
    put_number(&w.out, 12, p->mode == PROFILE_SAMPLED ? p->interval_bytes : 1);
    put_number(&w.out, 14, text_number(&w, "inuse_space"));
    strbuf_put(&w.out, strbuf_text(&w.table), w.table.count);
    int status = 0;
    if (w.failed || w.out.failed || w.table.failed) {
        status = err_set(e, -ENOMEM, "no memory for the profile");
    } else {
        gzip_write(strbuf_text(&w.out), w.out.count, file);
    }
    strbuf_free(&w.out);
    strbuf_free(&w.part);
    strbuf_free(&w.table);
    map_free(&w.texts);
    map_free(&w.mappings);
    return status;
}
