#include "explain/task.h"

#include "explain/names.h"

#include <string.h>

enum { TASK_REFERENCES = 64 };

bool task_is(const model_t *m, uint32_t id) {
    if (id >= m->g.n) return false;
    const char *type = model_type_name(m, id);
    return strcmp(type, "_asyncio.Task") == 0 || strcmp(type, "asyncio.tasks.Task") == 0;
}

/* Of a task made in C the collector visits context, coroutine and name before anything of the future's, such as its
 * result: so the name is the first str; and a number (3.12 and later) where nobody gave it one or asked for it yet. */
int task_put_name(const model_t *m, uint32_t id, strbuf_t *out, err_t *e) {
    lowtide_object o;
    uint32_t targets[TASK_REFERENCES], count = 0;
    int status = model_read(m, id, &o, e);
    for (uint32_t k = 0; !status && k < o.edge_count && count < TASK_REFERENCES; k++)
        if (o.edges[k] != LOWTIDE_NONE) targets[count++] = o.edges[k];
    for (uint32_t k = 0; k < count && !status; k++) {
        status = model_read(m, targets[k], &o, e);
        if (!status && o.value.kind == LOWTIDE_VALUE_STR) {
            strbuf_put(out, o.value.text, o.value.text_bytes);
            return 0;
        }
        if (!status && o.value.kind == LOWTIDE_VALUE_INT) {
            strbuf_printf(out, "Task-%lld", (long long)o.value.integer);
            return 0;
        }
    }
    return status;
}

bool suspended_is(const model_t *m, uint32_t id) {
    if (id >= m->g.n) return false;
    const char *type = model_type_name(m, id);
    return strcmp(type, "coroutine") == 0 || strcmp(type, "generator") == 0 ||
           strcmp(type, "async_generator") == 0;
}

int suspended_put_name(const model_t *m, uint32_t id, strbuf_t *out, err_t *e) {
    uint32_t name, bytes;
    const char *text = NULL;
    int status = names_field(m, id, "__qualname__", 12, &name, e);
    if (!status) status = names_text(m, name, &text, &bytes, e);
    if (status) return status;
    if (text) strbuf_put(out, text, bytes);
    strbuf_puts(out, text ? "()" : model_type_name(m, id));
    return 0;
}
