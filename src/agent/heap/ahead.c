#include "agent/heap/ahead.h"

#include "agent/heap/kinds.h"

enum { AHEAD_FAR = 64, AHEAD_MIDDLE = 40, AHEAD_NEAR = 20, AHEAD_TARGETS = 4, AHEAD_INLINE = 8 };
enum { WORD = sizeof(rt_addr_t), LINE = 64 };

static void ahead_fetch(rt_addr_t at) {
    __builtin_prefetch((const void *)at);
}

/* The kind of an object that is near in the queue, if it has been met lately. */
static const kind_t *ahead_kind(const walk_t *k, size_t id, rt_addr_t *object) {
    uint64_t entry = k->queue.at[id];
    if ((entry & WALK_TAG_MASK) > WALK_INTERNED) return NULL;
    *object = entry & ~(uint64_t)WALK_TAG_MASK;
    rt_addr_t type = rt_type(k->rt, *object);
    const kind_t *t = k->kind_cache[type >> 4 & (WALK_KIND_CACHE - 1)];
    return t && t->type == type ? t : NULL;
}

static void ahead_fetch_parts(const walk_t *k, const kind_t *t, rt_addr_t o) {
    if (t->family == FAMILY_LIST)
        ahead_fetch(rt_ptr(o, k->lay->list_items));
    else if (t->family == FAMILY_DICT)
        ahead_fetch(rt_ptr(o, k->lay->dict_keys));
    else if (t->family == FAMILY_SET)
        ahead_fetch(rt_ptr(o, k->lay->set_table));
    if (t->dict == DICT_BESIDE)
        ahead_fetch(rt_ptr(o, -4 * WORD));
    else if (t->dict == DICT_TAGGED)
        ahead_fetch(rt_ptr(o, k->lay->managed_dict_slot));
    else if (t->inline_count)
        ahead_fetch(o + (rt_addr_t)t->basicsize);
}

static void ahead_fetch_entries(const walk_t *k, rt_addr_t at, size_t n) {
    for (size_t i = 0; i < n; i++) {
        rt_addr_t target = rt_ptr(at + i * WORD, 0);
        if (!target || target >> 47) continue;
        const uint32_t *leaf = side_leaf(&k->ids, target);
        if (leaf) __builtin_prefetch(leaf + (target >> 4 & ((1u << SIDE_LEAF_BITS) - 1)));
    }
}

static void ahead_fetch_targets(const walk_t *k, const kind_t *t, rt_addr_t o) {
    size_t n = 0;
    rt_addr_t at = 0;
    if (t->family == FAMILY_LIST || t->family == FAMILY_TUPLE) {
        n = (size_t)rt_i64(o, k->lay->var_size);
        if (n > AHEAD_TARGETS) n = AHEAD_TARGETS;
        at = t->family == FAMILY_LIST ? rt_ptr(o, k->lay->list_items)
                                      : o + (rt_addr_t)k->lay->tuple_items;
    } else if (t->inline_count) {
        n = t->inline_count < AHEAD_INLINE ? t->inline_count : AHEAD_INLINE;
        if (t->dict == DICT_MANAGED)
            at = o + (rt_addr_t)(t->basicsize + k->lay->dict_values_values);
        else if (t->dict == DICT_BESIDE)
            at = rt_ptr(o, -4 * WORD);
        else if (rt_ptr(o, k->lay->managed_dict_slot) & 1)
            at = rt_ptr(o, k->lay->managed_dict_slot) + 1;
    } else if (t->field_count) {
        n = t->field_count < AHEAD_TARGETS ? t->field_count : AHEAD_TARGETS;
        at = o + (rt_addr_t)t->fields[0].offset;
    }
    if (at) ahead_fetch_entries(k, at, n);
}

void ahead_look(walk_t *k) {
    size_t left = k->queue.count - k->id;
    rt_addr_t o;
    const kind_t *t;
    k->looking = true;
    if (left > AHEAD_FAR) {
        rt_addr_t far = k->queue.at[k->id + AHEAD_FAR];
        ahead_fetch(far - 2 * WORD);
        ahead_fetch(far + LINE - 2 * WORD);
    }
    if (left > AHEAD_MIDDLE && (t = ahead_kind(k, k->id + AHEAD_MIDDLE, &o)))
        ahead_fetch_parts(k, t, o);
    if (left > AHEAD_NEAR && (t = ahead_kind(k, k->id + AHEAD_NEAR, &o)))
        ahead_fetch_targets(k, t, o);
    k->looking = false;
}
