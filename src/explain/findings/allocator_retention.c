/* allocator-retention: memory that nothing uses, and that Python's allocator or malloc keeps. From the ledger: the bytes are those
 * that lay free in whole pages when the recording was made, so giving them back returns just those. The fix says what each change
 * would have returned: where the free memory lies decides which one helps. */
#include "explain/findings/findings.h"
#include "explain/model_owners.h"
#include "explain/model_pins.h"

#include <errno.h>
#include <string.h>

enum {
    RETENTION_MIN_BYTES = 32 << 20,
    RETENTION_SHARE = 10,
    RETENTION_WORTH = 5, /* a change is named from this part of the whole on */
    RETENTION_PINS = 2,
    RETENTION_ARENAS = 3
};

typedef struct layers {
    uint64_t rss, pools, heap;
    uint64_t tops, threads, thread_heaps; /* of the heap: at heaps' ends; in threads' arenas */
} layers_t;

static void read_layers(const lowtide_table *t, layers_t *l) {
    uint32_t name = lowtide_table_column(t, "name"), bytes = lowtide_table_column(t, "bytes");
    uint32_t back = lowtide_table_column(t, "returnable_bytes");
    for (uint32_t i = 0; i < lowtide_table_rows(t); i++) {
        const char *line = lowtide_table_text(t, name, i);
        uint64_t returnable = lowtide_table_number(t, back, i);
        l->rss += lowtide_table_number(t, bytes, i);
        if (strncmp(line, "malloc:", 7) == 0)
            l->heap += returnable;
        else
            l->pools += returnable;
    }
}

static void read_heaps(const lowtide_table *t, layers_t *l) {
    uint32_t main = lowtide_table_column(t, "main"), top = lowtide_table_column(t, "top_bytes");
    uint32_t back = lowtide_table_column(t, "returnable_bytes");
    for (uint32_t i = 0; i < lowtide_table_rows(t); i++) {
        uint64_t returnable = lowtide_table_number(t, back, i);
        uint64_t at_end = lowtide_table_number(t, top, i);
        l->tops += at_end < returnable ? at_end : returnable;
        if (lowtide_table_number(t, main, i)) continue;
        l->threads += returnable;
        l->thread_heaps++;
    }
}

/* `lowtide run` knows how the program ended; what its allocators kept went with it. */
static bool has_ended(const findings_t *f) {
    const char *status = lowtide_meta(f->m->rec, "exit_status");
    return status && *status;
}

static const char *lead(const findings_t *f) {
    return has_ended(f) ? "this program has ended, and its memory with it: in one that goes on "
                          "behind its peak (a server, a notebook) "
                        : "";
}

static int add(findings_t *f, uint64_t bytes, const char *title, const char *fix) {
    char size[32];
    model_finding_t *x = findings_add(f, "allocator-retention");
    if (!x || !fix) return findings_no_memory(f);
    x->bytes = bytes;
    x->confidence = "high";
    x->late = has_ended(f);
    x->title = findings_text(f, "%s: %s", title, findings_bytes(bytes, size));
    x->fix = findings_text(f, "%s", fix);
    return x->title && x->fix ? 0 : findings_no_memory(f);
}

/* "; 37 arenas (37.0 MiB) stay for 412 Order, held by app.cache" */
static char *say_pins(findings_t *f, const model_pins_t *pins) {
    char *text = findings_text(f, "%s", "");
    char size[32], count[32], arenas[32];
    for (uint32_t i = 0; text && i < pins->count && i < RETENTION_PINS; i++) {
        const model_pin_t *p = &pins->pins[i];
        if (p->bytes < RETENTION_MIN_BYTES / 8) break;
        bool objects = p->objects > 0;
        text = findings_text(f, "%s%s%s %s (%s) %s for %s%s%s%s%s", text, i ? "; " : ". ",
                             findings_count(p->arenas, arenas), p->arenas == 1 ? "arena" : "arenas",
                             findings_bytes(p->bytes, size), p->arenas == 1 ? "stays" : "stay",
                             objects ? findings_count(p->objects, count) : "", objects ? " " : "",
                             objects ? p->type : "blocks that are no objects",
                             p->path ? ", held by " : "", p->path ? p->path : "");
    }
    return text;
}

static int report_pools(findings_t *f, const layers_t *l) {
    model_pins_t pins;
    char size[32];
    int status = model_pins(f->m, RETENTION_PINS, &pins, f->e);
    if (status) return status;
    char *kept = say_pins(f, &pins);
    char *fix = !kept ? NULL
                      : findings_text(f,
                                      "%scall lowtide.free() once the peak is over, or run "
                                      "`lowtide free PID`: %s, without moving an object; or make "
                                      "the peak in a child process (lowtide.isolate), whose memory "
                                      "goes whole%s",
                                      lead(f), findings_bytes(l->pools, size), kept);
    status = add(f, l->pools, "Python's allocator keeps memory that no object uses", fix);
    if (!status && pins.count && pins.pins[0].path) {
        model_finding_t *x = &f->out->findings[f->out->count - 1];
        x->path = findings_text(f, "%s", pins.pins[0].path);
        x->expression = pins.pins[0].expression;
        x->type = findings_text(f, "%s", pins.pins[0].type);
        x->objects = pins.pins[0].objects;
        if (!x->path || !x->type) status = findings_no_memory(f);
    }
    model_pins_free(&pins);
    return status;
}

static int report_heap(findings_t *f, const layers_t *l) {
    char size[32];
    char *fix = findings_text(
        f, "%scall lowtide.free() once the peak is over, or run `lowtide free PID`: %s", lead(f),
        findings_bytes(l->heap, size));
    if (fix && l->tops >= l->heap / RETENTION_WORTH)
        fix = findings_text(
            f,
            "%s; or start the program with MALLOC_TRIM_THRESHOLD_=131072 in its environment: %s, "
            "which lies at the end of heaps",
            fix, findings_bytes(l->tops, size));
    if (fix && l->thread_heaps >= RETENTION_ARENAS && l->threads >= l->heap / RETENTION_WORTH)
        fix = findings_text(
            f, "%s; or with MALLOC_ARENA_MAX=2: up to %s, which lies in %llu heaps of threads", fix,
            findings_bytes(l->threads, size), (unsigned long long)l->thread_heaps);
    if (fix && l->tops < l->heap / RETENTION_WORTH)
        fix = findings_text(
            f,
            "%s. It lies between blocks in use, where no setting of malloc's helps; jemalloc with "
            "a "
            "thread for it gives back by itself, some ten seconds later: start the program with "
            "LD_PRELOAD=libjemalloc.so.2 MALLOC_CONF=background_thread:true, up to %s",
            fix, size);
    return add(f, l->heap, "malloc keeps memory that was freed", fix);
}

/* Arrow keeps what its tables gave back, for the next ones: tens of seconds, or for ever where nobody asks it for more. */
static int report_arrow(findings_t *f, uint64_t floor) {
    model_pool_t pool;
    char size[32];
    int status = model_pool_of(f->m, MODEL_ARROW_POOL, &pool, f->e);
    if (status) return status;
    uint64_t kept = pool.unowned;
    /* What a live object may have is told by the line that made it. */
    bool spare = kept >= floor && model_pool_is_spare(&pool) && !pool.holder;
    model_pool_free(&pool);
    if (!spare) return 0;
    char *fix = findings_text(
        f,
        "%scall pyarrow.default_memory_pool().release_unused() once the peak is over: up to %s, "
        "less what C code has of it (pyarrow.total_allocated_bytes()); or start the program with "
        "ARROW_DEFAULT_MEMORY_POOL=system in its environment, which "
        "keeps less",
        lead(f), findings_bytes(kept, size));
    status = add(f, kept, "pyarrow's memory pool keeps what no Arrow object has", fix);
    if (!status) f->out->findings[f->out->count - 1].confidence = "medium";
    return status;
}

static int read_tables(findings_t *f, layers_t *l) {
    lowtide_table *t;
    lowtide_error error;
    int status = lowtide_table_load(f->m->rec, "ledger", &t, &error);
    if (!status) {
        read_layers(t, l);
        lowtide_table_free(t);
        status = lowtide_table_load(f->m->rec, "heaps", &t, &error);
    }
    if (!status) {
        read_heaps(t, l);
        lowtide_table_free(t);
    }
    return status;
}

int finding_allocator_retention(findings_t *f) {
    layers_t l = {0};
    int status = read_tables(f, &l);
    if (status == -ENOMEM) return findings_no_memory(f);
    status = 0; /* a damaged table tells nothing */
    uint64_t floor = l.rss / RETENTION_SHARE;
    if (floor < RETENTION_MIN_BYTES) floor = RETENTION_MIN_BYTES;
    if (l.pools >= floor) status = report_pools(f, &l);
    if (!status && l.heap >= floor) status = report_heap(f, &l);
    if (!status) status = report_arrow(f, floor);
    return status;
}
