#define _GNU_SOURCE
#include "agent/heap/walk.h"
#include "agent/heap/blocks.h"

#include "agent/heap/ahead.h"
#include "agent/heap/edges.h"
#include "agent/heap/fault.h"
#include "agent/heap/handles.h"
#include "agent/heap/kinds.h"
#include "agent/heap/py_text.h"
#include "agent/heap/roots.h"
#include "agent/heap/sizes.h"
#include "agent/heap/values.h"
#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>

/* Before 3.12 what is meant to live for ever has a count that starts at 999,999,999. */
#define WALK_FOREVER 500000000

enum { WALK_SKIPPED_VARIANT = KIND_VARIANTS - 1, WALK_STATUS_EVERY = 4096 };

int walk_fail(walk_t *k, int status) {
    if (!k->status) k->status = status;
    return status;
}

uint32_t walk_queue_push(walk_t *k, uint64_t entry) {
    if (k->queue.count >= REC_NULL - 1) return walk_fail(k, -E2BIG), REC_NULL;
    if (u64_vec_push(&k->queue, entry)) return walk_fail(k, -ENOMEM), REC_NULL;
    return (uint32_t)k->queue.count - 1;
}

uint32_t walk_mention_new(walk_t *k, uint32_t *entry, uint64_t address, unsigned tag) {
    if (!entry) return walk_fail(k, -ENOMEM), REC_NULL;
    uint32_t id = walk_queue_push(k, address | tag);
    if (id != REC_NULL) *entry = id;
    return id;
}

uint32_t walk_mention_dict(walk_t *k, rt_addr_t dict, unsigned tag) {
    uint32_t id = walk_mention(k, dict);
    if (id == REC_NULL || id <= k->id) return id;
    if ((k->queue.at[id] & WALK_TAG_MASK) == WALK_OBJECT) k->queue.at[id] |= tag;
    return id;
}

void walk_emit(walk_t *k, uint32_t shape, uint32_t fixed, uint32_t repeat, uint64_t size,
               uint64_t refcount, unsigned flags) {
    k->emitting = true;
    while (k->edges.count < fixed) walk_edge_id(k, REC_NULL);
    if (repeat == 2 && (k->edges.count - fixed) % 2) walk_edge_id(k, REC_NULL);
    rec_object(k->w, shape, k->address, size, refcount, flags);
    for (size_t i = 0; i < k->edges.count; i++) rec_edge(k->w, k->edges.at[i]);
    if (k->buffer) rec_buffer(k->w, k->buffer);
    if (__builtin_expect(k->untouched != 0, 0) &&
        (u64_vec_push(&k->unused, k->id) || u64_vec_push(&k->unused, k->untouched)))
        walk_fail(k, -ENOMEM);
    k->shallow_bytes += size;
    k->buffer_bytes += k->buffer;
    k->emitting = false;
}

/* Is any static data of a loaded object near? Asked for each object on 3.11, so remembered by the MiB. */
static bool walk_near_static(walk_t *k, rt_addr_t object) {
    uint64_t region = object >> 20;
    unsigned slot = region & (WALK_REGIONS - 1);
    if (k->region_known[slot] != region + 1) {
        rt_addr_t begin = region << 20, end = begin + (1 << 20);
        bool near = false;
        for (uint32_t i = 0; i < k->rt->range_count && !near; i++)
            near = k->rt->ranges[i].begin < end && k->rt->ranges[i].end > begin;
        k->region_known[slot] = region + 1;
        k->region_static[slot] = near;
    }
    return k->region_static[slot];
}

/* References held; 0 for what is never freed. */
static uint64_t walk_refcount(walk_t *k, const kind_t *t, rt_addr_t object) {
    uint64_t n = rt_refcount(k->rt, object);
    if (t->family == FAMILY_TYPE && !(rt_type_flags(k->rt, object) & RT_TPFLAGS_HEAPTYPE)) return 0;
    if (k->rt->minor > 11) return n;
    if (n >= WALK_FOREVER) return 0;
    return walk_near_static(k, object) && rt_is_static(k->rt, object) ? 0 : n;
}

static unsigned walk_flags(walk_t *k, const kind_t *t, rt_addr_t object) {
    if (!t->has_gc || (t->asks_gc && !rt_has_gc_head(k->rt, object, t->type))) return 0;
    unsigned flags = (rt_gc_tracked(k->rt, object) ? LOWTIDE_TRACKED : 0) |
                     (rt_gc_finalized(k->rt, object) ? LOWTIDE_FINALIZED : 0);
    if (k->frozen.count && map_get(&k->frozen, object)) flags |= LOWTIDE_FROZEN;
    return flags;
}

/* An address where no object is. */
static void walk_write_unreadable(walk_t *k) {
    if (k->unreadable_shape == LOWTIDE_NONE) {
        rec_shape_t s = {.kind = LOWTIDE_SHAPE_OTHER,
                         .type = LOWTIDE_NONE,
                         .name = walk_text(k, "unreadable memory"),
                         .module = LOWTIDE_NONE,
                         .repeat_count = 1,
                         .repeat = {{LOWTIDE_REFERENCE, 0, LOWTIDE_NONE}}};
        k->unreadable_shape = rec_shape_add(k->w, &s);
    }
    k->skipped_count++;
    walk_emit(k, k->unreadable_shape, 0, 1, 0, 0, LOWTIDE_SKIPPED);
}

static void walk_write_object(walk_t *k, unsigned tag) {
    rt_addr_t o = k->address;
    kind_t *t = k->kind = kind_of(k, rt_type(k->rt, o));
    if (!t) {
        if (!k->status) walk_write_unreadable(k);
        return;
    }
    if (__builtin_expect(t->handle != HEAP_HANDLE_NONE, 0)) handle_tell(k, t, o);
    edges_form_t form = edges_gather(k, t, tag);
    uint64_t size = size_measure(k, t, o);
    walk_emit(k, form.shape, form.fixed, form.repeat, size, walk_refcount(k, t, o),
              walk_flags(k, t, o));
    value_write(k, t, o);
}

/* After a fault in the middle of an object: what was found of it is written, without saying what it is. */
static void walk_recover(walk_t *k) {
    kind_t *t = k->kind;
    if (k->emitting) {
        walk_fail(k, -EFAULT);
        return;
    }
    if (!t) {
        walk_write_unreadable(k);
    } else {
        uint32_t shape = t->shape[WALK_SKIPPED_VARIANT];
        if (shape == LOWTIDE_NONE) {
            rec_shape_t s = {.kind = LOWTIDE_SHAPE_OBJECT,
                             .type = walk_mention(k, t->type),
                             .name = t->name,
                             .module = t->module,
                             .fixed = k->labels,
                             .fixed_count = 1,
                             .repeat_count = 1,
                             .repeat = {{LOWTIDE_REFERENCE, 1, LOWTIDE_NONE}}};
            k->labels[0] = walk_label(k, LOWTIDE_CLASS, NULL, !t->heap);
            shape = t->shape[WALK_SKIPPED_VARIANT] = rec_shape_add(k->w, &s);
        }
        if (!k->edges.count) walk_edge(k, t->type);
        k->skipped_count++;
        walk_emit(k, shape, 1, 1, (uint64_t)t->basicsize, 1, LOWTIDE_SKIPPED);
    }
    k->id++;
}

static void walk_one(walk_t *k) {
    uint64_t entry = k->queue.at[k->id];
    unsigned tag = entry & WALK_TAG_MASK;
    k->address = entry & ~(uint64_t)WALK_TAG_MASK;
    k->edges.count = 0;
    k->buffer = k->untouched = 0;
    k->kind = NULL;
    if (tag <= WALK_INTERNED && k->id)
        walk_write_object(k, tag);
    else
        roots_write(k, tag);
    if (k->id % WALK_STATUS_EVERY != 0) return;
    int status = rec_status(k->w);
    if (!status && k->options->tick) status = k->options->tick(k->options->tick_arg, k->id);
    if (status) walk_fail(k, status);
}

static void walk_drain(walk_t *k) {
    while (!k->status && k->id < k->queue.count) {
        if (!k->blind) ahead_look(k);
        k->blind = false;
        walk_one(k);
        k->id++;
    }
}

/* The collector's lists, from where a fault may have left them. */
static void walk_lists(walk_t *k) {
    for (; k->list_interp; k->list_interp = rt_interp_next(k->rt, k->list_interp), k->list = 0) {
        for (; k->list < RT_GC_LISTS; k->list++, k->list_at = 0) {
            rt_addr_t head = rt_gc_list(k->rt, k->list_interp, k->list);
            if (!k->list_at) k->list_at = rt_gc_next(k->rt, head);
            while (k->list_at && k->list_at != head && !k->status) {
                rt_addr_t g = k->list_at;
                k->list_at = rt_gc_next(k->rt, g);
                walk_mention(k, rt_from_gc(k->rt, g));
                walk_drain(k);
            }
        }
    }
}

static void walk_run(walk_t *k, fault_t *f) {
    if (fault_mark(f) && !k->status) {
        if (k->looking) k->blind = true;
        /* A fault between two objects is of one of the collector's lists: the rest of it is lost. */
        else if (k->id < k->queue.count)
            walk_recover(k);
        else
            k->list++, k->list_at = 0;
        k->looking = false;
    }
    if (!k->reached) {
        if (!k->prepared) {
            k->prepared = true;
            roots_prepare(k);
        }
        if (!k->queue.count) walk_queue_push(k, 0);
        walk_drain(k);
        k->reached = (uint32_t)k->queue.count;
        k->list_interp = rt_interp_first(k->rt);
    }
    walk_drain(k);
    walk_lists(k);
}

static void walk_close(walk_t *k) {
    side_close(&k->ids);
    u64_vec_free(&k->queue);
    u32_vec_free(&k->edges);
    u64_vec_free(&k->visited);
    u64_vec_free(&k->names);
    u64_vec_free(&k->blocks);
    u64_vec_free(&k->unused);
    kind_vec_free(&k->kinds);
    holder_vec_free(&k->holders);
    root_vec_free(&k->roots);
    map_free(&k->kind_map);
    map_free(&k->code_shapes);
    map_free(&k->frozen);
    map_free(&k->arrow_buffers);
    map_free(&k->name_keys);
    map_free(&k->paths);
    arena_free(&k->arena);
    mem_unmap(k, sizeof *k);
}

static void walk_stats(const walk_t *k, heap_stats_t *stats) {
    *stats = (heap_stats_t){.objects = rec_objects(k->w),
                            .references = rec_references(k->w),
                            .reached = k->reached,
                            .skipped = k->skipped_count,
                            .nonsense = k->nonsense,
                            .shallow_bytes = k->shallow_bytes,
                            .buffer_bytes = k->buffer_bytes,
                            .types = (uint32_t)k->kinds.count};
}

int heap_capture(const rt_t *rt, const heap_options_t *options, rec_writer_t *w,
                 heap_stats_t *stats, err_t *e) {
    uint64_t begin = now_ms();
    *stats = (heap_stats_t){0};
    walk_t *k = mem_map(sizeof *k);
    if (!k) return err_set(e, -ENOMEM, "no memory for the walk; free some, or stop other programs");
    k->rt = rt;
    k->lay = rt->layout;
    k->options = options;
    k->w = w;
    k->unreadable_shape = LOWTIDE_NONE;
    fault_t fault;
    int status = side_open(&k->ids);
    if (!status) {
        status = fault_open(&fault);
        if (!status) {
            walk_run(k, &fault);
            fault_close(&fault);
            blocks_write(k);
            status = k->status ? k->status : rec_status(w);
        }
    }
    walk_stats(k, stats);
    stats->walk_ms = (uint32_t)(now_ms() - begin);
    walk_close(k);
    if (status == -ENOMEM)
        return err_set(e, status, "no memory for the walk; free some, or stop other programs");
    if (status) return err_sys(e, status, "the walk of the heap ended early");
    return 0;
}
