#define _GNU_SOURCE
#include "agent/resources/resources.h"

#include "agent/alloc/alloc_opens.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 256 };

resource_t *resources_add(resources_t *r, const char *kind, int64_t number) {
    resource_t row = {.kind = kind, .number = number};
    if (r->rows.count >= RESOURCES_MAX || resource_vec_push(&r->rows, row)) {
        r->beyond++;
        return NULL;
    }
    return &r->rows.at[r->rows.count - 1];
}

uint32_t resources_text(resources_t *r, const char *text) {
    size_t n = strlen(text) + 1;
    if (n == 1 || resource_texts_reserve(&r->texts, n + 1)) return 0;
    if (!r->texts.count) r->texts.count = 1;
    uint32_t at = (uint32_t)r->texts.count;
    memcpy(r->texts.at + at, text, n);
    r->texts.count += n;
    return at;
}

/* The row of a descriptor that is open. */
static resource_t *row_of(resources_t *r, int64_t number) {
    uint32_t low = 0, high = r->descriptors;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (r->rows.at[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < r->descriptors && r->rows.at[low].number == number ? &r->rows.at[low] : NULL;
}

static size_t read_line(uint64_t pid, const char *file, char *text, size_t room) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%llu/%s", (unsigned long long)pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, room - 1);
    if (fd >= 0) close(fd);
    if (n < 0) n = 0;
    text[n] = '\0';
    return (size_t)n;
}

/* A child that has ended has no command line any more, but is there until somebody waits for it. */
static void add_child(resources_t *r, const heap_handle_t *h) {
    char text[LINE_BYTES], stat[LINE_BYTES], *state;
    size_t n = read_line(h->number, "cmdline", text, sizeof text);
    for (size_t i = 0; i + 1 < n; i++)
        if (!text[i]) text[i] = ' ';
    read_line(h->number, "stat", stat, sizeof stat);
    state = strrchr(stat, ')');
    bool ended = state && (state[1] == ' ' && (state[2] == 'Z' || state[2] == 'X'));
    bool gone = !state;
    char *name = strchr(stat, '(');
    if (!n && state && name && state - name < LINE_BYTES) {
        memcpy(text, name + 1, (size_t)(state - name - 1));
        text[state - name - 1] = '\0';
    }
    resource_t *row = resources_add(r, "subprocess", (int64_t)h->number);
    if (!row) return;
    row->address = h->address;
    row->block = h->block;
    row->name = resources_text(r, text);
    row->note = resources_text(r, ended  ? "ended, not waited for"
                                  : gone ? "gone, not waited for"
                                         : "running");
}

static void add_plain(resources_t *r, const char *kind, const heap_handle_t *h) {
    resource_t *row = resources_add(r, kind, -1);
    if (!row) return;
    row->address = h->address;
    row->block = h->block;
    row->bytes = h->bytes;
}

void resources_handle(void *arg, const heap_handle_t *h) {
    resources_t *r = arg;
    resource_t *row;
    switch (h->kind) {
    case HEAP_HANDLE_DESCRIPTOR:
        row = row_of(r, (int64_t)h->number);
        if (row && !row->address) row->address = h->address, row->block = h->block;
        break;
    case HEAP_HANDLE_MAPPING:
        add_plain(r, "mmap", h);
        break;
    case HEAP_HANDLE_CONNECTION:
        add_plain(r, "connection", h);
        break;
    case HEAP_HANDLE_CURSOR:
        add_plain(r, "cursor", h);
        break;
    case HEAP_HANDLE_CHILD:
        add_child(r, h);
        break;
    case HEAP_HANDLE_THREAD: {
        resource_t thread = {.kind = "thread",
                             .ident = h->number,
                             .address = h->address,
                             .block = h->block,
                             .running = h->running,
                             .name = resources_text(r, h->name),
                             .note = resources_text(r, h->daemon ? "daemon" : "")};
        if (r->threads.count >= RESOURCES_MAX || resource_vec_push(&r->threads, thread))
            r->beyond++;
        break;
    }
    case HEAP_HANDLE_NONE:
        break;
    }
}

static void write_text(rec_writer_t *w, const char *text) {
    rec_table_text(w, text, strlen(text));
}

void resources_write(const resources_t *r, rec_writer_t *w) {
    static const rec_table_column_t columns[] = {
        {"kind", REC_TEXT}, {"name", REC_TEXT},     {"descriptor", REC_SIGNED},
        {"file", REC_TEXT}, {"line", REC_VARINT},   {"function", REC_TEXT},
        {"note", REC_TEXT}, {"address", REC_DELTA}, {"bytes", REC_VARINT}};
    if (!r->rows.count) return;
    rec_table_begin(w, "resources", columns, sizeof columns / sizeof columns[0]);
    for (size_t i = 0; i < r->rows.count; i++) {
        const resource_t *row = &r->rows.at[i];
        opens_place_t at = {.line = 0};
        bool known = i < r->descriptors ? opens_descriptor(row->number, &at)
                     : row->ident       ? opens_thread(row->ident, &at)
                                        : false;
        if (!known && row->block) opens_object(row->block, &at);
        write_text(w, row->kind);
        write_text(w, row->name ? r->texts.at + row->name : "");
        rec_table_number(w, (uint64_t)row->number);
        write_text(w, at.file);
        rec_table_number(w, at.line);
        write_text(w, at.function);
        write_text(w, row->note ? r->texts.at + row->note : "");
        rec_table_number(w, row->address);
        rec_table_number(w, row->bytes);
    }
    rec_table_end(w);
}

void resources_free(resources_t *r) {
    resource_vec_free(&r->rows);
    resource_vec_free(&r->threads);
    resource_texts_free(&r->texts);
    r->descriptors = 0;
}
