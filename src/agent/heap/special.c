#include "agent/heap/special.h"

#include "agent/heap/blocks.h"

#include <errno.h>

enum {
    HAS_TIME_ZONE = 24, /* a byte: there is a tzinfo */
    DATETIME_ZONE = 40,
    TIME_ZONE = 32,
    TIMEZONE_OFFSET = 16,
    TIMEZONE_NAME = 24,
    LINK_NEXT = 24, /* the wrapper begins with a link of its own, the ring's head */
    LINK_KEY = 40,
    LINK_RESULT = 48,
    LINK_BYTES = 56,
    ORDER_FIRST = 0, /* behind the dict */
    ORDER_BYTES = 64,
    NODE_KEY = 0,
    NODE_NEXT = 16,
    NODE_BYTES = 32,
    BYTESIO_BUFFER = 16,
    STRINGIO_LARGE = 56, /* of 3.11: lists of what was written */
    STRINGIO_SMALL = 64,
};

static void special_field(walk_t *k, kind_t *t, int32_t offset, int32_t guard, uint8_t label,
                          const char *name) {
    if (offset + 8 > t->basicsize) return;
    kind_add_field(t, offset, walk_label(k, label, name, false));
    t->fields[t->field_count - 1].guard = guard;
    t->fields[t->field_count - 1].owned = true;
}

/* An instance of a class in Python that derives from it has room for the zone all the same. */
static void special_zone(walk_t *k, kind_t *t, rt_addr_t c_type, int32_t offset) {
    special_field(k, t, offset, HAS_TIME_ZONE, LOWTIDE_ATTRIBUTE, "tzinfo");
    if (t->type == c_type && t->basicsize == offset + 8) t->naive_bytes = (uint8_t)offset;
}

uint64_t special_less(const kind_t *t, rt_addr_t object) {
    bool naive = t->naive_bytes && !rt_u8(object, HAS_TIME_ZONE);
    return naive ? (uint64_t)t->basicsize - t->naive_bytes : 0;
}

void special_add(walk_t *k, kind_t *t, rt_addr_t c_type) {
    const char *name = (const char *)rt_ptr(c_type, k->lay->type_name);
    if (!name) return;
    if (strcmp(name, "datetime.datetime") == 0) {
        special_zone(k, t, c_type, DATETIME_ZONE);
    } else if (strcmp(name, "datetime.time") == 0) {
        special_zone(k, t, c_type, TIME_ZONE);
    } else if (strcmp(name, "datetime.timezone") == 0) {
        special_field(k, t, TIMEZONE_OFFSET, 0, LOWTIDE_FIELD, "offset");
        special_field(k, t, TIMEZONE_NAME, 0, LOWTIDE_FIELD, "name");
    } else if (strcmp(name, "_io.BytesIO") == 0) {
        special_field(k, t, BYTESIO_BUFFER, 0, LOWTIDE_FIELD, "buffer");
    } else if (strcmp(name, "_io.StringIO") == 0 && k->rt->minor == 11) {
        special_field(k, t, STRINGIO_LARGE, 0, LOWTIDE_FIELD, "written");
        special_field(k, t, STRINGIO_SMALL, 0, LOWTIDE_FIELD, "written last");
    } else if (strcmp(name, "functools._lru_list_elem") == 0 && t->basicsize == LINK_BYTES) {
        special_field(k, t, LINK_KEY, 0, LOWTIDE_FIELD, "key");
        special_field(k, t, LINK_RESULT, 0, LOWTIDE_FIELD, "result");
    } else if (strcmp(name, "functools._lru_cache_wrapper") == 0) {
        t->has_links = t->basicsize > LINK_BYTES;
    }
    if (c_type == k->rt->types.ordered_dict)
        t->has_order = rt_i64(c_type, k->lay->type_basicsize) == k->lay->dict_size + ORDER_BYTES;
}

void special_links(walk_t *k, rt_addr_t wrapper) {
    rt_addr_t link = rt_ptr(wrapper, LINK_NEXT);
    size_t n = k->visited.count, to = 0;
    uint64_t *at = k->visited.at;
    /* An unbounded cache has no links. */
    for (size_t i = 0; i < n; i++) {
        bool told = link && link != wrapper && i + 1 < n && at[i] == rt_ptr(link, LINK_KEY) &&
                    at[i + 1] == rt_ptr(link, LINK_RESULT);
        if (!told) {
            at[to++] = at[i];
            continue;
        }
        i++;
        if (i + 1 < n && at[i + 1] == rt_type(k->rt, link)) i++;
        at[to++] = link;
        link = rt_ptr(link, LINK_NEXT);
    }
    k->visited.count = to;
}

uint32_t special_order(walk_t *k, rt_addr_t dict) {
    holder_t *h = arena_alloc(&k->arena, sizeof *h);
    size_t most = (size_t)rt_i64(dict, k->lay->dict_used);
    if (!h || !(h->objects = arena_alloc(&k->arena, (most + 1) * sizeof *h->objects)))
        return walk_fail(k, -ENOMEM), REC_NULL;
    h->name = "order of an OrderedDict";
    rt_addr_t node = rt_ptr(dict, k->lay->dict_size + ORDER_FIRST);
    for (; node && h->count < most; node = rt_ptr(node, NODE_NEXT)) {
        blocks_note_part(k, node, NODE_BYTES);
        h->objects[h->count++] = rt_ptr(node, NODE_KEY);
    }
    if (holder_vec_push(&k->holders, h)) return walk_fail(k, -ENOMEM), REC_NULL;
    return walk_queue_push(k, (k->holders.count - 1) * 8 | WALK_HOLDER);
}
