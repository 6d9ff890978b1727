#define _GNU_SOURCE /* memmem */
#include "explain/find_local.h"

#include "explain/path.h"

#include <errno.h>
#include <string.h>

typedef struct find_words {
    const char *thread, *function, *local;
    size_t thread_bytes, function_bytes, local_bytes;
} find_words_t;

/* The text up to `mark`, which is passed over. */
static bool find_until(const char **at, const char *end, const char *mark, const char **text,
                       size_t *bytes) {
    const char *found = memmem(*at, (size_t)(end - *at), mark, strlen(mark));
    if (!found) return false;
    *text = *at;
    *bytes = (size_t)(found - *at);
    *at = found + strlen(mark);
    return true;
}

static bool find_words(const char **at, const char *end, find_words_t *w) {
    const char *p = *at;
    if ((size_t)(end - p) < 7 || memcmp(p, "thread ", 7) != 0) return false;
    p += 7;
    if (!find_until(&p, end, " > ", &w->thread, &w->thread_bytes)) return false;
    if (!find_until(&p, end, "() > ", &w->function, &w->function_bytes)) return false;
    w->local = p;
    while (p < end && !strchr(".[ ", *p)) p++;
    w->local_bytes = (size_t)(p - w->local);
    *at = p;
    return w->local_bytes > 0;
}

/* Whether an object is named so; of a frame's name, what stands before its file. */
static int find_is(const model_t *m, uint32_t id, const char *name, size_t bytes, bool *is,
                   err_t *e) {
    lowtide_object o;
    int status = model_read(m, id, &o, e);
    *is = false;
    if (status || o.value.kind != LOWTIDE_VALUE_NAME) return status;
    const char *end = memchr(o.value.text, 0x1F, o.value.text_bytes);
    size_t n = end ? (size_t)(end - o.value.text) : o.value.text_bytes;
    *is = n == bytes && memcmp(o.value.text, name, n) == 0;
    return 0;
}

static int find_in_frame(const model_t *m, uint32_t frame, const find_words_t *w, uint32_t *id,
                         err_t *e) {
    lowtide_object o;
    uint32_t index;
    int status = model_read(m, frame, &o, e);
    const lowtide_shape *shape = model_shape_of(m, frame);
    for (uint32_t k = 0; !status && k < o.edge_count; k++) {
        lowtide_label label = lowtide_label_at(shape, k, &index);
        const char *name = lowtide_string(m->rec, label.name);
        if (label.kind != LOWTIDE_LOCAL || o.edges[k] == LOWTIDE_NONE) continue;
        if (strlen(name) == w->local_bytes && memcmp(name, w->local, w->local_bytes) == 0)
            *id = o.edges[k];
    }
    return status;
}

static int find_in_thread(const model_t *m, uint32_t thread, const find_words_t *w, uint32_t *id,
                          err_t *e) {
    lowtide_object o;
    path_ids_t frames = {0};
    int status = model_read(m, thread, &o, e);
    for (uint32_t k = 0; !status && k < o.edge_count; k++) {
        if (o.edges[k] == LOWTIDE_NONE ||
            model_shape_of(m, o.edges[k])->kind != LOWTIDE_SHAPE_FRAME)
            continue;
        if (path_ids_push(&frames, o.edges[k]))
            status = err_set(e, -ENOMEM, "no memory for the frames of a thread");
    }
    for (size_t i = 0; i < frames.count && !status && *id == LOWTIDE_NONE; i++) {
        bool is;
        status = find_is(m, frames.at[i], w->function, w->function_bytes, &is, e);
        if (!status && is) status = find_in_frame(m, frames.at[i], w, id, e);
    }
    path_ids_free(&frames);
    return status;
}

int find_local(const model_t *m, const char **at, const char *end, uint32_t *id, err_t *e) {
    find_words_t w;
    int status = 0;
    *id = LOWTIDE_NONE;
    if (!find_words(at, end, &w)) return -ENOENT;
    for (uint32_t x = 0; x < m->g.n && !status && *id == LOWTIDE_NONE; x++) {
        bool is = false;
        if (model_shape_of(m, x)->kind != LOWTIDE_SHAPE_THREAD) continue;
        status = find_is(m, x, w.thread, w.thread_bytes, &is, e);
        if (!status && is) status = find_in_thread(m, x, &w, id, e);
    }
    return status ? status : *id == LOWTIDE_NONE ? -ENOENT : 0;
}
