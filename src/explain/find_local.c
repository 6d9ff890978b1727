#define _GNU_SOURCE /* memmem */
#include "explain/find_local.h"

#include "explain/path.h"
#include "explain/task.h"

#include <errno.h>
#include <string.h>

/* "thread T > f() > g() > local", or "task 'T' > …". */
typedef struct find_words {
    bool task;
    const char *owner, *functions, *local;
    size_t owner_bytes, functions_bytes, local_bytes;
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
    static const char thread[] = "thread ", task[] = "task '";
    const char *p = *at, *function;
    size_t bytes, left = (size_t)(end - p);
    *w = (find_words_t){.task = left > 6 && memcmp(p, task, 6) == 0};
    if (!w->task && (left < 7 || memcmp(p, thread, 7) != 0)) return false;
    p += w->task ? 6 : 7;
    if (!find_until(&p, end, w->task ? "' > " : " > ", &w->owner, &w->owner_bytes)) return false;
    w->functions = p;
    while (find_until(&p, end, "() > ", &function, &bytes))
        w->functions_bytes = (size_t)(p - w->functions);
    w->local = p;
    while (p < end && !strchr(".[ ", *p)) p++;
    w->local_bytes = (size_t)(p - w->local);
    *at = p;
    return w->local_bytes > 0 && w->functions_bytes > 0;
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

/* The owning references of an object, read once. */
static int find_targets(const model_t *m, uint32_t id, path_ids_t *out, err_t *e) {
    lowtide_object o;
    int status = model_read(m, id, &o, e);
    out->count = 0;
    for (uint32_t k = 0; !status && k < o.edge_count; k++)
        if (o.edges[k] != LOWTIDE_NONE && path_ids_push(out, o.edges[k]))
            status = err_set(e, -ENOMEM, "no memory for the frames of a thread");
    return status;
}

static int find_local_of(const model_t *m, uint32_t frame, const find_words_t *w, uint32_t *id,
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

/* Whether an object is a frame or a suspended function of that name. */
static int find_is_function(const model_t *m, uint32_t id, const char *name, size_t bytes, bool *is,
                            err_t *e) {
    strbuf_t text = {0};
    *is = false;
    if (model_shape_of(m, id)->kind == LOWTIDE_SHAPE_FRAME)
        return find_is(m, id, name, bytes, is, e);
    if (!suspended_is(m, id)) return 0;
    int status = suspended_put_name(m, id, &text, e);
    *is = !status && text.count == bytes + 2 && memcmp(strbuf_text(&text), name, bytes) == 0;
    strbuf_free(&text);
    return status;
}

/* From a thread, task or function into the functions that it is in, one after the other. */
static int find_in(const model_t *m, uint32_t owner, const char *functions, size_t left,
                   const find_words_t *w, uint32_t *id, err_t *e) {
    if (left == 0) return find_local_of(m, owner, w, id, e);
    const char *at = functions, *name;
    size_t bytes;
    path_ids_t inner = {0};
    if (!find_until(&at, functions + left, "() > ", &name, &bytes)) return 0;
    int status = find_targets(m, owner, &inner, e);
    for (size_t i = 0; i < inner.count && !status && *id == LOWTIDE_NONE; i++) {
        bool is;
        status = find_is_function(m, inner.at[i], name, bytes, &is, e);
        if (!status && is)
            status = find_in(m, inner.at[i], at, left - (size_t)(at - functions), w, id, e);
    }
    path_ids_free(&inner);
    return status;
}

static int find_is_task(const model_t *m, uint32_t id, const find_words_t *w, bool *is, err_t *e) {
    strbuf_t text = {0};
    int status = task_put_name(m, id, &text, e);
    *is = !status && text.count == w->owner_bytes &&
          memcmp(strbuf_text(&text), w->owner, text.count) == 0;
    strbuf_free(&text);
    return status;
}

/* A function that a thread's event loop runs may be suspended: then its coroutine is searched. */
static int find_suspended(const model_t *m, const find_words_t *w, uint32_t *id, err_t *e) {
    int status = 0;
    const char *at = w->functions, *name;
    size_t bytes;
    if (w->task || !find_until(&at, w->functions + w->functions_bytes, "() > ", &name, &bytes))
        return 0;
    for (uint32_t x = 0; x < m->g.n && !status && *id == LOWTIDE_NONE; x++) {
        bool is = false;
        if (!suspended_is(m, x)) continue;
        status = find_is_function(m, x, name, bytes, &is, e);
        if (!status && is)
            status = find_in(m, x, at, w->functions_bytes - (size_t)(at - w->functions), w, id, e);
    }
    return status;
}

int find_local(const model_t *m, const char **at, const char *end, uint32_t *id, err_t *e) {
    find_words_t w;
    int status = 0;
    *id = LOWTIDE_NONE;
    if (!find_words(at, end, &w)) return -ENOENT;
    for (uint32_t x = 0; x < m->g.n && !status && *id == LOWTIDE_NONE; x++) {
        bool is = false;
        if (w.task ? !task_is(m, x) : model_shape_of(m, x)->kind != LOWTIDE_SHAPE_THREAD) continue;
        status =
            w.task ? find_is_task(m, x, &w, &is, e) : find_is(m, x, w.owner, w.owner_bytes, &is, e);
        if (!status && is) status = find_in(m, x, w.functions, w.functions_bytes, &w, id, e);
    }
    if (!status && *id == LOWTIDE_NONE) status = find_suspended(m, &w, id, e);
    return status ? status : *id == LOWTIDE_NONE ? -ENOENT : 0;
}
